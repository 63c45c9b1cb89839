"""What patterns have to do with each other, against the keys that match them."""

from __future__ import annotations

from itertools import product

from hypothesis import example, given
from hypothesis import strategies as st
from tests.obvious import obvious_match

from helios.placement.patterns import (
    can_match,
    can_match_both,
    includes,
    is_ends,
    literal_beginning,
    literal_ending,
    together,
)

ELEMENTS = ("a", "b", "*", "?", "[ab]", "[^a]", "[]", "\\a", "\\*")
PATTERNS = st.lists(st.sampled_from(ELEMENTS), max_size=5).map("".join)
KEYS = [bytes(key) for size in range(7) for key in product(b"ab*"[: 3 if size < 6 else 2], repeat=size)]


def keys(*patterns: str) -> set[bytes]:
    return {key for key in KEYS if all(obvious_match(pattern.encode(), key) for pattern in patterns)}


@given(PATTERNS, PATTERNS)
@example("a*b", "*ab*")
@example("*", "[]")
@example("a?", "*\\*")
def test_two_patterns_share_a_key_or_none_can_match_both(one: str, other: str) -> None:
    # Each element takes one byte at most, so what two short patterns share has a short key, too.
    if len(one) + len(other) <= 6:
        assert can_match_both([one], [other]) == bool(keys(one, other))
    elif not can_match_both([one], [other]):
        assert not keys(one, other)
    assert can_match_both([one], [other]) == can_match_both([other], [one])


@given(st.lists(PATTERNS, max_size=3), st.lists(PATTERNS, max_size=3))
@example(["*a*"], ["*ab*"])
@example(["a*", "*b"], ["ab"])
def test_what_includes_another_matches_all_of_its_keys(wide: list[str], narrow: list[str]) -> None:
    if includes(wide, narrow):
        assert keys(*narrow) <= keys(*wide)


@given(PATTERNS)
def test_a_pattern_includes_itself_and_everything_includes_it(pattern: str) -> None:
    assert includes([pattern], [pattern])
    assert includes(["*"], [pattern])
    assert includes([], [pattern])


def test_prefixes_are_seen_to_include_each_other() -> None:
    assert includes(["user:*"], ["user:1*"])
    assert includes(["user:*"], ["user:[0-4]*:eu"])
    assert includes(["user:?*"], ["user:1"])
    assert not includes(["user:1*"], ["user:*"])


@given(st.lists(PATTERNS, min_size=1, max_size=3))
def test_fewer_patterns_say_the_same(patterns: list[str]) -> None:
    few = together(patterns)
    assert keys(*few) == keys(*patterns)
    assert 1 <= len(few) <= len(set(patterns))
    assert together(few) == few
    if not can_match(patterns):
        assert not keys(*patterns)


@given(st.lists(PATTERNS, max_size=3))
def test_every_key_has_the_literal_beginning_and_ending(patterns: list[str]) -> None:
    beginning, ending, matching = literal_beginning(patterns), literal_ending(patterns), keys(*patterns)
    assert all(key.startswith(beginning) and key.endswith(ending) for key in matching)
    if is_ends(patterns):
        least = len(beginning) + len(ending)
        assert matching == {k for k in KEYS if len(k) >= least and k.startswith(beginning) and k.endswith(ending)}
