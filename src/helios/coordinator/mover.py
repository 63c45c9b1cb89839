"""Copying the keys that leave one shard: once through, and then whatever changes, until each target is released."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from helios.control.transition import CaughtUp, CopyBroken, CopyProgressed, Drained, Event, Lagging
from helios.coordinator.access import Access, Identity
from helios.coordinator.rate import RateLimit
from helios.coordinator.sweep import SCAN_COUNT, delete_where, not_owned
from helios.errors import EngineError, NotFound, PayloadRefused
from helios.placement.routing import Routes
from helios.ports.engine import ChangeStream, Engine
from helios.ports.failpoints import OFF, Failpoints, Point

_ROUND_S = 0.02
_GAINLESS_ROUNDS = 3
_GAIN = 0.8  # a round that is not smaller than this part of the one before it has gained nothing
_PERSIST_TIMEOUT_S = 10.0
_FENCED_PERSIST_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """How much is copied at a time, and how little may be left when the fence is asked for."""

    batch_keys: int
    fence_budget_keys: int


@dataclass(slots=True)
class PairProgress:
    """What users see of one pair's copy. `expected` is an estimate until the first pass is through."""

    moved: int = 0
    expected: int = 0
    catching_up: bool = False


@dataclass(frozen=True, slots=True)
class _Request:
    """Something asked of the running copy: drain the target, resume after a lifted fence, or release it."""

    kind: str
    target: str


@dataclass(slots=True)
class _Target:
    engine: Engine
    every_write_synced: bool
    changed: set[bytes] = field(default_factory=set)
    last_round: int = 0
    gainless: int = 0
    announced: bool = False
    drained: bool = False  # it may own its keys from now on, also if nobody here learns of the switch


class SourceMover:
    """One copy of one source, for all its targets; made anew for each attempt.

    A single task does all the copying, in order: a key's copies can never overtake each other. Changes
    that arrive while a key is being copied are named by the source and put it into the next round.
    """

    def __init__(
        self,
        source: str,
        targets: Iterable[str],
        *,
        access: Access,
        routes: Callable[[], Routes],
        report: Callable[[Event], None],
        rate: RateLimit,
        limits: CopyLimits,
        failpoints: Failpoints = OFF,
    ) -> None:
        self.source = source
        self.progress = {target: PairProgress() for target in targets}
        self._access = access
        self._routes = routes
        self._report = report
        self._rate = rate
        self._limits = limits
        self._failpoints = failpoints
        self._requests: asyncio.Queue[_Request] = asyncio.Queue()
        self._targets: dict[str, _Target] = {}

    def drain(self, target: str) -> None:
        """Copy the pair's last changes, behind its fence, and report Drained."""
        self._requests.put_nowait(_Request("drain", target))

    def resume(self, target: str) -> None:
        """The fence was lifted: announce the pair again when it has caught up."""
        self._requests.put_nowait(_Request("resume", target))

    def release(self, target: str) -> None:
        """The pair has switched: its keys are no longer followed. The last release ends the mover."""
        self._requests.put_nowait(_Request("release", target))

    async def run(self) -> None:
        """Copy until every target is released; a failure is reported as CopyBroken."""
        try:
            async with AsyncExitStack() as opened:
                identity = opened.enter_context(self._access.identity())
                source = await self._open(self.source, identity, opened)
                stream = await source.changes()
                opened.push_async_callback(stream.close)
                for target in self.progress:
                    engine = await self._open(target, identity, opened)
                    self._targets[target] = _Target(engine, (await engine.info()).aof_fsync == "always")
                await self._clear_leftovers()
                await self._first_pass(source)
                await self._make_durable()
                self._report(CopyProgressed(self.source))
                await self._follow(source, stream)
        except (EngineError, NotFound) as error:
            fatal = isinstance(error, PayloadRefused)
            self._report(CopyBroken(self.source, f"{self.source}: {error}", fatal))

    async def _open(self, shard: str, identity: Identity, opened: AsyncExitStack) -> Engine:
        engine = await self._access.open(self._access.leader(shard), identity)
        opened.push_async_callback(engine.close)
        return engine

    async def _clear_leftovers(self) -> None:
        """Remove what earlier copies left: a key deleted on the source since then must not come back."""
        routes = self._routes()
        for target, state in self._targets.items():
            arriving = {source for source, other in _unswitched(routes) if other == target and source != self.source}
            await delete_where(state.engine, not_owned(routes, target, arriving=frozenset(arriving)))

    async def _first_pass(self, source: Engine) -> None:
        total = await source.count()
        seen = 0
        cursor = 0
        found = dict.fromkeys(self._targets, 0)
        while True:
            cursor, keys = await source.scan(cursor, SCAN_COUNT)
            seen += len(keys)
            leaving = self._by_target(set(keys))
            for target, mine in leaving.items():
                found[target] += len(mine)
                # The rest of the keyspace is taken to be like the part that was seen.
                ahead = found[target] / seen * max(0, total - seen)
                self.progress[target].expected = found[target] + round(ahead)
            for target, mine in leaving.items():
                for batch in _batches(mine, self._limits.batch_keys):
                    await self._rate.take(len(batch))
                    self.progress[target].moved += await self._copy(source, self._targets[target], batch)
                    await self._failpoints.reach(Point.COPYING)
            if cursor == 0:
                break
        for target, progress in self.progress.items():
            progress.expected = found[target]
            progress.catching_up = True

    async def _make_durable(self) -> None:
        """The bulk reaches the disks before any fence, so that no pause has to wait for that."""
        filled = [state.engine for target, state in self._targets.items() if self.progress[target].moved]
        await asyncio.gather(*(engine.persist(_PERSIST_TIMEOUT_S) for engine in filled))

    async def _follow(self, source: Engine, stream: ChangeStream) -> None:
        """Rounds of copying what has changed; requests are served in between."""
        while self._targets:
            try:
                request = await asyncio.wait_for(self._requests.get(), _ROUND_S)
            except TimeoutError:
                request = None
            if request is not None and request.kind == "release":
                del self._targets[request.target]
                continue
            if request is not None and request.kind == "resume":
                self._targets[request.target].announced = False
                self._targets[request.target].drained = False
            self._note(await stream.barrier())
            if request is not None and request.kind == "drain":
                await self._drain(source, stream, request.target)
            for target, state in self._targets.items():
                if not state.drained:
                    await self._catch_up(source, target, state)

    async def _catch_up(self, source: Engine, target: str, state: _Target) -> None:
        changed, state.changed = state.changed, set()
        for batch in _batches(sorted(changed), self._limits.batch_keys):
            await self._copy(source, state, batch)
        if state.announced:
            return
        if len(changed) <= self._limits.fence_budget_keys:
            state.announced = True
            await self._failpoints.reach(Point.CATCHING_UP)
            self._report(CaughtUp(self.source, target))
            return
        state.gainless = state.gainless + 1 if len(changed) > state.last_round * _GAIN else 0
        state.last_round = len(changed)
        if state.gainless >= _GAINLESS_ROUNDS:
            state.gainless = 0
            self._report(Lagging(self.source, target))

    async def _drain(self, source: Engine, stream: ChangeStream, target: str) -> None:
        state = self._targets[target]
        changed, state.changed = state.changed, set()
        for batch in _batches(sorted(changed), self._limits.batch_keys):
            await self._copy(source, state, batch)
        # Keys may still expire behind the fence; a second look leaves nothing of that out.
        self._note(await stream.barrier())
        changed, state.changed = state.changed, set()
        await self._copy(source, state, sorted(changed))
        if state.every_write_synced:
            await state.engine.persist(_FENCED_PERSIST_TIMEOUT_S)
        state.drained = True
        self._report(Drained(self.source, target))

    def _note(self, changed: set[bytes]) -> None:
        for target, keys in self._by_target(changed).items():
            self._targets[target].changed.update(keys)

    def _by_target(self, keys: set[bytes]) -> dict[str, list[bytes]]:
        """The keys that leave this source for a target that is still to be served."""
        routes = self._routes()
        leaving: dict[str, list[bytes]] = {}
        for key in keys:
            pair = routes.pair(key)
            if pair is not None and pair[0] == self.source and pair[1] in self._targets:
                leaving.setdefault(pair[1], []).append(key)
        return leaving

    async def _copy(self, source: Engine, target: _Target, keys: list[bytes]) -> int:
        """Make the target's copies of the keys equal to the source's; how many the source had."""
        if not keys:
            return 0
        values = await source.dump(keys)
        present = [(key, value) for key, value in zip(keys, values, strict=True) if value is not None]
        absent = [key for key, value in zip(keys, values, strict=True) if value is None]
        if present:
            await target.engine.restore(present)
        if absent:
            await target.engine.delete(absent)
        return len(present)


def _unswitched(routes: Routes) -> list[tuple[str, str]]:
    transition = routes.topology.transition
    if transition is None:
        return []
    return [(pair.source, pair.target) for pair in transition.pairs if pair.phase != "switched"]


def _batches(keys: list[bytes], size: int) -> Iterable[list[bytes]]:
    return (keys[start : start + size] for start in range(0, len(keys), size))
