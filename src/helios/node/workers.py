"""Router workers: processes that serve clients and go on doing so when their agent is killed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helios.errors import StartError
from helios.node.locks import Holder, RunLock, holder_of
from helios.node.process import Process, size_of, start_process, tail

logger = logging.getLogger(__name__)

READY = "ready"  # a worker writes this into the note of its lock, once it serves
FINGERPRINT = "fingerprint"  # and this: what it was started with

_POLL_S = 0.02
_START_S = 30.0
_NAMELESS_S = 5.0
STOP_S = 6.0


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """How to start a worker. Workers of the same `fingerprint` are as good as newly started ones."""

    argv: Sequence[str]
    lock: Path
    log: Path
    fingerprint: str
    env: Mapping[str, str] | None = None


class Worker:
    """One router process. It holds its lock itself, so that whoever comes later finds it there."""

    def __init__(self, name: str, spec: WorkerSpec) -> None:
        self.name = name
        self.spec = spec
        self.process: Process | None = None

    async def start(self) -> None:
        """Start the worker, or adopt one that runs already and is like it; returns when it serves.

        Raises StartError. If this is cancelled, `process` is what runs.
        """
        holder = await self._holder()
        if holder is not None and holder.note.get(FINGERPRINT) != self.spec.fingerprint:
            logger.info("router replaced: router=%s pid=%d", self.name, holder.process.pid)
            await Process(holder.process).stop(STOP_S)
            holder = None
        seen = size_of(self.spec.log)
        if holder is not None:
            self.process = Process(holder.process)
            logger.info("router adopted: router=%s pid=%d", self.name, self.process.pid)
        else:
            self.process = start_process(self.spec.argv, log=self.spec.log, env=self.spec.env)
            logger.info("router started: router=%s pid=%d", self.name, self.process.pid)
        await self._wait_ready(self.process, seen)

    async def _holder(self) -> Holder | None:
        """Who holds the lock; waits for a holder that has not written its name yet."""
        if not self.spec.lock.exists():
            return None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _NAMELESS_S
        while loop.time() < deadline:
            holder = holder_of(self.spec.lock)
            if holder is not None:
                return holder
            if not _held(self.spec.lock):
                return None
            await asyncio.sleep(_POLL_S)
        raise StartError(f"{self.spec.lock} is held by a process that does not say who it is")

    async def _wait_ready(self, process: Process, log_seen: int) -> None:
        ended = asyncio.ensure_future(process.wait())
        try:
            async with asyncio.timeout(_START_S):
                while not self._ready(process):
                    if ended.done():
                        shown = tail(self.spec.log, after=log_seen)
                        raise StartError(f"the router {self.name} ended while it was starting; its log ends:\n{shown}")
                    await asyncio.wait({ended}, timeout=_POLL_S)
        except TimeoutError:
            raise StartError(f"the router {self.name} does not come up; its log is {self.spec.log}") from None
        finally:
            ended.cancel()

    def _ready(self, process: Process) -> bool:
        holder = holder_of(self.spec.lock)
        return holder is not None and holder.process == process.id and holder.note.get(READY) == "yes"

    async def stop(self) -> None:
        """End the worker; returns when it is gone."""
        if self.process is not None:
            await self.process.stop(STOP_S)
            self.process = None


def _held(path: Path) -> bool:
    lock = RunLock.try_acquire(path)
    if lock is None:
        return True
    lock.let_go()
    return False
