"""Globs against a matcher that follows the servers' rules one byte at a time."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st
from tests.obvious import obvious_match

from helios.placement.glob import compile_glob

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
    assert (compile_glob(pattern).match(key) is not None) == obvious_match(pattern.encode(), key)


@given(st.text(max_size=6), st.binary(max_size=6))
def test_any_text_is_a_pattern(pattern: str, key: bytes) -> None:
    assert (compile_glob(pattern).match(key) is not None) == obvious_match(pattern.encode(), key)


@given(st.binary(max_size=20))
def test_the_star_matches_every_key(key: bytes) -> None:
    assert compile_glob("*").match(key)
    assert compile_glob("**").match(key)


@given(st.text(min_size=1, max_size=12))
def test_an_escaped_text_matches_itself_alone(text: str) -> None:
    escaped = compile_glob("".join(f"\\{char}" for char in text))
    assert escaped.match(text.encode())
    assert not escaped.match(text.encode() + b"\n")
    assert not escaped.match(text.encode()[:-1])


def test_many_stars_and_a_long_key_are_no_trap() -> None:
    """By going back over every combination this would take longer than the age of the universe."""
    assert not compile_glob("*a" * 20 + "*b").match(b"a" * 3000)
    assert compile_glob("*a" * 20 + "*b").match(b"a" * 3000 + b"b")
    assert not compile_glob("*[ab]?" * 20 + "c").match(b"ab" * 2000)
