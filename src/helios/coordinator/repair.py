"""Mending what a check finds and what is safe to mend: keys that lie where they are not owned."""

from __future__ import annotations

from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from helios.coordinator.access import Access
from helios.coordinator.sweep import SCAN_COUNT, make_durable, not_owned
from helios.errors import EngineError
from helios.model.topology import Topology
from helios.placement.routing import Routes
from helios.ports.engine import BIG_VALUE_BYTES, Engine

_DELETED = "stale copies deleted"
_MOVED = "stray keys moved to their owners"
_KEPT = "stray keys left"


async def repair(access: Access, topology: Topology) -> str:
    """Bring each key that lies where it is not owned to its owner, or delete it where its owner has it too.

    What was done, in a sentence. A key is deleted only where its owner has one of that name. No transition may run
    meanwhile. A server that does not answer is named and left, and what its owner cannot take stays where it is. So
    does what lies on an unclean shard: it may be a move's copy of a key that clients have deleted since.
    """
    away: list[str] = []
    async with AsyncExitStack() as opened:
        identity = opened.enter_context(access.identity())
        engines: dict[str, Engine] = {}
        for shard in topology.shards:
            try:
                engines[shard.id] = await access.open_source(shard.id, identity)
                opened.push_async_callback(engines[shard.id].close)
            except EngineError:
                away.append(shard.id)
        mending = _Mending(access, Routes(topology), topology.unclean, engines)
        for shard_id in engines:
            await mending.mend(shard_id)
    done, reasons = mending.done, mending.reasons
    words = [f"{done[_DELETED]} {_DELETED}", f"{done[_MOVED]} {_MOVED}"]
    if done[_KEPT]:
        words.append(f"{done[_KEPT]} {_KEPT}: {'; '.join(sorted(reasons))}")
    if away:
        words.append(f"not looked at, since they do not answer: {', '.join(away)}")
    return "; ".join(words)


@dataclass
class _Mending:
    access: Access
    routes: Routes
    unclean: frozenset[str]
    engines: dict[str, Engine]
    done: Counter[str] = field(default_factory=Counter)
    reasons: set[str] = field(default_factory=set)

    async def mend(self, shard_id: str) -> None:
        """See to every key of one server."""
        engine, stray = self.engines[shard_id], not_owned(self.routes, shard_id)
        cursor = 0
        while True:
            cursor, keys = await engine.scan(cursor, SCAN_COUNT)
            by_owner: dict[str, list[bytes]] = {}
            for key in sorted({key for key in keys if stray(key)}):
                by_owner.setdefault(self.routes.owner(key), []).append(key)
            for owner, strays in by_owner.items():
                await self._to_owner(shard_id, owner, strays)
            if cursor == 0:
                return

    async def _to_owner(self, shard_id: str, owner: str, strays: list[bytes]) -> None:
        engine, target = self.engines[shard_id], self.engines.get(owner)
        if target is None:
            self._keep(len(strays), f"{owner} does not answer")
            return
        there = await target.exists(strays)
        stale = [key for key, exists in zip(strays, there, strict=True) if exists]
        self.done[_DELETED] += await engine.delete(stale)
        lost = [key for key, exists in zip(strays, there, strict=True) if not exists]
        if shard_id in self.unclean:
            self._keep(len(lost), f"a move has left copies on {shard_id}, which are swept soon")
            return
        sizes = await engine.sizes(lost)
        small = [key for key, size in zip(lost, sizes, strict=True) if size <= BIG_VALUE_BYTES]
        big = [[key] for key, size in zip(lost, sizes, strict=True) if size > BIG_VALUE_BYTES]
        for keys in ([small] if small else []) + big:
            try:
                await self._move(engine, owner, keys)
            except EngineError as error:
                self._keep(len(keys), str(error))

    async def _move(self, engine: Engine, owner: str, keys: list[bytes]) -> None:
        """Move keys that their owner does not have; one that changes meanwhile stays for the next repair."""
        target = self.engines[owner]
        before = await engine.dump(keys)
        items = [(key, value) for key, value in zip(keys, before, strict=True) if value is not None]
        written = await target.restore(items, replace=False)
        await make_durable(target)
        await self.access.on_majority(owner, target)
        now = await engine.dump([key for key, _ in items])
        same = [value is not None and value.payload == was.payload for (_, was), value in zip(items, now, strict=True)]
        await engine.delete([key for (key, _), unchanged in zip(items, same, strict=True) if unchanged])
        moved = sum(one and unchanged for one, unchanged in zip(written, same, strict=True))
        self.done[_MOVED] += moved
        # What a client has written at the owner meanwhile is newer, and all that anybody could read.
        self.done[_DELETED] += sum(same) - moved
        if changed := len(items) - sum(same):
            self._keep(changed, "they changed meanwhile")

    def _keep(self, count: int, reason: str) -> None:
        if count:
            self.done[_KEPT] += count
            self.reasons.add(reason)
