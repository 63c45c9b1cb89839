"""Processes that outlive their parent: told apart from later ones of the same pid, watched, ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from helios.node.files import open_log

_POLL_S = 0.1  # where the system has no pidfd
_KILL_WAIT_S = 5.0


def _linux_start(pid: int) -> tuple[str, str] | None:
    """(state, start time in clock ticks after boot) of a process, from /proc; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The second field is the program's name in parentheses and may itself hold spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return fields[0], fields[19]


def _other_start(pid: int) -> tuple[str, str] | None:
    """The same from `ps`, for systems without /proc."""
    shown = subprocess.run(
        ["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True, check=False
    ).stdout.split(None, 1)
    return (shown[0], shown[1].strip()) if len(shown) == 2 else None


_HAS_PROC = Path("/proc/self/stat").exists()
_start_of = _linux_start if _HAS_PROC else _other_start


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class ProcessId:
    """One process for all time: its pid, when it started, and in which run of the machine."""

    pid: int
    started: str
    boot: str = ""

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The identity of the process that has this pid now; None if there is none or it is a zombie."""
        if pid <= 0:
            return None
        found = _start_of(pid)
        if found is None or found[0].startswith("Z"):
            return None
        return cls(pid, found[1], _boot_id())

    @classmethod
    def this(cls) -> ProcessId:
        """The identity of the process that asks."""
        me = cls.of(os.getpid())
        assert me is not None, "whoever asks runs"
        return me

    def alive(self) -> bool:
        """Whether this very process still runs. A zombie does not."""
        return ProcessId.of(self.pid) == self

    def stopped(self) -> bool:
        """Whether this very process stands still, as by SIGSTOP (not: under a debugger)."""
        found = _start_of(self.pid)
        return found is not None and found[0].startswith("T") and found[1] == self.started and self.alive()

    def send(self, number: signal.Signals) -> bool:
        """Send a signal to this very process, never to a later one of the same pid; False if it is gone."""
        if not self.alive():
            return False
        if not hasattr(os, "pidfd_open"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)
                return True
            return False
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return False
        try:
            # The handle pins whichever process it was opened on, so the check below cannot go stale.
            if not self.alive():
                return False
            signal.pidfd_send_signal(handle, number)
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)
        return True


class Process:
    """A process that was started here, or that an earlier parent started and this one watches over."""

    def __init__(self, identity: ProcessId, child: subprocess.Popen[bytes] | None = None) -> None:
        self.id = identity
        self._child = child

    @property
    def pid(self) -> int:
        """The process's number."""
        return self.id.pid

    @property
    def adopted(self) -> bool:
        """Whether another process started it; then its exit status cannot be known."""
        return self._child is None

    @property
    def status(self) -> int | None:
        """The exit status (negative: the signal) once `wait` has returned; None while it runs or if adopted."""
        return None if self._child is None else self._child.returncode

    def running(self) -> bool:
        """Whether it still runs."""
        return self.id.alive()

    async def wait(self) -> int | None:
        """Wait until it has ended; its exit status, None if it was adopted."""
        await self._ended()
        if self._child is None:
            return None
        if self._child.returncode is None:
            # Not reaped yet, so its pid is still its own: what it left in its group (a server's rewriting
            # child, say) can be ended without hitting anybody else.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._child.wait()
        return self._child.returncode

    async def _ended(self) -> None:
        if self._child is not None and self._child.returncode is not None:
            return
        if not hasattr(os, "pidfd_open"):
            while True:
                if not self.running():
                    return
                await asyncio.sleep(_POLL_S)
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[None] = loop.create_future()
        try:
            if not self.running():
                return
            loop.add_reader(handle, _settle, ended)
            await ended
        finally:
            loop.remove_reader(handle)
            os.close(handle)

    async def stop(self, timeout_s: float) -> None:
        """End it: SIGTERM, and SIGKILL if it is still there after `timeout_s`. Returns when it is gone.

        Cancelling this leaves it with the SIGTERM.
        """
        self.id.send(signal.SIGTERM)
        # Not wait_for: in Python 3.11 it loses a cancellation that comes with the process's end.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.wait()
            return
        self.id.send(signal.SIGKILL)
        # A process in uninterruptible sleep cannot be ended by anyone; nobody is helped by waiting forever.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_KILL_WAIT_S):
                await self.wait()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def in_words(status: int | None) -> str:
    """How a process ended, by its exit status."""
    if status is None:
        return "nobody knows why"
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def start_process(
    argv: Sequence[str],
    *,
    log: Path,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    keep_fds: Sequence[int] = (),
    parent_pipe: bool = False,
) -> Process:
    """Start a program in a session of its own, its output appended to `log`, its input empty.

    With `parent_pipe` its input is a pipe that ends when this process does. Raises OSError.
    """
    descriptor = open_log(log)
    try:
        child = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if parent_pipe else subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            cwd=cwd,
            env=None if env is None else dict(env),
            pass_fds=tuple(keep_fds),
            start_new_session=True,
        )
    finally:
        os.close(descriptor)
    found = _start_of(child.pid)  # also of a zombie: it may have ended already
    return Process(ProcessId(child.pid, found[1] if found else "", _boot_id()), child)


def tail(log: Path, *, after: int = 0, lines: int = 12) -> str:
    """The last lines of a log behind the byte `after`; empty where there is none."""
    try:
        with log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(after if after <= size else 0, size - 16384))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return ""
    return "\n".join(text.rstrip().splitlines()[-lines:])


def size_of(log: Path) -> int:
    """The length of a file in bytes, 0 if there is none."""
    try:
        return log.stat().st_size
    except OSError:
        return 0
