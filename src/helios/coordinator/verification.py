"""Comparing what was copied with what it was copied from, before anything depends on it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from contextlib import aclosing
from dataclasses import dataclass

from helios.coordinator.sweep import SCAN_COUNT
from helios.errors import CopyDiffers
from helios.ports.engine import Engine

_BATCH_KEYS = 200
_SMALL_BYTES = 16 << 10  # up to here a value is compared as its server writes it, which costs less than a digest
_LOOKS = 5  # at a difference that no change explains
_ROUNDS_MAX = 20  # of looking at keys that change all the time
# Clocks may differ: what has ended on one server and not on the other is given time to end on both.
_BETWEEN_LOOKS_S = (0.0, 0.05, 0.2, 1.0, 2.0)


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair's two servers, and what its copy does for whoever compares them.

    `mine` tells whether a key belongs to the pair. `take` is awaited with keys and bytes before they are read.
    `copy_again` makes the target's copies of keys equal to the source's. `named` gives every key of the pair that
    was changed on the source before the call, at least those since the last one. `equal` is told how many
    copies were found equal.
    """

    source: Engine
    target: Engine
    name: str
    mine: Callable[[bytes], bool]
    take: Callable[[int, int], Awaitable[None]]
    copy_again: Callable[[Collection[bytes]], Awaitable[None]]
    named: Callable[[], Awaitable[Collection[bytes]]]
    equal: Callable[[int], None]


async def verify(pair: Pair) -> None:
    """Compare every key of the pair on both servers; one that differs is copied and compared again.

    A key that is being changed may differ: the source names it then. One that changes all the time is left to
    the rounds that follow changes. Raises CopyDiffers for a key that differs although nobody changes it.
    """
    suspects: set[bytes] = set()
    async with aclosing(_pages(pair.source)) as pages:
        async for keys in pages:
            mine = sorted(set(filter(pair.mine, keys)))
            for start in range(0, len(mine), _BATCH_KEYS):
                suspects |= await _compare(pair, mine[start : start + _BATCH_KEYS])
            await pair.named()  # which keeps what has been named from piling up
    async with aclosing(_pages(pair.target)) as pages:
        async for keys in pages:
            mine = sorted(set(filter(pair.mine, keys)))
            there = await pair.source.exists(mine)
            suspects |= {key for key, exists in zip(mine, there, strict=True) if not exists}
    await _settle(pair, suspects)


async def differing(source: Engine, target: Engine, keys: list[bytes], sizes: list[int]) -> set[bytes]:
    """The keys whose values or ends are not the same on both servers; `sizes` are about those of the source's values.

    A value that changes while it is compared counts as differing, or as what it was.
    """
    small = [key for key, size in zip(keys, sizes, strict=True) if size <= _SMALL_BYTES]
    theirs = await target.sizes(small)
    small = [key for key, size in zip(small, theirs, strict=True) if size <= _SMALL_BYTES]
    mine, copies = await asyncio.gather(source.dump(small), target.dump(small))
    same = {key for key, one, other in zip(small, mine, copies, strict=True) if one == other}
    left = [key for key in keys if key not in same]
    digests, others = await asyncio.gather(source.digests(left), target.digests(left))
    return {key for key, one, other in zip(left, digests, others, strict=True) if one != other or one == b""}


async def _compare(pair: Pair, keys: list[bytes]) -> set[bytes]:
    sizes = await pair.source.sizes(keys)
    await pair.take(len(keys), sum(sizes))
    different = await differing(pair.source, pair.target, keys, sizes)
    pair.equal(len(keys) - len(different))
    return different


async def _settle(pair: Pair, suspects: set[bytes]) -> None:
    """Copy and compare again until all are equal, or only such are left that change all the time."""
    looks: Counter[bytes] = Counter()
    for _ in range(_ROUNDS_MAX):
        if not suspects:
            return
        await pair.copy_again(suspects)
        different: set[bytes] = set()
        ordered = sorted(suspects)
        for start in range(0, len(ordered), _BATCH_KEYS):
            different |= await _compare(pair, ordered[start : start + _BATCH_KEYS])
        unexplained = different - set(await pair.named())
        looks.update(unexplained)
        lasting = [key for key in sorted(unexplained) if looks[key] >= _LOOKS]
        if lasting:
            raise CopyDiffers(
                f"the copy of {lasting[0][:100]!r} on {pair.name} differs from its source although nobody changes it "
                f"({len(lasting)} such keys, looked at {_LOOKS} times): see whether that server evicts or "
                "changes keys by itself"
            )
        suspects = different
        if unexplained:
            await asyncio.sleep(_BETWEEN_LOOKS_S[max(looks[key] for key in unexplained)])


async def _pages(engine: Engine) -> AsyncGenerator[list[bytes], None]:
    cursor, keys = await engine.scan(0, SCAN_COUNT)
    while True:
        yield keys
        if cursor == 0:
            return
        cursor, keys = await engine.scan(cursor, SCAN_COUNT)
