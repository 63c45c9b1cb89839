"""Failpoints of real processes, steered by files: a test arms a point, and who comes by it first is caught there."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from helios.ports.failpoints import OFF, Failpoints, Point

VARIABLE = "HELIOS_FAILPOINTS"  # the folder with the files; without it all points are off

WAIT = "wait"  # the work at the point waits until the test lets it go on; the process lives on around it
KILL = "kill"  # the process ends at once, as by SIGKILL
STOP = "stop"  # the process freezes, as by SIGSTOP

_LOOK_S = 0.005


def failpoints(environ: Mapping[str, str]) -> Failpoints:
    """The failpoints that the environment asks for."""
    folder = environ.get(VARIABLE, "")
    return FileFailpoints(Path(folder)) if folder else OFF


def committing(environ: Mapping[str, str]) -> Callable[[], None] | None:
    """What happens inside each commit to the store, if the environment asks for failpoints."""
    folder = environ.get(VARIABLE, "")
    return partial(FileFailpoints(Path(folder)).pass_by, Point.COMMITTING) if folder else None


class FileFailpoints:
    """A file named after a point arms it; what it holds is done once, by the first process that comes by."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def arm(self, point: Point, action: str = WAIT) -> None:
        """Have the next coordinator that comes by do this."""
        self._taken(point).unlink(missing_ok=True)
        beside = self._armed(point).with_suffix(".new")
        beside.write_text(action)
        beside.replace(self._armed(point))

    def reached(self, point: Point) -> bool:
        """Whether somebody has come by since the point was armed (and waits there, if that is what to do)."""
        return self._taken(point).exists()

    def release(self, point: Point) -> None:
        """Let whoever waits at the point go on, and arm it no longer."""
        self._armed(point).unlink(missing_ok=True)
        self._taken(point).unlink(missing_ok=True)

    async def reach(self, point: Point) -> None:
        """Do what the point is armed with, if it is."""
        action = self._meet(point)
        while True:
            if action != WAIT or not self._taken(point).exists():
                return
            await asyncio.sleep(_LOOK_S)

    def pass_by(self, point: Point) -> None:
        """The same for a thread, which is killed or frozen with its process, but cannot wait."""
        self._meet(point)

    def _meet(self, point: Point) -> str:
        """Be killed or frozen, if that is what to do; else the action to do, empty where there is none."""
        try:
            # Of several processes one succeeds.
            self._armed(point).rename(self._taken(point))
        except FileNotFoundError:
            return ""
        action = self._taken(point).read_text()
        if action in (KILL, STOP):
            # To this very thread: sent to the process, another one might take it, and this one go on for a moment.
            signal.pthread_kill(threading.get_ident(), signal.SIGKILL if action == KILL else signal.SIGSTOP)
        return action

    def _armed(self, point: Point) -> Path:
        return self.folder / point.value

    def _taken(self, point: Point) -> Path:
        return self.folder / f"{point.value}.taken"
