"""Performing one transition: the pure steps of `control.transition` decide, this carries out."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import aclosing

from helios.control import transition_state as control
from helios.control.mutations import Fence, Finish, Mutation, Reverse, Slow, Switch, Unfence
from helios.control.transition import step
from helios.control.transition_state import Effect, Event, TransitionState
from helios.coordinator.access import Access
from helios.coordinator.copying import CopyLimits
from helios.coordinator.fencing import Fencing
from helios.coordinator.functions import bring_functions, is_new
from helios.coordinator.migration_records import MigrationRecords
from helios.coordinator.publisher import Publisher
from helios.coordinator.rate import RateLimit
from helios.coordinator.shard_copier import ShardCopier
from helios.coordinator.sweep import clear, make_durable
from helios.errors import EngineError, HeliosError, NotFound, Refused
from helios.model.migration import MigrationPhase
from helios.model.topology import Pair, Topology, Transition
from helios.placement.plan import beginning_of
from helios.placement.routing import Routes
from helios.ports.failpoints import OFF, Failpoints, Point
from helios.ports.following import updates
from helios.ports.records import PAUSES
from helios.ports.store import Delete, Put

_SETTLE_TIMEOUT_S = 3.5  # with fence_ack_timeout, less than routers hold a command by default
_PROGRESS_S = 0.25
_RESUME_DELAY_S = 0.5
_KEPT_STEPS = 200  # the last ones are logged when a transition fails

logger = logging.getLogger(__name__)


class TransitionRunner:
    """One transition from where the topology says it stands to its end.

    Work runs in tasks that report events; one loop takes the events in order and steps. A StoreError
    ends it all: the caller's term is over, and its successor begins from the topology.
    """

    def __init__(
        self,
        publisher: Publisher,
        access: Access,
        fencing: Fencing,
        records: MigrationRecords,
        rate: RateLimit,
        bandwidth: RateLimit,
        limits: CopyLimits,
        new_id: Callable[[], str],
        at_once: int,
        failpoints: Failpoints = OFF,
    ) -> None:
        self._publisher = publisher
        self._access = access
        self._fencing = fencing
        self._records = records
        self._rate = rate
        self._bandwidth = bandwidth
        self._limits = limits
        self._new_id = new_id
        self._at_once = at_once
        self._failpoints = failpoints
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._movers: dict[str, ShardCopier] = {}
        self._switched: set[tuple[str, str]] = set()  # the pairs that were copied and switched here
        self._met_keys: set[str] = set()  # the sources of which any copy met a key
        self._standing: set[asyncio.Task[None]] = set()
        self._work: set[asyncio.Task[None]] = set()
        self._fence_work: set[asyncio.Task[None]] = set()
        self._failed = asyncio.Event()
        self._failure: BaseException | None = None
        self._routes = Routes(publisher.topology)
        self._paused = False  # by a user
        self._steps: deque[tuple[Event, tuple[Effect, ...]]] = deque(maxlen=_KEPT_STEPS)

    @property
    def change(self) -> str:
        """The id of the request behind the transition."""
        return self._records.change.id

    def cancel(self) -> None:
        """A user wants the keys back where they were."""
        self._events.put_nowait(control.CancelRequested())

    async def run(self) -> None:
        """Perform the transition to its end. Raises StoreError."""
        transition = self._publisher.topology.transition
        if transition is None:
            raise Refused("there is no transition to perform")
        state = TransitionState(transition, at_once=self._at_once)
        self._report(control.Begun())
        self._launch(self._record_progress(), self._standing)
        self._launch(self._follow_pauses(), self._standing)
        try:
            while not state.finished:
                state = await self._step(state, await self._next_event())
        finally:
            await self._cancel_all(self._standing)
            await self._stop_work()
            self._hold_copies(False)

    async def _next_event(self) -> Event:
        """The next event; a failure of any work that is not an event (the store, the term) is raised here."""
        waiting = asyncio.ensure_future(self._events.get())
        failed = asyncio.ensure_future(self._failed.wait())
        try:
            await asyncio.wait({waiting, failed}, return_when=asyncio.FIRST_COMPLETED)
            if self._failure is not None:
                raise self._failure
            return waiting.result()
        finally:
            waiting.cancel()
            failed.cancel()

    async def _step(self, state: TransitionState, event: Event) -> TransitionState:
        if isinstance(event, control.CopyBroken):
            mover = self._movers.pop(event.source, None)
            if mover is not None and mover.met_keys:
                self._met_keys.add(event.source)
            await self._publisher.write(self._records.troubled(event.source, event.reason))
        if isinstance(event, control.Released) and (progress := self._progress()):
            # Another copy of this source may begin, and nobody would remember how far this one came.
            await self._publisher.write(progress)
        state, effects = step(state, event)
        self._steps.append((event, effects))
        for effect in effects:
            await self._perform(state, effect)
        return state

    def _held_nothing(self, transition: Transition, shard: str) -> bool:
        """Whether this server had no key that leaves it, nor a change of one, from the first copy to the last switch.

        Then there is nothing to sweep, and no deletion that a power cut could undo, so nothing is waited for.
        """
        pairs = {(pair.source, pair.target) for pair in transition.pairs if pair.source == shard}
        return shard not in transition.unclean | self._met_keys and pairs <= self._switched

    async def _perform(self, state: TransitionState, effect: Effect) -> None:
        match effect:
            case control.Publish(mutation):
                await self._publish(state, mutation)
            case control.GiveUp(ending):
                if not ending.cancelled:
                    self._log_steps(ending.reason)
                await self._give_up(state.transition, ending)
            case control.Copy(source, targets, delay_s):
                self._start(self._copy(source, targets, delay_s))
            case control.StopWork():
                await self._stop_work()
            case control.Resume(source, target):
                self._start(self._resume_later(source, target))
            case control.AwaitAcknowledgements(source, target):
                self._start_fence_work(self._await_acknowledgements(source, target))
                self._start_fence_work(self._lift_after_timeout(source, target))
            case control.Drain(source, target):
                if source in self._movers:
                    self._movers[source].drain(target)
            case control.Sweep(shard, delay_s):
                self._start(self._sweep(state.transition, shard, delay_s))

    def _log_steps(self, reason: str) -> None:
        """What led to a failure: the last events and what was done about each."""
        lines = (f"{event} -> {', '.join(map(str, effects)) or 'nothing'}" for event, effects in self._steps)
        logger.warning("transition failed: change=%s reason=%s steps:\n%s", self.change, reason, "\n".join(lines))

    async def _publish(self, state: TransitionState, mutation: Mutation) -> None:
        transition = state.transition
        records: list[Put | Delete] = []
        match mutation:
            case Fence(source, target) | Unfence(source, target) | Switch(source, target) | Slow(source, target, _):
                if not isinstance(mutation, Fence | Slow):
                    await self._cancel_all(self._fence_work)
                records += self._records.phase(_pair(mutation.apply(self._publisher.topology), source, target))
            case Finish():
                self._progress()  # short moves end before it was ever recorded
                records += self._records.finished(reversing=transition.reversing)
            case Reverse():
                raise Refused("a reversal is published by giving the transition up")
        if isinstance(mutation, Switch):
            await self._failpoints.reach(Point.BEFORE_SWITCH)
        topology = await self._publisher.publish(mutation.apply, records)
        if isinstance(mutation, Switch):
            await self._failpoints.reach(Point.AFTER_SWITCH)
        self._adopt(topology)
        self._report(control.Published(topology.transition))
        if isinstance(mutation, Switch):
            # The mover's word that it has ended, which follows its release, means something only behind the switch.
            await self._after_switch(topology, mutation)

    async def _after_switch(self, topology: Topology, switch: Switch) -> None:
        mover = self._movers.get(switch.source)
        if mover is not None:
            self._switched.add((switch.source, switch.target))
            if mover.met_keys:
                self._met_keys.add(switch.source)
            mover.release(switch.target)
        await self._publisher.write(self._records.switched(_pair(topology, switch.source, switch.target)))

    async def _give_up(self, transition: Transition, ending: control.Ending) -> None:
        names = {(pair.source, pair.target): self._new_id() for pair in transition.pairs}
        records = self._records.reversed(transition, ending, lambda pair: names[pair.source, pair.target])
        self._adopt(await self._publisher.publish(Reverse(names).apply, records))
        self._report(control.Published(self._publisher.topology.transition))

    def _adopt(self, topology: Topology) -> None:
        self._routes = Routes(topology)
        self._hold_copies(self._paused or self._routes.has_fence)

    async def _follow_pauses(self) -> None:
        """Hold the copies for as long as a user wants them to wait."""
        async with aclosing(updates(self._publisher.store, PAUSES + self.change)) as following:
            async for update in following:
                await self._pause(bool(update.events) and update.events[-1].value is not None)

    async def _pause(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            self._hold_copies(paused or self._routes.has_fence)
            await self._publisher.write(self._records.paused(paused))
            self._report(control.PauseRequested(paused))

    def _hold_copies(self, hold: bool) -> None:
        """Copies wait while a user wants that, and while a pair is fenced: its last keys are what clients wait for."""
        self._rate.pause(hold)
        self._bandwidth.pause(hold)

    # Work

    async def _copy(self, source: str, targets: tuple[str, ...], delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        mover = ShardCopier(
            source,
            targets,
            access=self._access,
            routes=lambda: self._routes,
            report=self._report,
            rate=self._rate,
            bandwidth=self._bandwidth,
            limits=self._limits,
            failpoints=self._failpoints,
        )
        self._movers[source] = mover
        await mover.run()

    async def _resume_later(self, source: str, target: str) -> None:
        """The pair catches up again; clients that were held get some air before it is fenced once more."""
        mover = self._movers.get(source)
        await asyncio.sleep(_RESUME_DELAY_S)
        # One that has taken its place meanwhile may have the pair behind a fence, and must leave it alone then.
        if mover is not None and self._movers.get(source) is mover:
            mover.resume(target)

    async def _await_acknowledgements(self, source: str, target: str) -> None:
        await self._failpoints.reach(Point.FENCED)
        try:
            await self._fencing.settle(self._publisher.topology.epoch, self._access.leader(source))
            if is_new(self._publisher.topology, target):
                # Only now does every router know of the target, and bring there what it changes from now on.
                await bring_functions(self._access, source, target)
        except (EngineError, NotFound) as error:
            self._report(control.FenceFailed(source, target, f"{source} cannot be fenced: {error}"))
        else:
            await self._failpoints.reach(Point.ACKNOWLEDGED)
            self._report(control.Acknowledged(source, target))

    async def _lift_after_timeout(self, source: str, target: str) -> None:
        timeout_s = self._fencing.ack_timeout_s + _SETTLE_TIMEOUT_S
        await asyncio.sleep(timeout_s)
        reason = f"the last keys from {source} to {target} were not settled within {timeout_s:g} s"
        self._report(control.FenceFailed(source, target, reason))

    async def _sweep(self, transition: Transition, shard: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        if self._held_nothing(transition, shard):
            self._report(control.Swept(shard))
            return
        try:
            await self._publisher.write(self._records.sweeping(shard))
            targets = [pair.target for pair in transition.pairs if pair.source == shard]

            async def make_durable() -> None:
                await asyncio.gather(*map(self._make_durable, targets))

            async def step_done() -> None:
                await self._failpoints.reach(Point.SWEEPING)

            beginning = beginning_of(self._publisher.topology, shard)
            await clear(self._access, self._routes, shard, make_durable, step_done, beginning)
        except (EngineError, NotFound) as error:
            self._report(control.SweepFailed(shard, str(error)))
        else:
            self._report(control.Swept(shard))

    async def _make_durable(self, shard: str) -> None:
        """What has moved is on its new server's disk before the old copy goes."""
        with self._access.identity() as identity:
            engine = await self._access.open(self._access.leader(shard), identity)
            try:
                await make_durable(engine)
            finally:
                await engine.close()

    async def _record_progress(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            operations = self._progress()
            if operations:
                await self._publisher.write(operations)

    def _progress(self) -> list[Put]:
        """How far the copies are, where that has changed."""
        operations: list[Put] = []
        for source, mover in self._movers.items():
            for target, state in mover.progress.items():
                pair = _find(self._publisher.topology, source, target)
                if pair is None or pair.phase != "copying":
                    phase = None
                else:
                    phase = MigrationPhase.CATCHING_UP if state.catching_up else MigrationPhase.COPYING
                if pair is not None:
                    operations += self._records.progress(
                        pair.migration, state.moved, state.expected, phase, state.verified
                    )
        return operations

    # Tasks

    def _report(self, event: Event) -> None:
        self._events.put_nowait(event)

    def _start(self, work: Coroutine[None, None, None]) -> None:
        self._launch(work, self._work)

    def _start_fence_work(self, work: Coroutine[None, None, None]) -> None:
        self._launch(work, self._fence_work)

    def _launch(self, work: Coroutine[None, None, None], group: set[asyncio.Task[None]]) -> None:
        task = asyncio.create_task(work)
        group.add(task)

        def ended(task: asyncio.Task[None]) -> None:
            group.discard(task)
            if not task.cancelled() and task.exception() is not None and self._failure is None:
                self._failure = task.exception()
                self._failed.set()

        task.add_done_callback(ended)

    async def _stop_work(self) -> None:
        self._movers.clear()
        await self._cancel_all(self._work)
        await self._cancel_all(self._fence_work)

    async def _cancel_all(self, group: set[asyncio.Task[None]]) -> None:
        tasks = list(group)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _find(topology: Topology, source: str, target: str) -> Pair | None:
    return None if topology.transition is None else topology.transition.pair(source, target)


def _pair(topology: Topology, source: str, target: str) -> Pair:
    pair = _find(topology, source, target)
    if pair is None:
        raise HeliosError(f"the transition has no pair from {source} to {target}")
    return pair
