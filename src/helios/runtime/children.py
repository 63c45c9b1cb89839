"""The processes that `helios up` starts: watched, started again, ended together."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from helios.errors import StartError
from helios.node.backoff import Backoff
from helios.node.process import Process, in_words, size_of, start_process, tail
from helios.runtime.lifecycle import COMPLAINT, say

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """A process to keep running; `is_ready` tells of a pid whether the process of that pid serves."""

    name: str
    argv: Sequence[str]
    log: Path
    is_ready: Callable[[int], Awaitable[bool]]
    stop_s: float


class Child:
    """One of them."""

    def __init__(self, spec: ChildSpec) -> None:
        self.spec = spec
        self.process: Process | None = None
        self.released = False  # it may end, and is not started again then
        self._log_seen = 0

    def spawn(self) -> None:
        """Start the process; it ends when this one does."""
        self._log_seen = size_of(self.spec.log)
        self.process = start_process(self.spec.argv, log=self.spec.log, parent_pipe=True, env=dict(os.environ))
        logger.info("child started: child=%s pid=%d", self.spec.name, self.process.pid)

    async def ready(self) -> None:
        """Return when it serves; raises StartError, with the end of its log, if it ends before."""
        assert self.process is not None, "it was spawned"
        ended = asyncio.ensure_future(self.process.wait())
        try:
            while not await self.spec.is_ready(self.process.pid):
                if ended.done():
                    raise StartError(f"{self.spec.name} could not start: {self.last_words()}")
                await asyncio.wait({ended}, timeout=0.05)
        finally:
            ended.cancel()

    def last_words(self) -> str:
        """Its own complaint, or the end of its log since it was started."""
        lines = tail(self.spec.log, after=self._log_seen, lines=20).splitlines()
        complaints = [number for number, line in enumerate(lines) if line.startswith(COMPLAINT)]
        if complaints:
            return "\n  ".join(lines[complaints[-1] :]).removeprefix(COMPLAINT)
        end = "".join(f"\n  {line}" for line in lines[-12:])
        return f"it ended without a word; see {self.spec.log}{end and ', which ends:'}{end}"

    async def keep(self) -> None:
        """Start it again whenever it dies, unless it is released, and say so. Never returns."""
        backoff = Backoff(first_s=0.5)
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            assert self.process is not None, "it was spawned"
            status = await self.process.wait()
            logger.error("child died: child=%s pid=%d status=%s", self.spec.name, self.process.pid, status)
            if self.released:
                say(f"{self.spec.name} has ended ({in_words(status)}); it is not started again, since it has left")
                self.released = False  # who brings it back has started it elsewhere
                await asyncio.Event().wait()
            say(f"{self.spec.name} died ({in_words(status)}); starting it again")
            while True:
                await asyncio.sleep(backoff.next(loop.time() - began))
                began = loop.time()
                try:
                    self.spawn()
                    await self.ready()
                except (StartError, OSError) as error:
                    say(f"{self.spec.name} did not come back: {error}")
                else:
                    say(f"{self.spec.name} is back")
                    break

    async def stop(self) -> None:
        """End it; returns when it is gone."""
        if self.process is not None:
            await self.process.stop(self.spec.stop_s)

    def kill(self) -> None:
        """End it at once."""
        if self.process is not None:
            self.process.id.send(signal.SIGKILL)
