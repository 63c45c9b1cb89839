"""Hot keys from a sample: those that stand out are found, nothing else is, and the room is bounded."""

from __future__ import annotations

from random import Random

import pytest

from helios.admin.balance import hottest
from helios.admin.router_views import HotKeyView, RouterView
from helios.resp.wire import encode_command
from helios.router.stats.hot_keys import CAPACITY, HotKeys

SECONDS = 30


def watched(draw: Random, per_s: int, hot: dict[bytes, float], cold: int = 100_000) -> HotKeys:
    """After half a minute of commands of which the hot keys get their parts and the rest is spread."""
    hot_keys = HotKeys(0.0)
    keys, parts = list(hot), list(hot.values())
    for quarter in range(SECONDS * 4):
        drawn = draw.choices([*keys, b""], [*parts, 1 - sum(parts)], k=per_s // 4)
        frames = [encode_command([b"GET", key or b"cold:%d" % draw.randrange(cold)]) for key in drawn]
        step = draw.choice((1, 7, 500))
        for start in range(0, len(frames), step):
            hot_keys.passed("shard-1", frames[start : start + step])
        hot_keys.fade((quarter + 1) / 4)
        assert len(hot_keys._counts) <= 2 * CAPACITY
    return hot_keys


@pytest.mark.parametrize("per_s", [400, 4000])
def test_keys_that_stand_out_are_found_with_their_rates(per_s: int) -> None:
    found = watched(Random(per_s), per_s, {b"first": 0.3, b"second": 0.1}).hottest()
    assert [one.key for one in found] == ["first", "second"]
    assert [one.ops for one in found] == pytest.approx([0.3 * per_s, 0.1 * per_s], rel=0.4)


def test_where_none_stands_out_none_is_named() -> None:
    assert watched(Random(3), 4000, {}).hottest() == ()
    assert HotKeys(0.0).hottest() == ()


def test_a_key_that_nobody_asks_for_any_more_is_not_shown_as_hot() -> None:
    hot_keys = watched(Random(5), 1000, {b"once": 0.5})
    hot_keys.fade(SECONDS + 20.0)
    assert hot_keys.hottest() == ()


def test_what_was_hot_is_forgotten_and_follows_its_shard() -> None:
    hot_keys = watched(Random(4), 1000, {b"once": 0.5})
    hot_keys.passed("shard-2", [encode_command([b"GET", b"once"])] * 200)
    assert [(one.key, one.shard) for one in hot_keys.hottest()] == [("once", "shard-2")]
    for minute in range(10):
        hot_keys.fade(SECONDS + 60.0 * (minute + 1))
    assert hot_keys.hottest() == ()


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ([b"MSET", b"a", b"x" * 5000, b"b", b"y"], {"a", "b"}),
        ([b"EVAL", b"return 1", b"1", b"c", b"argument"], {"c"}),
        ([b"SET", b"\xff", b"v"], {"\\xff"}),
        ([b"EVAL", b"return 1", b"9", b"c"], set()),
        ([b"PING"], set()),
        ([b"NEVER", b"heard"], set()),
        ([b"DEL", *(b"k:%d" % n for n in range(3000))], None),
    ],
)
def test_keys_are_those_of_the_commands(command: list[bytes], keys: set[str] | None) -> None:
    hot_keys = HotKeys(0.0)
    hot_keys.passed("shard-1", [encode_command(command)] * 2000)
    hot_keys.fade(1.0)
    if keys is not None:
        assert {one.key for one in hot_keys.hottest()} == keys


def test_routers_are_added_up() -> None:
    one, other = HotKeyView("a", "shard-1", 10.0), HotKeyView("b", "shard-2", 15.0)
    views = [
        RouterView("1", "shard-1", 0, answers=True, error=None, hot_keys=(other, one)),
        RouterView("2", "shard-2", 0, answers=True, error=None, hot_keys=(one,)),
        RouterView("3", "shard-3", 0, answers=False, error="silent"),
    ]
    assert hottest(views) == (HotKeyView("a", "shard-1", 20.0), other)
