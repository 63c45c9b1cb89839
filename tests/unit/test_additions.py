"""What must be true of lists and sets to which elements were added: known good and bad stories."""

from __future__ import annotations

import math

import pytest
from tests.additions import Added, Seen, Story, faults, lost


def added(element: str, begun: float, ended: float = math.inf, length: int = 0) -> Added:
    return Added(element.encode(), begun, ended, length)


def seen(elements: str, begun: float, ended: float) -> Seen:
    return Seen(tuple(element.encode() for element in elements), begun, ended)


def told(elements: str) -> list[bytes]:
    return [element.encode() for element in elements]


GOOD = {
    "nothing": (Story(True), ""),
    "one after the other": (Story(True, [added("a", 0, 1, 1), added("b", 2, 3, 2)], [seen("ab", 4, 5)]), "ab"),
    "a read beside an addition": (Story(True, [added("a", 0, 9, 1)], [seen("", 1, 2), seen("a", 3, 4)]), "a"),
    "one that nobody knows of is there": (Story(True, [added("a", 0)], [seen("", 1, 2), seen("a", 3, 4)]), "a"),
    "or is not": (Story(True, [added("a", 0)], [seen("", 1, 2)]), ""),
    "a set in any order": (Story(False, [added("a", 0, 1), added("b", 0, 1)], [seen("ba", 2, 3)]), "ab"),
    "what was refused is not there": (Story(False, refused={b"a"}), ""),
}

BAD = {
    "lost": (Story(False, [added("a", 0, 1)]), "", "lost: b'a'"),
    "never added": (Story(False), "a", "phantom: b'a' was never added"),
    "refused, and there": (Story(False, refused={b"a"}), "a", "phantom: b'a' was said not to have been added"),
    "there twice": (Story(True, [added("a", 0, 1, 1)]), "aa", "phantom: b'a' is there 2 times"),
    "read, and gone": (Story(False, [added("a", 0)], [seen("a", 1, 2)]), "", "vanished: b'a' was read"),
    "not read after it was acknowledged": (
        Story(True, [added("a", 0, 1, 1)], [seen("", 2, 3)]),
        "a",
        "stale: b'a' was known at 2.000000, and not read then",
    ),
    "not read after it was read": (
        Story(False, [added("a", 0)], [seen("a", 1, 2), seen("", 3, 4)]),
        "a",
        "stale: b'a' was known at 3.000000, and not read then",
    ),
    "in another order": (
        Story(True, [added("a", 0, 9), added("b", 0, 9)], [seen("ba", 1, 9)]),
        "ab",
        "another order: (b'b', b'a') was read at 1.000000",
    ),
    "with another number": (
        Story(True, [added("a", 0, 9, 2), added("b", 0, 9, 2)]),
        "ab",
        "another order: b'a' was said to be number 2",
    ),
}


@pytest.mark.parametrize("name", GOOD)
def test_a_good_story_has_no_faults(name: str) -> None:
    story, final = GOOD[name]
    assert faults(story, told(final)) == []


@pytest.mark.parametrize("name", BAD)
def test_a_bad_story_has_one(name: str) -> None:
    story, final, fault = BAD[name]
    assert faults(story, told(final)) == [fault]


def test_what_is_lost_is_what_was_acknowledged() -> None:
    story = Story(True, [added("a", 0, 1, 1), added("b", 2), added("c", 3, 4, 2)])
    assert lost(story, told("a")) == [b"c"]
