"""Rounds: how many followers have all that a leader has executed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.engine_lab import Three
from tests.followers import LONG_S, follow, led

from helios.errors import EngineError, EngineUnreachable
from helios.ports.engine import Engine

SHORT_S = 0.3  # a wait that is meant to pass


async def test_a_round_covers_what_anybody_wrote_before(three: Three) -> None:
    a, b, c = three
    leader, _, _ = await led(three)
    rounds = await a.open()
    b.freeze()
    c.freeze()
    await a.set(leader, b"key", b"1")
    assert await rounds.round(1, SHORT_S) == 0
    b.thaw()
    assert await rounds.round(1, LONG_S) == 1
    c.thaw()
    assert await rounds.round(2, LONG_S) == 2


async def test_a_round_counts_whoever_follows(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    assert await leader.round(0, SHORT_S) == 0
    assert await leader.round(1, SHORT_S) == 0
    await follow(follower, a)
    assert await leader.round(1, LONG_S) == 1
    assert await leader.round(2, 1.0) == 1


@asynccontextmanager
async def round_under_way(three: Three) -> AsyncIterator[tuple[asyncio.Future[int], Engine]]:
    """A round that waits for a follower, which stands still, and another connection to the leader."""
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await follow(follower, a)
    b.freeze()
    begun = asyncio.ensure_future(leader.round(1, LONG_S))
    other = await a.open()
    await other.count()
    yield begun, other
    b.thaw()


async def test_a_round_waits_for_its_followers(three: Three) -> None:
    a, b, _ = three
    async with round_under_way(three) as (begun, writer):
        await a.set(writer, b"key", b"1")  # others go on
        assert not begun.done()
        b.thaw()
        assert await begun == 1


async def test_a_follower_that_dies_in_a_round_does_not_count(three: Three) -> None:
    a, _, c = three
    leader, _, _ = await led(three)
    c.freeze()
    begun = asyncio.ensure_future(leader.round(2, 1.0))
    watch = await a.open()
    await watch.count()
    c.crash()
    assert await begun == 1
    c.restart(detached=True)
    await follow(await c.open(), a)
    assert await leader.round(2, LONG_S) == 2


async def test_a_leader_that_dies_in_a_round_says_nothing(three: Three) -> None:
    async with round_under_way(three) as (begun, _):
        three[0].crash()
        with pytest.raises(EngineUnreachable):
            await begun


async def test_a_leader_that_is_detached_in_a_round_ends_it(three: Three) -> None:
    async with round_under_way(three) as (begun, other):
        await other.detach()
        with pytest.raises(EngineError):
            await begun


async def test_a_follower_begins_no_round(three: Three) -> None:
    a, b, _ = three
    follower = await b.open()
    await follow(follower, a)
    with pytest.raises(EngineError):
        await follower.round(0, SHORT_S)
