"""Globs against a matcher that follows the servers' rules one byte at a time."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from tests.obvious import obvious_match

from helios.placement.glob import Glob

PATTERNS = st.one_of(
    st.text("ab*?[]^-\\", max_size=12),
    st.lists(
        st.sampled_from(
            ["*", "?", "a", "b", "[ab]", "[^a]", "[a-c]", "[c-a]", "[\\]a]", "\\*", "[^", "[a", "[b-", "é"]
        ),
        max_size=7,
    ).map("".join),
)
KEYS = st.one_of(
    st.text("abc*?[]^-\\é", max_size=8).map(str.encode),
    st.binary(max_size=5),
    st.text("ab", max_size=12).map(str.encode),
)


@given(PATTERNS, KEYS)
@example("*a*b", b"aab")
@example("*ab*ab", b"ab")
@example("[a-]", b"b")
@example("[]", b"]")
@example("[^]", b"a")
@example("a\\", b"a\\")
@example("**", b"")
def test_the_expression_matches_where_the_rules_do(pattern: str, key: bytes) -> None:
    assert Glob(pattern).match(key) == obvious_match(pattern.encode(), key)


@given(st.text(max_size=6), st.binary(max_size=6))
def test_any_text_is_a_pattern(pattern: str, key: bytes) -> None:
    assert Glob(pattern).match(key) == obvious_match(pattern.encode(), key)


@given(st.binary(max_size=20))
def test_the_star_matches_every_key(key: bytes) -> None:
    assert Glob("*").match(key)
    assert Glob("**").match(key)


@given(st.text(min_size=1, max_size=12))
def test_an_escaped_text_matches_itself_alone(text: str) -> None:
    escaped = Glob("".join(f"\\{char}" for char in text))
    assert escaped.match(text.encode())
    assert not escaped.match(text.encode() + b"\n")
    assert not escaped.match(text.encode()[:-1])


def test_many_stars_and_a_long_key_are_no_trap() -> None:
    """By going back over every combination this would take longer than the age of the universe."""
    assert not Glob("*a" * 20 + "*b").match(b"a" * 3000)
    assert Glob("*a" * 20 + "*b").match(b"a" * 3000 + b"b")
    assert not Glob("*[ab]?" * 20 + "c").match(b"ab" * 2000)


def test_a_long_part_and_a_long_key_are_no_trap() -> None:
    """Looking for it anew at each byte of the key would take minutes."""
    part = "a" * 30_000
    assert Glob(f"*{part}[bc]?*x").match(b"a" * 65_000 + b"b" + b"x" * 2)
    assert not Glob(f"*{part}[bc]?*x").match(b"a" * 65_000 + b"d" + b"x" * 2)
    assert not Glob("*[" + "a" * 60_000 + "]x*").match(b"a" * 60_000)


ELEMENTS = [("a", b"a"), ("b", b"b"), ("?", b"a"), ("[ab]", b"b"), ("[^b]", b"a"), ("\\a", b"a"), ("[c-a]", b"b")]


@given(
    st.lists(st.sampled_from(ELEMENTS), min_size=40, max_size=140),
    st.text("ab", max_size=100).map(str.encode),
    st.text("ab", max_size=100).map(str.encode),
    st.integers(0, 400),
)
def test_long_parts_are_found_where_they_are(
    elements: list[tuple[str, bytes]], before: bytes, behind: bytes, other: int
) -> None:
    part = "".join(element for element, _ in elements).encode()
    size = len(elements)
    key = before + b"".join(byte for _, byte in elements) + behind
    assert Glob(b"*" + part + b"*").match(key)
    key = key[:other] + b"c" + key[other + 1 :]
    found = any(obvious_match(part, key[i : i + size]) for i in range(len(key) - size + 1))
    assert Glob(b"*" + part + b"*").match(key) == found
