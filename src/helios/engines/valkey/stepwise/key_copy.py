"""What the copies of all types share: the two connections, steps, and the ways in which a copy ends early."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TypeVar

from helios.engines.valkey.connection import Command, Connection, ErrorReply, Reply
from helios.ports.engine import Notes, Pace

T = TypeVar("T")

MAX_ELEMENTS = 1000  # in one command: about a millisecond of a server's time
# Two of these are said of a key that was another thing, or was there, when the copy began.
_CHANGED = ("WRONGTYPE", "ERR no such key", "NOGROUP")


class ChangedMeanwhile(Exception):
    """The key became another thing while it was read."""


class StartAfresh(Exception):
    """What the target has cannot be turned into what the source has: remove it and copy everything."""


class NotInSteps(Exception):
    """Steps cannot reproduce this value exactly."""


@dataclass(frozen=True, slots=True)
class KeyCopy:
    """The copy of one key between two servers. `pace` is awaited with the bytes of each step before it is written."""

    key: bytes
    source: Connection
    target: Connection
    timeout_s: float
    step_bytes: int
    pace: Pace
    notes: Notes = field(default_factory=dict)
    used: Command | None = None  # the options of RESTORE that say so; None where that is not known

    async def read(self, *command: bytes | str | int) -> Reply:
        """A reply of the source. Raises ChangedMeanwhile or EngineError."""
        return (await self.ask(self.source, [command]))[0]

    async def write(self, *command: bytes | str | int) -> Reply:
        """A reply of the target. Raises EngineError."""
        return (await self.ask(self.target, [command]))[0]

    async def ask(self, server: Connection, commands: Sequence[Command]) -> list[Reply]:
        """Replies of either server. Raises EngineError, and ChangedMeanwhile where the source has another thing now."""
        replies = await server.execute_many(commands, timeout_s=self.timeout_s)
        for command, reply in zip(commands, replies, strict=True):
            if isinstance(reply, ErrorReply):
                if server is self.source and str(reply).startswith(_CHANGED):
                    raise ChangedMeanwhile(str(reply))
                raise server.failure(reply, f"{command[0]!s} of {self.key[:100]!r}")
        return replies

    async def elements_in_step(self, length: int) -> int:
        """How many elements of a value of that length one step takes, by what the server says it occupies."""
        usage = int(await self.read("MEMORY", "USAGE", self.key) or 0)
        return max(1, min(MAX_ELEMENTS, self.step_bytes * length // max(usage, 1)))


class BoundedTasks:
    """A few things under way at a time, in no particular order; what any of them raises is raised. Use as a context."""

    def __init__(self, most: int = 4) -> None:
        self._most = most
        self._running: set[asyncio.Task[None]] = set()

    async def put(self, work: Coroutine[None, None, None]) -> None:
        """Begin the work as soon as there is room."""
        self._running.add(asyncio.create_task(work))
        while len(self._running) >= self._most:
            await self._wait(asyncio.FIRST_COMPLETED)

    async def _wait(self, until: str) -> None:
        done, self._running = await asyncio.wait(self._running, return_when=until)
        for task in done:
            task.result()

    async def __aenter__(self) -> BoundedTasks:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None and self._running:
                await self._wait(asyncio.ALL_COMPLETED)
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)


async def ahead(steps: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The same steps, each read while the caller deals with the one before. Use it within `aclosing`."""
    async with aclosing(steps):
        coming = asyncio.ensure_future(_next(steps))
        try:
            while (step := await coming) is not None:
                coming = asyncio.ensure_future(_next(steps))
                yield step
        finally:
            # A generator that still runs cannot be closed.
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)


async def _next(steps: AsyncGenerator[T, None]) -> T | None:
    return await anext(steps, None)
