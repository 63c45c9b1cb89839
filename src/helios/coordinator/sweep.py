"""Deleting from a server the keys that it does not own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from helios.coordinator.access import Access
from helios.coordinator.changes import MetKeys
from helios.placement.routing import Routes
from helios.ports.engine import Engine

SCAN_COUNT = 500
_MATCHING_SCAN_COUNT = 5000
_PERSIST_TIMEOUT_S = 10.0
# Where each owner registers the keys of the batch that an import has given it. Nothing is swept during an import.
REGISTER = b"\0helios-import"


def step_of(beginning: bytes) -> int:
    """How many keys a server passes over in one step of a scan: those that it leaves out cost it little."""
    return _MATCHING_SCAN_COUNT if beginning else SCAN_COUNT


async def nothing() -> None:
    """What is to be done before the first deletion, where that is nothing."""


async def make_durable(*engines: Engine) -> None:
    """Return when what these servers have executed is on their disks, as far as they promise. Raises EngineError."""
    await asyncio.gather(*(engine.persist(_PERSIST_TIMEOUT_S) for engine in engines))


async def delete_where(
    engine: Engine,
    condemned: Callable[[bytes], bool],
    before: Callable[[], Awaitable[None]] = nothing,
    after: Callable[[], Awaitable[None]] = nothing,
    beginning: bytes = b"",
    known: list[bytes] | None = None,
) -> int:
    """Delete each key that begins so and for which `condemned` holds; how many there were. Small steps: nobody waits.

    Walks through all keys, unless those among which it is to look are `known`. `before` is awaited once, before the
    first deletion; not at all where there is nothing to delete. `after` is awaited after each step.
    """
    deleted = 0
    async with aclosing(_pages(engine, beginning) if known is None else _steps(known)) as pages:
        async for keys in pages:
            unwanted = [key for key in keys if condemned(key)]
            if unwanted:
                if deleted == 0:
                    await before()
                deleted += await engine.delete(unwanted)
                await after()
    return deleted


async def _pages(engine: Engine, beginning: bytes) -> AsyncGenerator[list[bytes], None]:
    cursor, keys = await engine.scan(0, step_of(beginning), beginning)
    while True:
        yield keys
        if cursor == 0:
            return
        cursor, keys = await engine.scan(cursor, step_of(beginning), beginning)


async def _steps(keys: list[bytes]) -> AsyncGenerator[list[bytes], None]:
    for start in range(0, len(keys), SCAN_COUNT):
        yield keys[start : start + SCAN_COUNT]


def not_owned(routes: Routes, shard: str, *, arriving: frozenset[str] = frozenset()) -> Callable[[bytes], bool]:
    """Whether `shard` has no business with a key: neither owns it nor receives it from a source in `arriving`.

    The register that an import has left behind is nobody's business.
    """

    def condemned(key: bytes) -> bool:
        if key == REGISTER:
            return True
        if routes.owner(key) == shard:
            return False
        pair = routes.pair(key)
        return pair is None or pair[1] != shard or pair[0] not in arriving

    return condemned


async def clear(
    access: Access,
    routes: Routes,
    shard: str,
    before: Callable[[], Awaitable[None]] = nothing,
    after: Callable[[], Awaitable[None]] = nothing,
    beginning: bytes = b"",
    met: MetKeys | None = None,
) -> int:
    """Delete from the shard's leader what begins so and it does not own; how many keys there were.

    Looks among the keys that copies have `met`, if they are given and were all: no second walk is needed then.
    The deletions are on the server's disk when this returns, where it promises that of any write, and at a majority of
    the shard's members: neither a power cut nor another leader brings any of them back. That is waited for also where
    nothing was left to delete, since an earlier attempt, perhaps another coordinator's, may have deleted it just now.
    """
    with access.identity() as identity:
        engine = await access.open_source(shard, identity)
        try:
            known = None if met is None else met.keys((await engine.info()).run_id)
            if known is not None:
                known.append(REGISTER)
            deleted = await delete_where(engine, not_owned(routes, shard), before, after, beginning, known)
            await make_durable(engine)
            await access.on_majority(shard, engine)
            return deleted
        finally:
            await engine.close()
