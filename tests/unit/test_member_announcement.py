"""What an agent writes of its servers, where the store carries something out that was given up."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from tests.waiting import until

from helios.errors import Conflict, StartError, StoreError, StoreUnreachable
from helios.model.ids import Address
from helios.model.topology import Topology
from helios.node.backoff import Backoff
from helios.node.files import MemberFolder
from helios.node.keeper import MemberKeeper
from helios.node.member import MemberServer, MemberSpec
from helios.ports.records import MEMBERS, MemberRecord, read_record
from helios.ports.store import Compare, Delete, Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore


class _LateStore(MemoryStore):
    """A store that does the first thing that it is asked to write when everybody has given that up."""

    late: tuple[Sequence[Put | Delete], Sequence[Compare]] | None = None

    async def commit(self, operations: Sequence[Put | Delete], *, compares: Sequence[Compare] = ()) -> int:
        if self.late is None:
            self.late = operations, compares
            raise StoreUnreachable("no answer")
        return await super().commit(operations, compares=compares)


class _Server:
    """A server that comes up at another port each time."""

    spec = MemberSpec("a.0", "a", 0)
    port = 7000

    async def start(self, *, needed: bool, leads: bool) -> None:
        self.port += 1

    async def stop(self) -> None:
        pass

    def record(self) -> MemberRecord:
        return MemberRecord("a.0", "a", Address("host", self.port), "admin")


async def _tell(_: str) -> None:
    pass


async def test_an_announcement_that_comes_late_takes_no_newer_one_back() -> None:
    store = _LateStore()
    keeper = MemberKeeper(cast(MemberServer, _Server()), store, SystemClock(), _tell)
    await keeper.start(Topology(epoch=0))
    await keeper.start(Topology(epoch=0), again=True)
    assert store.late is not None
    operations, compares = store.late
    with pytest.raises(Conflict):
        await store.commit(operations, compares=compares)
    record = await read_record(store, MemberRecord, MEMBERS + "a.0")
    assert record is not None
    assert record.value.address == Address("host", 7002)


async def test_a_server_whose_files_cannot_be_written_is_one_that_cannot_be_started(tmp_path: Path) -> None:
    (tmp_path / "member").touch()
    server = MemberServer(MemberSpec("a.0", "a", 0), MemberFolder(tmp_path / "member"), tmp_path / "log")
    with pytest.raises(StartError, match=r"the files of a.0 in .*member cannot be written \(File exists\)"):
        await server.start(needed=False)


async def test_what_keeps_a_server_from_starting_is_told_until_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    server = _Server()
    keeper = MemberKeeper(cast(MemberServer, server), MemoryStore(), SystemClock(), _tell)
    tried = asyncio.Event()

    async def came_up() -> bool:
        return keeper.came_up

    async def fail(*, needed: bool, leads: bool) -> None:
        if keeper.trouble:
            tried.set()
        raise StartError("no room")

    with monkeypatch.context() as patched:
        patched.setattr(server, "start", fail)
        carried = asyncio.create_task(keeper.carry())
        await tried.wait()
        assert keeper.trouble == "a.0 cannot be started: no room"
    await until(came_up)
    assert keeper.trouble == ""
    carried.cancel()


class _FullStore(MemoryStore):
    """A store whose disk is full the first time."""

    full = True

    async def commit(self, operations: Sequence[Put | Delete], *, compares: Sequence[Compare] = ()) -> int:
        if self.full:
            self.full = False
            raise StoreError("no room")
        return await super().commit(operations, compares=compares)


async def test_a_server_that_cannot_be_announced_runs_on() -> None:
    """It may be followed by then, and have what was acknowledged since."""
    store, server = _FullStore(), _Server()
    ended: list[int] = []

    async def stop() -> None:
        ended.append(server.port)

    server.stop = stop  # type: ignore[method-assign]
    keeper = MemberKeeper(cast(MemberServer, server), store, SystemClock(), _tell)
    await keeper._bring_up(Backoff(), again=True)
    assert keeper.ready
    assert not ended
