"""An event loop on a virtual clock, and processes that can be stopped, resumed and killed on it."""

from __future__ import annotations

import asyncio
import heapq
import zlib
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Protocol, TypeVar

from helios.ports.pulse import BEAT_S, offset_s

T = TypeVar("T")
_PRUNE_AT = 4096
_TICK_S = 1e-6
_BIRTH_S = 1_700_000_000.0


class Process:
    """What runs as one process of the cluster: all tasks and callbacks that descend from its own.

    A frozen one keeps what is due and catches up when it is thawed, as after SIGSTOP and SIGCONT. A
    killed one runs nothing any more, not even a `finally`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen = False
        self.dead = False
        self.parked: deque[_Handle] = deque()
        self.context = Context()
        self.context.run(_PROCESS.set, self)
        self.context.run(offset_s.set, BEAT_S * zlib.crc32(name.encode()) / 2**32)


_PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


def current_process() -> Process | None:
    """The process whose code runs now; None for the world around."""
    return _PROCESS.get()


class Network(Protocol):
    """Where connections lead."""

    async def connect(
        self, factory: Callable[[], asyncio.BaseProtocol], host: str, port: int
    ) -> tuple[asyncio.BaseTransport, asyncio.BaseProtocol]:
        """Open a connection; raises OSError."""

    def listen(self, factory: Any) -> Any:
        """Take connections, as asyncio's server does."""


class _Handle(asyncio.TimerHandle):
    """Something to run, and whose it is. Leaner than asyncio's, whose `__init__` looks after debugging."""

    __slots__ = ("args", "callback", "context", "due_s", "process", "stopped", "timed")

    def __init__(self, due_s: float, callback: Callable[..., object], args: Any, context: Context | None) -> None:
        self.due_s = due_s
        self.callback = callback
        self.args = args
        self.context = copy_context() if context is None else context
        self.process = self.context.get(_PROCESS)
        self.stopped = False
        self.timed = False  # whether it waits for its time, rather than for its turn

    def cancel(self) -> None:
        self.stopped = True

    def cancelled(self) -> bool:
        return self.stopped

    def when(self) -> float:
        return self.due_s


class _Task(asyncio.Task[Any]):
    """A task whose place in a set does not depend on where it lies in memory."""

    def __init__(self, number: int, coro: Coroutine[Any, Any, Any], **options: Any) -> None:
        self._number = number
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class Stuck(Exception):
    """Everything waits and nothing will ever happen, or so much happens that no end is to be seen."""


class SimLoop(asyncio.BaseEventLoop):
    """Runs what is ready in order, and where nothing is, lets the time jump to the next timer."""

    _stopping: bool  # asyncio's, set by `stop`
    network: Network | None = None
    steps_max = 500_000

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0
        self.outside = Context()
        self._now = 0.0
        self._queue: deque[_Handle] = deque()
        self._timers: list[tuple[float, int, _Handle]] = []
        self._numbers = 0
        self._tasks: list[_Task] = []
        self._prune_at = _PRUNE_AT

    def time(self) -> float:
        return self._now

    # mypy knows more parameters of these than asyncio gives them.
    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:  # type: ignore[override]
        handle = _Handle(self._now, callback, args, context)
        self._queue.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        timer = _Handle(when, callback, args, context)
        timer.timed = True
        self._numbers += 1
        heapq.heappush(self._timers, (when, self._numbers, timer))
        return timer

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        # Time passes while a process works, so even the shortest wait ends later.
        when = self._now + (max(delay, _TICK_S) if delay > 0 else 0)
        return self.call_at(when, callback, *args, context=context)

    def call_soon_threadsafe(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: object = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        self._numbers += 1
        named = "task" if name is None else str(name)
        task = _Task(self._numbers, coro, loop=self, name=named, context=context)
        # Kept, so that a task of a killed process is not closed, which would run its `finally` blocks.
        self._tasks.append(task)
        if len(self._tasks) > self._prune_at:
            self._tasks = [task for task in self._tasks if not task.done()]
            self._prune_at = 2 * len(self._tasks) + _PRUNE_AT
        return task

    def send_later(self, delay_s: float, callback: Callable[..., object], *args: Any) -> None:
        """Have something happen in the world outside, whatever becomes of the process that caused it."""
        self.call_later(delay_s, callback, *args, context=self.outside)

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        # At once: threads know no virtual time.
        done: asyncio.Future[T] = self.create_future()
        done.set_result(func(*args))
        return done

    async def create_connection(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        assert self.network is not None
        return await self.network.connect(factory, host, port)

    async def create_server(self, factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:  # type: ignore[override]
        assert self.network is not None
        return self.network.listen(factory)

    # Processes

    def freeze(self, process: Process) -> None:
        """Stop a process where it stands; what it has sent goes its way."""
        process.frozen = True

    def thaw(self, process: Process) -> None:
        """Let a frozen process go on with everything that has become due."""
        process.frozen = False
        self._queue.extend(process.parked)
        process.parked.clear()

    def resume(self, process: Process, frozen_at_s: float) -> None:
        """Let a process go on whose clock stood still: its timers have lost the time since then.

        What has come to it meanwhile it finds at once.
        """
        lost_s = self._now - frozen_at_s
        ahead = [timer for _, _, timer in self._timers if timer.process is process and timer.due_s >= self._now]
        missed: list[_Handle] = []
        arrived: deque[_Handle] = deque()
        for handle in process.parked:
            (missed if handle.timed and handle.due_s > frozen_at_s else arrived).append(handle)
        process.parked = arrived
        for timer in ahead + missed:
            timer.due_s += lost_s
        self._timers = [(timer.due_s, order, timer) for _, order, timer in self._timers]
        for timer in missed:
            self._numbers += 1
            self._timers.append((timer.due_s, self._numbers, timer))
        heapq.heapify(self._timers)
        self.thaw(process)

    def kill(self, process: Process) -> None:
        """End a process at once."""
        process.dead = True
        process.frozen = False
        process.parked.clear()

    def _run_once(self) -> None:
        # All rounds until the loop is stopped, not one: to come back for each costs as much as what most of them do.
        while not self._stopping:
            self._run_round()

    def _run_round(self) -> None:
        queue = self._queue
        timers = self._timers
        if not queue:
            while timers and timers[0][2].stopped:
                heapq.heappop(timers)
            if not timers:
                raise Stuck(f"nothing is left to happen at {self._now:.3f} s")
            self._now = max(self._now, timers[0][0])
        while timers and timers[0][0] <= self._now:
            timer = heapq.heappop(timers)[2]
            if not timer.stopped:
                queue.append(timer)
        if self.steps > self.steps_max:
            raise Stuck(f"{self.steps} steps and no end at {self._now:.3f} s")
        for _ in range(len(queue)):
            handle = queue.popleft()
            process = handle.process
            if handle.stopped:
                continue
            if process is not None and (process.frozen or process.dead):
                if process.frozen:
                    process.parked.append(handle)
                continue
            self.steps += 1
            try:
                handle.context.run(handle.callback, *handle.args)
            except Exception as error:  # noqa: BLE001 - as asyncio does it; whatever it is, the world hears of it
                self.call_exception_handler({"message": "a callback failed", "exception": error})


class SimClock:
    """The virtual time, for people and for measuring."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def wall(self) -> float:
        return _BIRTH_S + self._loop.time()

    def monotonic(self) -> float:
        return self._loop.time()

    boottime = monotonic
