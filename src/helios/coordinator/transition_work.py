"""What a transition has done: each piece of work runs as a task and reports as an event what came of it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from helios.control import transition_state as control
from helios.control.transition_state import Event
from helios.coordinator.changes import MetKeys
from helios.coordinator.copying import CopyLimits
from helios.coordinator.functions import bring_functions, is_new, open_both
from helios.coordinator.migration_records import MigrationRecords
from helios.coordinator.shard_copier import ShardCopier
from helios.coordinator.sweep import clear, make_durable
from helios.coordinator.term_context import TermContext
from helios.errors import EngineError, NotFound
from helios.model.migration import MigrationPhase
from helios.model.topology import Transition
from helios.placement.plan import beginning_of
from helios.placement.routing import Routes
from helios.ports.engine import Engine
from helios.ports.failpoints import Point
from helios.ports.store import Put

_SETTLE_TIMEOUT_S = 3.5  # with fence_ack_timeout, less than routers hold a command by default
_RESUME_DELAY_S = 0.5


class TaskSet:
    """Tasks that are ended together; `failed` is told of what any of them raises."""

    def __init__(self, failed: Callable[[BaseException], None]) -> None:
        self._failed = failed
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, work: Coroutine[None, None, None]) -> None:
        """Begin the work."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed(error)

    async def cancel(self) -> None:
        """Return when none is left."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Fence:
    """What is done while a pair is fenced, and whether its fence has been published."""

    tasks: TaskSet
    published: asyncio.Event = field(default_factory=asyncio.Event)


class TransitionWork:
    """The copies, fences and sweeps of one transition.

    `routes` are those by which copies tell whose a key is: whoever publishes a topology puts its routes here. `owed`
    are the shards from which no key had to go, and whose disks are to be waited for when the transition has ended.
    """

    def __init__(
        self,
        context: TermContext,
        records: MigrationRecords,
        report: Callable[[Event], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        coordinator = context.settings.coordinator
        self.routes = Routes(context.publisher.topology)
        self.owed: dict[str, MetKeys] = {}
        self._context = context
        self._publisher = context.publisher
        self._access = context.access
        self._failpoints = context.failpoints
        self._records = records
        self._report = report
        self._fencing = context.fencing
        self._limits = CopyLimits(
            coordinator.copy_batch,
            coordinator.fence_budget,
            verify=records.change.verify or context.settings.sharding.verify_moves,
        )
        self._copiers: dict[str, ShardCopier] = {}
        self._switched: set[tuple[str, str]] = set()  # the pairs that were copied and switched here
        self._durable: set[tuple[str, str]] = set()  # and of these the ones whose targets had all on their disks
        self._met: defaultdict[str, MetKeys] = defaultdict(MetKeys)  # by source, in all of its copies
        self._tasks = TaskSet(failed)
        self._fences: dict[tuple[str, str], _Fence] = {}  # by pair
        self._failed = failed

    # What can be asked for

    def copy(self, source: str, targets: tuple[str, ...], delay_s: float) -> None:
        """Copy what the source's pairs move, and follow its changes."""
        self._tasks.start(self._copy(source, targets, delay_s))

    def resume(self, source: str, target: str) -> None:
        """Let the pair catch up again before it is fenced once more."""
        self._tasks.start(self._resume_later(source, target))

    def prepare_fence(self, source: str, target: str) -> None:
        """A fence of the pair is about to be published: what it needs is opened before clients wait for it."""
        fence = self._fences[source, target] = _Fence(TaskSet(self._failed))
        fence.tasks.start(self._settle_fence(source, target, fence.published))

    def settle_fence(self, source: str, target: str) -> None:
        """Wait until no router can send what the pair's fence holds, up to a time. The fence was prepared."""
        fence = self._fences[source, target]
        fence.published.set()
        fence.tasks.start(self._lift_after_timeout(source, target))

    def drain(self, source: str, target: str) -> None:
        """Copy the pair's last keys."""
        if source in self._copiers:
            self._copiers[source].drain(target)

    def sweep(self, transition: Transition, shard: str, delay_s: float) -> None:
        """Delete what has left the shard."""
        self._tasks.start(self._sweep(transition, shard, delay_s))

    async def end_fence(self, source: str, target: str) -> None:
        """Return when nobody waits for the pair's fence any more."""
        fence = self._fences.pop((source, target), None)
        if fence is not None:
            await fence.tasks.cancel()

    async def stop(self) -> None:
        """Return when nothing is under way any more."""
        self._copiers.clear()
        await self._tasks.cancel()
        for pair in list(self._fences):
            await self.end_fence(*pair)

    # What has happened

    def switched(self, source: str, target: str) -> None:
        """The pair is switched: its copy is let go."""
        copier = self._copiers.get(source)
        if copier is not None:
            self._switched.add((source, target))
            if copier.durable(target):
                self._durable.add((source, target))
            copier.release(target)

    def broken(self, source: str) -> None:
        """The copies from the source have ended with an error."""
        self._copiers.pop(source, None)

    def progress(self) -> list[Put]:
        """How far the copies are, where that has changed."""
        operations: list[Put] = []
        transition = self._publisher.topology.transition
        for source, copier in self._copiers.items():
            for target, state in copier.progress.items():
                pair = None if transition is None else transition.pair(source, target)
                if pair is None:
                    continue
                phase = None
                if pair.phase == "copying":
                    phase = MigrationPhase.CATCHING_UP if state.catching_up else MigrationPhase.COPYING
                operations += self._records.progress(pair.migration, state.moved, state.expected, phase, state.verified)
        return operations

    # Work

    async def _copy(self, source: str, targets: tuple[str, ...], delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        copier = ShardCopier(
            source,
            targets,
            access=self._access,
            routes=lambda: self.routes,
            report=self._report,
            rate=self._context.rate,
            bandwidth=self._context.bandwidth,
            limits=self._limits,
            met=self._met[source],
            failpoints=self._failpoints,
        )
        self._copiers[source] = copier
        await copier.run()

    async def _resume_later(self, source: str, target: str) -> None:
        """The pair catches up again; clients that were held get some air before it is fenced once more."""
        copier = self._copiers.get(source)
        await asyncio.sleep(_RESUME_DELAY_S)
        # One that has taken its place meanwhile may have the pair behind a fence, and must leave it alone then.
        if copier is not None and self._copiers.get(source) is copier:
            copier.resume(target)

    async def _settle_fence(self, source: str, target: str, published: asyncio.Event) -> None:
        async with AsyncExitStack() as opened:
            administrator = asyncio.ensure_future(self._open_administrator(source, opened))
            functions = asyncio.ensure_future(self._open_functions(source, target, opened))
            try:
                await published.wait()
                await self._failpoints.reach(Point.FENCED)
                await self._fencing.settle(self._access.leader(source), administrator)
                if (both := await functions) is not None:
                    # Only now does every router know of the target, and bring there what it changes from now on.
                    await bring_functions(*both)
            except (EngineError, NotFound) as error:
                self._report(control.FenceFailed(source, target, f"{source} cannot be fenced: {error}"))
            else:
                await self._failpoints.reach(Point.ACKNOWLEDGED)
                self._report(control.Acknowledged(source, target))
            finally:
                for opening in (administrator, functions):
                    opening.cancel()
                await asyncio.gather(administrator, functions, return_exceptions=True)

    async def _open_administrator(self, source: str, opened: AsyncExitStack) -> Engine:
        administrator = await self._access.administer(self._access.leader(source))
        opened.push_async_callback(administrator.close)
        return administrator

    async def _open_functions(self, source: str, target: str, opened: AsyncExitStack) -> tuple[Engine, Engine] | None:
        """Where functions come from and go to; None where the target has them already."""
        if not is_new(self._publisher.topology, target):
            return None
        return await open_both(self._access, source, target, opened)

    async def _lift_after_timeout(self, source: str, target: str) -> None:
        timeout_s = self._fencing.ack_timeout_s + _SETTLE_TIMEOUT_S
        await asyncio.sleep(timeout_s)
        reason = f"the last keys from {source} to {target} were not settled within {timeout_s:g} s"
        self._report(control.FenceFailed(source, target, reason))

    async def _sweep(self, transition: Transition, shard: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        self.owed.pop(shard, None)  # of before the transition was reversed
        pairs = {(pair.source, pair.target) for pair in transition.pairs if pair.source == shard}
        # Otherwise an earlier attempt may have left keys, or another coordinator has copied, who knows what.
        all_met = shard not in transition.unclean and pairs <= self._switched
        # Who leaves is to keep nothing, not even what scripts have left there.
        met = self._met[shard] if all_met and shard != transition.leaving else None
        try:
            if met is not None and not met.any:
                # What was deleted there just before may come back with the power until the disk has heard of it. Nobody
                # who waits for the move has to wait for that.
                self.owed[shard] = met
            else:
                await self._clear(shard, pairs, met)
        except (EngineError, NotFound) as error:
            self._report(control.SweepFailed(shard, str(error)))
        else:
            self._report(control.Swept(shard, durable=shard not in self.owed))

    async def _clear(self, shard: str, pairs: Collection[tuple[str, str]], met: MetKeys | None) -> None:
        await self._publisher.write_apart(self._records.sweeping(shard))
        targets = [target for source, target in pairs if (source, target) not in self._durable]

        async def make_durable() -> None:
            await asyncio.gather(*map(self._make_durable, targets))

        async def step_done() -> None:
            await self._failpoints.reach(Point.SWEEPING)

        beginning = beginning_of(self._publisher.topology, shard)
        await clear(self._access, self.routes, shard, make_durable, step_done, beginning, met)

    async def _make_durable(self, shard: str) -> None:
        """Return when what the shard's server has executed is on its disk, and at a majority of the shard's members."""
        with self._access.identity() as identity:
            engine = await self._access.open(self._access.leader(shard), identity)
            try:
                await make_durable(engine)
                await self._access.on_majority(shard, engine)
            finally:
                await engine.close()
