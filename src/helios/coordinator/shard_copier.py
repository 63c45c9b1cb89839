"""Copying the keys that leave one shard: once through, and then whatever changes, until each target is released."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass

from helios.control.transition_state import CaughtUp, CopyBroken, CopyProgressed, Drained, Event, Lagging, Released
from helios.coordinator.access import Access, Identity
from helios.coordinator.changes import Follower, MetKeys
from helios.coordinator.copy_target import CopyTarget
from helios.coordinator.copying import CopyLimits, WriteBehind, copy_batch, in_steps, sort_by_size
from helios.coordinator.rate import RateLimit
from helios.coordinator.sweep import REGISTER, delete_where, not_owned, step_of
from helios.coordinator.verification import Pair, verify
from helios.errors import CopyDiffers, EngineError, NotFound, PayloadRefused, TooHot
from helios.placement.plan import beginning_of
from helios.placement.routing import Routes
from helios.ports.engine import Engine
from helios.ports.failpoints import OFF, Failpoints, Point

_ROUND_S = 0.02
_GAINLESS_ROUNDS = 3
_LOOKS = 3  # at what changes unnamed, if every one finds something
_GAIN = 0.8  # a round that is not smaller than this part of the one before it has gained nothing


@dataclass(slots=True)
class PairProgress:
    """What users see of one pair's copy. `expected` is an estimate until the first pass is through."""

    moved: int = 0
    expected: int = 0
    catching_up: bool = False
    verified: int = 0


@dataclass(frozen=True, slots=True)
class _Request:
    """Something asked of the running copy: drain the target, resume after a lifted fence, or release it."""

    kind: str
    target: str


class ShardCopier:
    """One copy of one source, for all its targets; a new one for each attempt.

    A key's copies are made by one task at a time, in order, so that they never overtake each other. Changes
    that arrive while a key is being copied are named by the source and put it into the next round. So does what
    becomes of copies on the target without this copier: evictions, and whatever scripts and strangers do there.
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
        bandwidth: RateLimit,
        limits: CopyLimits,
        met: MetKeys | None = None,
        failpoints: Failpoints = OFF,
    ) -> None:
        self.source = source
        self.progress = {target: PairProgress() for target in targets}
        self._met = MetKeys() if met is None else met
        self._access = access
        self._routes = routes
        self._report = report
        self._rate = rate
        self._bandwidth = bandwidth
        self._limits = limits
        self._failpoints = failpoints
        self._requests: asyncio.Queue[_Request] = asyncio.Queue()
        self._targets: dict[str, CopyTarget] = {}

    def drain(self, target: str) -> None:
        """Copy the pair's last changes, behind its fence, and report Drained."""
        self._requests.put_nowait(_Request("drain", target))

    def resume(self, target: str) -> None:
        """The fence was lifted: announce the pair again when it has caught up."""
        self._requests.put_nowait(_Request("resume", target))

    def release(self, target: str) -> None:
        """The pair has switched: its keys are no longer followed. The last release ends the mover."""
        self._requests.put_nowait(_Request("release", target))

    def durable(self, target: str) -> bool:
        """Whether all that was copied to a target, which is not released yet, is on its disk as far as it promises."""
        state = self._targets.get(target)
        return state is not None and state.durable

    async def run(self) -> None:
        """Copy until every target is released, which is reported as Released; a failure is reported as CopyBroken."""
        try:
            async with AsyncExitStack() as opened:
                identity = opened.enter_context(self._access.identity())
                source = await self._access.open_source(self.source, identity)
                opened.push_async_callback(source.close)
                self._met.run_id = (await source.info()).run_id
                beginning = beginning_of(self._routes().topology, self.source)
                stream = await source.changes(beginning=beginning)
                follower = await opened.enter_async_context(Follower(stream, self._note))
                for target in self.progress:
                    await self._open_target(source, target, identity, opened)
                await self._clear_leftovers()
                await self._first_pass(source, follower, beginning)
                if self._limits.verify:
                    for target in self._targets:
                        await self._verify(source, follower, target)
                self._report(CopyProgressed(self.source))
                await self._follow(follower)
        except (EngineError, NotFound) as error:
            fatal = isinstance(error, PayloadRefused | TooHot | CopyDiffers)
            self._report(CopyBroken(self.source, f"{self.source}: {error}", fatal))
        else:
            self._report(Released(self.source))

    async def _open_target(self, source: Engine, target: str, identity: Identity, opened: AsyncExitStack) -> None:
        engine = await self._access.open(self._access.leader(target), identity)
        opened.push_async_callback(engine.close)

        async def note(changed: Collection[bytes]) -> None:
            await self._note_dropped(target, changed)

        stream = await engine.changes(own=False)
        follower = await opened.enter_async_context(Follower(stream, note))
        fsync = (await engine.info()).aof_fsync
        state = CopyTarget(source, engine, follower, self._limits, self._bandwidth.take, fsync=fsync)
        opened.push_async_callback(state.stop)
        self._targets[target] = state

    async def _clear_leftovers(self) -> None:
        """Remove what earlier copies left: a key deleted on the source since then must not come back."""
        routes = self._routes()
        transition = routes.topology.transition
        unclean = frozenset() if transition is None else transition.unclean
        for target, state in self._targets.items():
            arriving = {source for source, other in _unswitched(routes) if other == target and source != self.source}
            condemned = not_owned(routes, target, arriving=frozenset(arriving))
            beginning = beginning_of(routes.topology, target)
            cleared = await delete_where(state.engine, condemned, beginning=beginning)
            # Once the target owns such a key, a power cut must not bring it back, nor one that it had lost before.
            state.unsynced = cleared > 0 or target in unclean

    async def _first_pass(self, source: Engine, follower: Follower, beginning: bytes) -> None:
        total = await source.count()
        seen = 0
        step = step_of(beginning)
        found = dict.fromkeys(self._targets, 0)
        waiting: dict[str, list[bytes]] = {target: [] for target in self._targets}
        async with WriteBehind() as writing:
            cursor, keys = await source.scan(0, step, beginning)
            while True:
                seen += step if beginning else len(keys)
                for target, mine in self._by_target(set(keys)).items():
                    self._met.add(mine)
                    found[target] += len(mine)
                    waiting[target] += mine
                    # The rest of the keyspace is taken to be like the part that was seen.
                    ahead = found[target] / max(1, seen) * max(0, total - seen)
                    self.progress[target].expected = found[target] + round(ahead)
                over = cursor == 0
                for target, mine in waiting.items():
                    if mine and (over or len(mine) >= self._limits.batch_keys):
                        waiting[target] = []
                        await self._copy_first(source, target, mine, writing)
                if over:
                    break
                self._check(follower)
                cursor, keys = await source.scan(cursor, step, beginning)
        for target, state in self._targets.items():
            copied = len(state.big.changed)
            await state.big.copy_all()
            self.progress[target].moved += copied
            state.unsynced |= self.progress[target].moved > 0
        for target, progress in self.progress.items():
            progress.expected = found[target]
            progress.catching_up = True

    async def _copy_first(self, source: Engine, target: str, keys: list[bytes], writing: WriteBehind) -> None:
        """Copy small values now, at most at the rates that are set; big ones wait for the end of the pass."""
        state = self._targets[target]
        pace = self._bandwidth.take
        by_size = sort_by_size(keys, await source.sizes(keys), self._limits)
        state.big.changed.update(by_size.big)
        await self._rate.take(len(by_size.big))
        for batch in by_size.batches:
            await self._rate.take(len(batch))
            self.progress[target].moved += await copy_batch(source, state.engine, batch, pace, writing, state.streams)
            await self._failpoints.reach(Point.COPYING)

    def _check(self, follower: Follower) -> None:
        """Raise what has ended a change stream: then everything is to be copied again."""
        follower.check()
        for state in self._targets.values():
            state.follower.check()

    async def _verify(self, source: Engine, follower: Follower, target: str) -> None:
        """Compare the copies of one pair with their sources; what differs is copied again."""
        state = self._targets[target]
        progress = self.progress[target]

        def mine(key: bytes) -> bool:
            return key != REGISTER and self._routes().pair(key) == (self.source, target)

        async def take(keys: int, size: int) -> None:
            await self._rate.take(keys)
            await self._bandwidth.take(size)

        async def copy_again(keys: Collection[bytes]) -> None:
            state.changed.add(keys)
            state.unsynced = True
            await state.copy_changed()
            await state.big.copy_all()

        async def named() -> Collection[bytes]:
            await asyncio.gather(follower.look(), state.follower.look())
            return state.changed.keys | state.big.changed | state.streams | state.big.keys

        def equal(count: int) -> None:
            progress.verified += count

        await verify(Pair(source, state.engine, target, mine, take, copy_again, named, equal))

    async def _follow(self, follower: Follower) -> None:
        """Rounds of copying what has changed; requests are served in between."""
        while self._targets:
            try:
                request = await asyncio.wait_for(self._requests.get(), _ROUND_S)
            except TimeoutError:
                request = None
            if request is not None and request.kind == "release":
                state = self._targets.pop(request.target)
                await state.stop()
                await state.follower.stop()
                continue
            if request is not None and request.kind == "resume":
                self._targets[request.target].announced = False
                self._targets[request.target].drained = False
            if request is None and self._gives_way():
                continue
            self._check(follower)
            if request is not None and request.kind == "drain":
                await self._drain(follower, request.target)
            else:
                await follower.look()
            for target, state in self._targets.items():
                if not state.drained:
                    await self._catch_up(target, state)

    def _gives_way(self) -> bool:
        """Whether clients wait for the last keys of another source."""
        return any(fence.shard != self.source for fence in self._routes().topology.fences)

    async def _catch_up(self, target: str, state: CopyTarget) -> None:
        count, dropped = state.left(), state.dropped
        await state.copy_changed()
        if state.announced or count <= self._limits.fence_budget_keys:
            if await state.syncing() or state.announced:
                await state.look_while_waiting()
                return
            await state.follower.look()
            if await state.look() and state.looks < _LOOKS:
                state.looks += 1
                return
            if state.left() <= self._limits.fence_budget_keys and await state.big.ready() and state.synced():
                state.announce()
                await self._failpoints.reach(Point.CATCHING_UP)
                self._report(CaughtUp(self.source, target))
            return
        state.gainless = state.gainless + 1 if count > state.last_round * _GAIN else 0
        state.last_round = count
        if state.gainless >= _GAINLESS_ROUNDS:
            state.gainless = 0
            if 2 * dropped > count:
                raise CopyDiffers(
                    f"{target} loses copies as fast as they are made: see whether it evicts keys for want of memory "
                    "(maxmemory), or who changes them there"
                )
            self._report(Lagging(self.source, target))

    async def _drain(self, follower: Follower, target: str) -> None:
        state = self._targets[target]
        # What becomes of whole copies after this look might as well come after the switch, before which nobody sees
        # their keys.
        await state.follower.look()
        await state.look()
        # Keys may still expire behind the fence; a second look leaves nothing of that out.
        for _ in range(2):
            await follower.look()
            await state.copy_changed()
            await state.big.finish()
        if state.big.changed:
            raise EngineError(f"{len(state.big.changed)} big values changed behind their fence")
        if state.big.keys:
            # One that was lost between two steps of its copy is there in part.
            await state.follower.look()
            if state.dropped:
                raise EngineError(
                    f"{target} lost {state.dropped} copies while big values were copied behind their fence"
                )
        await state.finish()
        await self._access.on_majority(target, state.engine)
        state.drained = True
        self._report(Drained(self.source, target))

    async def _note(self, changed: Collection[bytes]) -> None:
        """Keep what has changed for the next round, letting others go on meanwhile: a pair may be fenced."""
        for keys in in_steps(list(changed)):
            for target, mine in self._by_target(keys).items():
                self._met.add(mine)
                self._targets[target].changed.add(mine)
            await asyncio.sleep(0)

    async def _note_dropped(self, target: str, changed: Collection[bytes]) -> None:
        """Copies on a target are no longer what they were made: they are made again."""
        for keys in in_steps(list(changed)):
            mine = self._by_target(keys).get(target, ())
            if mine:
                state = self._targets[target]
                state.big.forget(mine)
                state.changed.add(mine)
                state.dropped += len(mine)
            await asyncio.sleep(0)

    def _by_target(self, keys: Iterable[bytes]) -> dict[str, list[bytes]]:
        """The keys that leave this source for a target that is still to be served."""
        routes = self._routes()
        leaving: dict[str, list[bytes]] = {}
        for key in keys:
            pair = routes.pair(key)
            # The register of an import stays where it is until it is swept.
            if pair is not None and pair[0] == self.source and pair[1] in self._targets and key != REGISTER:
                leaving.setdefault(pair[1], []).append(key)
        return leaving


def _unswitched(routes: Routes) -> list[tuple[str, str]]:
    transition = routes.topology.transition
    if transition is None:
        return []
    return [(pair.source, pair.target) for pair in transition.pairs if pair.phase != "switched"]
