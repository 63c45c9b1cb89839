"""Durability by patterns of keys: how it is written, and what it means for the whole."""

from __future__ import annotations

import pytest

from helios.model.durability import Durability, durabilities_of, parse_durabilities
from helios.model.sections import Reads, ReplicationSettings


def test_patterns_are_written_in_one_way() -> None:
    assert parse_durabilities(" cache:* = async,a=b=quorum") == "cache:*=async, a=b=quorum"
    assert parse_durabilities("") == ""
    assert durabilities_of("cache:*=async, *=quorum") == (("cache:*", Durability.ASYNC), ("*", Durability.QUORUM))


@pytest.mark.parametrize("text", ["cache:*", "cache:*=sometimes", "=async", "a=async,", "x" * 1025 + "=async"])
def test_what_is_no_pattern_with_a_durability_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        parse_durabilities(text)
    with pytest.raises(ValueError, match="durability_by_key"):
        ReplicationSettings(durability_by_key=text)


@pytest.mark.parametrize(
    ("durability", "by_key", "promises"),
    [
        ("quorum", "", True),
        ("quorum", "*=async", True),
        ("async", "", False),
        ("async", "cache:*=async", False),
        ("async", "order:*=quorum", True),
    ],
)
def test_no_failover_may_lose_what_some_keys_are_promised(durability: str, by_key: str, promises: bool) -> None:
    settings = ReplicationSettings(durability=Durability(durability), durability_by_key=by_key)
    assert settings.promises is promises
    assert settings.altered(reads=Reads.LINEARIZABLE).promises
