"""The one moment of a backup: who takes part in it, what spoils it, and that commands flow again whatever happens."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from hashlib import sha256

import pytest
from tests.memory_shards import MemoryShards, memory_shards
from tests.waiting import until

from helios.admin import backups
from helios.admin.client import Admin
from helios.coordinator import moment
from helios.coordinator.moment import release
from helios.coordinator.publisher import Publisher
from helios.errors import EngineUnreachable, InvalidInput, NotFound, Refused, Unavailable
from helios.model.backup import ClusterState
from helios.model.codec import decode
from helios.model.fences import Fence
from helios.model.topology import Member, Topology
from helios.model.users import Role, User
from helios.ports.records import (
    BACKUPS,
    TERM,
    USERS,
    BackupRecord,
    BackupStage,
    UsersRecord,
    put_record,
    read_record,
)
from helios.ports.store import Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

COPY = bytes(range(256)) * 40_000  # more than is held at a time


class CopyOf:
    """A server's copy: what it has when it begins is noted by whoever made it."""

    server = "memory 9"

    def __init__(self, taken: Copies, member: Member) -> None:
        self._taken = taken
        self._member = member
        self._left = COPY

    async def begin(self) -> None:
        await self._taken.beginning(self._member)

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        if self._taken.breaks:
            raise EngineUnreachable(f"{self._member.id} ended the connection before its copy was complete")
        data, self._left = self._left[:100_000], self._left[100_000:]
        return data

    async def close(self) -> None:
        self._taken.closed.add(self._member.id)


class Copies:
    """Makes copies, and remembers how the cluster stood when each began."""

    def __init__(
        self, cluster: MemoryShards, error: Exception | None = None, *, hangs: bool = False, breaks: bool = False
    ) -> None:
        """The `error` comes when a copy begins; one that `breaks` does so while it is read."""
        self.cluster = cluster
        self.breaks = breaks
        self.begun: list[tuple[str, bool]] = []
        self.closed: set[str] = set()
        self._error = error
        self._hangs = hangs

    async def open(self, member: Member) -> CopyOf:
        return CopyOf(self, member)

    async def beginning(self, member: Member) -> None:
        topology = await self.cluster.topology()
        self.begun.append((member.id, bool(topology.still)))
        if self._error is not None:
            raise self._error
        if self._hangs:
            await asyncio.Event().wait()


def admin_of(cluster: MemoryShards, copies: Copies | None) -> Admin:
    return Admin(cluster.store, cluster.connector, cluster.clock, copies)


async def test_all_copies_begin_while_the_cluster_stands_still() -> None:
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        copies = Copies(cluster)
        await cluster.store.commit([put_record(USERS, UsersRecord((User("ann", Role.ADMIN, "hash"),)))])
        await cluster.admin.change_setting("sharding.migration_rate", "77")
        view = await admin_of(cluster, copies).backup()
        assert sorted(copies.begun) == [("a.0", True), ("b.0", True)]
        assert [(copy.shard, copy.server) for copy in view.shards] == [("a", "memory 9"), ("b", "memory 9")]
        assert view.pause_ms > 0
        state = decode(ClusterState, view.cluster.encode())
        assert [user.name for user in state.users] == ["ann"]
        assert state.settings == {"sharding.migration_rate": "77"}
        assert state.topology.placement == (await cluster.topology()).placement
        # Commands flow, nothing of it is left in the store, and the history has it.
        assert (await cluster.topology()).still == ""
        assert (await cluster.store.list(BACKUPS)).entries == ()
        assert [(entry.what, entry.status) for entry in await cluster.admin.history()][-1] == ("backup", "done")


async def test_a_copy_is_read_in_parts_and_again_from_where_one_was() -> None:
    async with memory_shards(["a"], a=9) as cluster:
        admin = admin_of(cluster, Copies(cluster))
        view = await admin.backup()
        read = b""
        while True:
            part = await admin.read_backup(view.id, "a", len(read))
            assert (await admin.read_backup(view.id, "a", len(read))).data[: len(part.data)] == part.data
            read += part.data
            if part.size >= 0:
                break
        assert read == COPY
        assert (part.size, part.sha256) == (len(COPY), sha256(COPY).hexdigest())
        # At the end it still says so, and what stands before is not there any more.
        assert (await admin.read_backup(view.id, "a", len(COPY))).size == len(COPY)
        with pytest.raises(NotFound, match="byte 0 of the copy is not here any more"):
            await admin.read_backup(view.id, "a", 0)
        with pytest.raises(NotFound, match="has no shard 'z': it has a"):
            await admin.read_backup(view.id, "z", 0)
        assert await admin.end_backup(view.id)
        assert not await admin.end_backup(view.id)
        with pytest.raises(NotFound, match="there is no backup"):
            await admin.read_backup(view.id, "a", len(COPY))


async def test_a_copy_that_breaks_off_ends_the_backup() -> None:
    """So that whoever asks once more hears that another is to be taken, and not of the same error."""
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        copies = Copies(cluster, breaks=True)
        admin = admin_of(cluster, copies)
        view = await admin.backup()
        with pytest.raises(EngineUnreachable, match=r"a\.0 ended the connection"):
            await admin.read_backup(view.id, "a", 0)
        assert copies.closed == {"a.0", "b.0"}
        with pytest.raises(NotFound, match=r"there is no backup .* take it anew"):
            await admin.read_backup(view.id, "a", 0)


@pytest.mark.parametrize(
    ("error", "hangs", "said"),
    [
        (EngineUnreachable("a.0 at memory:1 is gone"), False, "a.0 at memory:1 is gone"),
        (None, True, "did not begin within the time for which commands can be held"),
    ],
)
async def test_a_copy_that_does_not_begin_spoils_the_moment(
    error: Exception | None, hangs: bool, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for it for longer than commands can be held."""
    monkeypatch.setattr(backups, "_ATTEMPTS", 1)
    monkeypatch.setattr(moment, "_HELD_S", 0.3)
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        copies = Copies(cluster, error, hangs=hangs)
        taking = asyncio.create_task(admin_of(cluster, copies).backup())

        async def flows() -> bool:
            return bool(copies.begun) and not (await cluster.topology()).still

        async def noted() -> bool:
            return [entry.status for entry in await cluster.admin.history() if entry.what == "backup"] == ["failed"]

        if hangs:
            await until(flows, "commands flow although a server hangs")
            taking.cancel()
            await asyncio.wait([taking])
        else:
            with pytest.raises(Unavailable, match=said):
                await taking
        assert copies.closed == {"a.0", "b.0"}
        await until(flows, "the coordinator hears of it")
        await until(noted, "the history has it")


async def test_a_process_without_a_way_to_copy_says_so() -> None:
    async with memory_shards(["a"], a=9) as cluster:
        with pytest.raises(Refused, match="this process takes no backups: ask a node"):
            await admin_of(cluster, None).backup()


async def test_users_are_restored_as_they_are_written() -> None:
    async with memory_shards(["a"], a=9) as cluster:
        assert await cluster.admin.restore_users('{"default": {"role": "read-only"}}') == 1
        record = await read_record(cluster.store, UsersRecord, USERS)
        assert record is not None
        assert record.value.users == (User("default", Role.READ_ONLY),)
        with pytest.raises(InvalidInput, match=r"security\.users\.ann has no password_hash"):
            await cluster.admin.restore_users('{"ann": {"role": "admin"}}')


async def held(stage: BackupStage | None) -> tuple[MemoryStore, Publisher]:
    """A new coordinator's publisher, where the one before has died while all was held."""
    store = MemoryStore()
    await store.commit([Put(TERM, b"1")])
    entry = await store.get(TERM)
    assert entry is not None
    publisher = await Publisher.open(store, SystemClock(), 1, entry.version)
    await publisher.publish(lambda topology: Topology(topology.epoch, still="b1"))
    if stage is not None:
        await store.commit([put_record(BACKUPS + "b1", BackupRecord("b1", stage))])
    return store, publisher


@pytest.mark.parametrize("stage", [BackupStage.OPEN, BackupStage.STILL, None])
async def test_a_successor_lets_commands_flow_and_leaves_no_way_to_say_begun(stage: BackupStage | None) -> None:
    store, publisher = await held(stage)
    assert (await release(publisher)).still == ""
    assert publisher.topology.still == ""
    assert (await store.list(BACKUPS)).entries == ()


async def test_what_has_begun_in_time_has_begun() -> None:
    store, publisher = await held(BackupStage.BEGUN)
    await release(publisher)
    assert publisher.topology.still == ""
    assert len((await store.list(BACKUPS)).entries) == 1


async def test_every_shard_is_fenced_until_all_is_answered() -> None:
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        at_rest = await cluster.topology()
    assert at_rest.fences == ()
    assert replace(at_rest, still="b1").fences == (Fence("a", answered=True), Fence("b", answered=True))
