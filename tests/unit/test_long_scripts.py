"""What is said of scripts that keep a server from everybody else."""

from __future__ import annotations

from typing import cast

from tests.simulation.loop import SimClock, SimLoop

from helios.coordinator.long_scripts import LongScripts
from helios.model.migration import Change, ChangeStatus
from helios.model.settings import ClusterSettings
from helios.ports.engine import Engine, ScriptEnd


class BusyEngine:
    """A server with a script, and what becomes of an attempt to end it."""

    def __init__(self, *ends: ScriptEnd) -> None:
        self._ends = list(ends)

    async def end_script(self) -> ScriptEnd:
        return self._ends.pop(0)


def test_what_cannot_be_ended_stands_in_the_history_once() -> None:
    loop = SimLoop()
    noted: list[Change] = []

    async def note(change: Change) -> None:
        noted.append(change)

    async def run() -> list[str]:
        scripts = LongScripts(SimClock(loop), ClusterSettings, note)
        engine = cast(Engine, BusyEngine(*[ScriptEnd.UNKILLABLE] * 3, ScriptEnd.ENDED, ScriptEnd.UNKILLABLE))
        said = [await scripts.end("shard-1", engine) for _ in range(3)]
        scripts.over("shard-1")
        return [*said, await scripts.end("shard-1", engine), await scripts.end("shard-1", engine)]

    try:
        said = loop.run_until_complete(run())
    finally:
        loop.close()
    assert [("cannot be ended" in each) for each in said] == [True, True, True, False, True]
    assert [change.status for change in noted] == [ChangeStatus.FAILED, ChangeStatus.DONE, ChangeStatus.FAILED]
    assert noted[0].error is not None and "end the server's process" in noted[0].error
