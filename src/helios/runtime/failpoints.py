"""Failpoints of real processes, steered by files: a test arms a point, and who comes by it first is caught there."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
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
        try:
            # Of several processes one succeeds.
            self._armed(point).rename(self._taken(point))
        except FileNotFoundError:
            return
        action = self._taken(point).read_text()
        if action in (KILL, STOP):
            os.kill(os.getpid(), signal.SIGKILL if action == KILL else signal.SIGSTOP)
        while True:
            if action != WAIT or not self._taken(point).exists():
                return
            await asyncio.sleep(_LOOK_S)

    def _armed(self, point: Point) -> Path:
        return self.folder / point.value

    def _taken(self, point: Point) -> Path:
        return self.folder / f"{point.value}.taken"
