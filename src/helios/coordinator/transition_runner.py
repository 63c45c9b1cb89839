"""Performing one transition: the pure steps of `control.transition` decide, this carries out."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Mapping
from contextlib import aclosing

from helios.control import transition_state as control
from helios.control.mutations import Fence, Finish, Mutation, Reverse, Slow, Switch, Unfence, parts_of
from helios.control.transition import fences_at_once, step
from helios.control.transition_state import Effect, Event, TransitionState
from helios.coordinator.changes import MetKeys
from helios.coordinator.migration_records import MigrationRecords
from helios.coordinator.term_context import TermContext
from helios.coordinator.transition_work import TaskSet, TransitionWork
from helios.errors import HeliosError, Refused
from helios.model.topology import Pair, Topology, Transition
from helios.placement.routing import Routes
from helios.ports.failpoints import Point
from helios.ports.following import updates
from helios.ports.records import PAUSES
from helios.ports.store import Operation, Put

_PROGRESS_S = 0.25
_KEPT_STEPS = 200  # the last ones are logged when a transition fails

logger = logging.getLogger(__name__)


class TransitionRunner:
    """One transition from where the topology says it stands to its end.

    Work runs in tasks that report events (see `TransitionWork`); one loop takes the events in order and steps.
    A StoreError ends it all: the caller's term is over, and its successor begins from the topology.
    """

    def __init__(self, context: TermContext, records: MigrationRecords) -> None:
        self._publisher = context.publisher
        self._failpoints = context.failpoints
        self._new_id = context.new_id
        self._at_once = context.settings.sharding.max_concurrent_migrations
        self._speeds = (context.rate, context.bandwidth)
        self._records = records
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self._failed = asyncio.Event()
        self._failure: BaseException | None = None
        self._work = TransitionWork(context, records, self._report, self._fail)
        self._standing = TaskSet(self._fail)
        self._paused = False  # by a user
        self._steps: deque[tuple[Event, tuple[Effect, ...]]] = deque(maxlen=_KEPT_STEPS)

    @property
    def change(self) -> str:
        """The id of the request behind the transition."""
        return self._records.change.id

    @property
    def owed(self) -> Mapping[str, MetKeys]:
        """Shards that stay unclean until their disks have what is deleted there, with the keys that could come back."""
        return self._work.owed

    def cancel(self) -> None:
        """A user wants the keys back where they were."""
        self._events.put_nowait(control.CancelRequested())

    async def run(self) -> None:
        """Perform the transition to its end. Raises StoreError."""
        transition = self._publisher.topology.transition
        if transition is None:
            raise Refused("there is no transition to perform")
        await self._publisher.write_apart(self._records.in_step(transition))
        fenced_at_once = fences_at_once(len(transition.pairs))
        state = TransitionState(transition, at_once=self._at_once, fenced_at_once=fenced_at_once)
        self._report(control.Begun())
        self._standing.start(self._record_progress())
        self._standing.start(self._follow_pauses())
        try:
            while not state.finished:
                state = await self._step(state, await self._next_event())
        finally:
            await self._standing.cancel()
            await self._work.stop()
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
            self._work.broken(event.source)
            await self._publisher.write_apart(self._records.troubled(event.source, event.reason))
        if isinstance(event, control.Released) and (progress := self._work.progress()):
            # Another copy of this source may begin, and nobody would remember how far this one came.
            await self._publisher.write_apart(progress)
        state, effects = step(state, event)
        self._steps.append((event, effects))
        for effect in effects:
            await self._perform(state, effect)
        return state

    async def _perform(self, state: TransitionState, effect: Effect) -> None:
        match effect:
            case control.Publish(mutation):
                await self._publish(state, mutation)
            case control.GiveUp(ending):
                if not ending.cancelled:
                    self._log_steps(ending.reason)
                await self._give_up(state.transition, ending)
            case control.Copy(source, targets, delay_s):
                self._work.copy(source, targets, delay_s)
            case control.StopWork():
                await self._work.stop()
            case control.Resume(source, target):
                self._work.resume(source, target)
            case control.AwaitAcknowledgements(source, target):
                self._work.settle_fence(source, target)
            case control.Drain(source, target):
                self._work.drain(source, target)
            case control.Sweep(shard, delay_s):
                self._work.sweep(state.transition, shard, delay_s)

    def _log_steps(self, reason: str) -> None:
        """What led to a failure: the last events and what was done about each."""
        lines = (f"{event} -> {', '.join(map(str, effects)) or 'nothing'}" for event, effects in self._steps)
        logger.warning("transition failed: change=%s reason=%s steps:\n%s", self.change, reason, "\n".join(lines))

    async def _publish(self, state: TransitionState, mutation: Mutation) -> None:
        records: list[Operation] = []
        ended: list[Put] = []
        match mutation:
            case Slow(source, target, _):
                records += self._records.phase(_pair(mutation.apply(self._publisher.topology), source, target))
            case Finish():
                transition = state.transition
                await self._publisher.vacated(transition.leaving)
                self._work.progress()  # short moves end before it was ever recorded
                records, ended = self._records.finished(reversing=transition.reversing)
            case Reverse():
                raise Refused("a reversal is published by giving the transition up")
            case _:
                records += await self._ready(mutation)
        switches = [part for part in parts_of(mutation) if isinstance(part, Switch)]
        if switches:
            await self._failpoints.reach(Point.BEFORE_SWITCH)
        # Nothing can go back any more when the last pair has switched and been swept: they have ended a moment before.
        topology = await self._publisher.publish(mutation.apply, records, ahead=ended)
        if switches:
            await self._failpoints.reach(Point.AFTER_SWITCH)
        self._adopt(topology)
        self._report(control.Published(topology.transition))
        for switch in switches:
            await self._work.end_fence(switch.source, switch.target)
            # The copier's word that it has ended, which follows its release, means something only behind the switch.
            self._work.switched(switch.source, switch.target)
        if switches:
            pairs = [_pair(topology, switch.source, switch.target) for switch in switches]
            await self._publisher.write([put for pair in pairs for put in self._records.switched(pair)])

    async def _ready(self, mutation: Mutation) -> list[Operation]:
        """Prepare the fences that the mutation puts up, and end those that it lifts; gives what is recorded of each."""
        parts = parts_of(mutation)
        for part in parts:
            if isinstance(part, Fence):
                self._work.prepare_fence(part.source, part.target)
            if isinstance(part, Unfence):
                await self._work.end_fence(part.source, part.target)
        following = mutation.apply(self._publisher.topology)
        return [put for part in parts for put in self._records.phase(_pair(following, part.source, part.target))]

    async def _give_up(self, transition: Transition, ending: control.Ending) -> None:
        names = {(pair.source, pair.target): self._new_id() for pair in transition.pairs}
        back = Reverse(names)
        reversed_ = back.apply(self._publisher.topology).transition
        records, migrations = self._records.reversed(() if reversed_ is None else reversed_.pairs, ending)
        self._adopt(await self._publisher.publish(back.apply, records, behind=migrations))
        self._report(control.Published(self._publisher.topology.transition))

    def _adopt(self, topology: Topology) -> None:
        self._work.routes = Routes(topology)
        self._hold_copies(self._paused or self._work.routes.has_fence)

    async def _follow_pauses(self) -> None:
        """Hold the copies for as long as a user wants them to wait."""
        async with aclosing(updates(self._publisher.store, PAUSES + self.change)) as following:
            async for update in following:
                await self._pause(bool(update.events) and update.events[-1].value is not None)

    async def _pause(self, paused: bool) -> None:
        if paused != self._paused:
            self._paused = paused
            self._hold_copies(paused or self._work.routes.has_fence)
            await self._publisher.write_apart(self._records.paused(paused))
            self._report(control.PauseRequested(paused))

    def _hold_copies(self, hold: bool) -> None:
        """Copies wait while a user wants that, and while a pair is fenced: its last keys are what clients wait for."""
        for speed in self._speeds:
            speed.pause(hold)

    async def _record_progress(self) -> None:
        while True:
            await asyncio.sleep(_PROGRESS_S)
            if self._work.routes.has_fence:
                continue  # clients wait for the next publication, and commits are made one at a time
            operations = self._work.progress()
            if operations:
                await self._publisher.write_apart(operations)

    def _report(self, event: Event) -> None:
        self._events.put_nowait(event)

    def _fail(self, error: BaseException) -> None:
        if self._failure is None:
            self._failure = error
            self._failed.set()


def _pair(topology: Topology, source: str, target: str) -> Pair:
    pair = None if topology.transition is None else topology.transition.pair(source, target)
    if pair is None:
        raise HeliosError(f"the transition has no pair from {source} to {target}")
    return pair
