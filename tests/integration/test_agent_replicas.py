"""Agents that run members of shards which others have founded; the test stands for the coordinator."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from tests.agent_lab import AgentLab
from tests.engine_lab import raw
from tests.waiting import until

from helios.errors import EngineError
from helios.model.ids import Address, founder_id, replica_id
from helios.model.settings import Settings
from helios.model.topology import Member, Node, Shard, Topology
from helios.node.files import MemberFolder, read_json
from helios.node.member_state import member_of, members_of
from helios.ports.engine import Engine
from helios.ports.records import (
    AGENTS,
    MEMBERS,
    REPLICAS,
    TOPOLOGY,
    AgentRecord,
    MemberRecord,
    ReplicasRecord,
    put_record,
    read_record,
)
from helios.ports.store import Delete
from helios.ports.topologies import read_topology
from helios.runtime.backends import connector
from helios.stores.memory import MemoryStore

pytestmark = pytest.mark.processes

LEADER, FOLLOWER = founder_id("shard-1"), replica_id("shard-1", "shard-2")


@dataclass
class Nodes:
    """Two nodes in one store: the first has founded a shard, the second may carry a member of it."""

    first: AgentLab
    second: AgentLab
    store: MemoryStore
    _opened: list[Engine] = field(default_factory=list)

    @property
    def files(self) -> MemberFolder:
        """Those of the second node's member of the first one's shard."""
        return self.second.folder.member(FOLLOWER)

    async def wish(self, *nodes: str) -> None:
        """Want members at these nodes, or none any more."""
        record = put_record(REPLICAS + "shard-1", ReplicasRecord("shard-1", nodes))
        await self.store.commit([record if nodes else Delete(REPLICAS + "shard-1")])

    async def record(self, member_id: str) -> MemberRecord | None:
        """Where an agent says that the member is."""
        found = await read_record(self.store, MemberRecord, MEMBERS + member_id)
        return None if found is None else found.value

    async def announced(self, member_id: str, *, not_run: str = "") -> MemberRecord:
        """The same, once its server runs, and not as that earlier process."""
        found: list[MemberRecord] = []

        async def runs() -> bool:
            record = await self.record(member_id)
            found[:] = [] if record is None or record.dead or record.run == not_run else [record]
            return bool(found)

        await until(runs)
        return found[0]

    async def publish(
        self, *members: str, leader: str = LEADER, learners: tuple[str, ...] = (), epoch: int = 0
    ) -> None:
        """Have the topology list these members of the first node's shard."""
        placed = [Member(each, *await self._place(each)) for each in (*members, *learners)]
        nodes = tuple(Node(lab.node_id, Address("127.0.0.1", lab.port)) for lab in (self.first, self.second))
        shard = Shard("shard-1", leader, tuple(placed[: len(members)]), learners=tuple(placed[len(members) :]))
        epoch = epoch or (await read_topology(self.store)).epoch + 1
        await self.store.commit([put_record(TOPOLOGY, Topology(epoch, nodes=nodes, shards=(shard,)))])

    async def _place(self, member_id: str) -> tuple[str, Address]:
        record = await self.record(member_id)
        assert record is not None
        return record.node, record.address

    async def open(self, member_id: str) -> Engine:
        """The member, as its administrator."""
        record = await self.record(member_id)
        assert record is not None
        engines = connector(self.store, Settings())
        engine = await engines.open(Member(member_id, record.node, record.address))
        self._opened.append(engine)
        return engine

    async def follow(self) -> None:
        """Have the second node's member follow the first's, and be in sync."""
        record = await self.record(LEADER)
        assert record is not None
        follower = await self.open(FOLLOWER)
        await follower.follow(Member(LEADER, record.node, record.address), record.user, record.password)

        async def in_sync() -> bool:
            return (await follower.replication()).in_sync

        await until(in_sync)

    async def news(self, node_id: str) -> str:
        """What the node's agent has told people."""
        record = await read_record(self.store, AgentRecord, AGENTS + node_id)
        return "" if record is None else " ".join(record.value.news)

    async def told(self, node_id: str, words: str) -> None:
        """Wait until it has told that."""

        async def said() -> bool:
            return words in await self.news(node_id)

        await until(said)

    async def close(self) -> None:
        """Leave nothing."""
        for engine in self._opened:
            await engine.close()
        for lab in (self.first, self.second):
            await lab.end()
        await self.store.close()


@pytest.fixture
async def nodes(tmp_path: Path) -> AsyncIterator[Nodes]:
    store = MemoryStore()
    both = Nodes(AgentLab(tmp_path / "1", "shard-1", store), AgentLab(tmp_path / "2", "shard-2", store), store)
    yield both
    await both.close()


async def write(engine: Engine, key: str, value: str) -> None:
    """Write a key as a client does."""
    await raw(engine).execute("SET", key, value)


async def read(engine: Engine, key: str) -> bytes | None:
    """Read a key as a client does."""
    return bytes(value) if (value := await raw(engine).execute("GET", key)) is not None else None


async def test_a_member_that_is_wished_for_waits_to_be_told_whom_it_follows(nodes: Nodes) -> None:
    second = nodes.second.agent()
    async with nodes.first.running(nodes.first.agent()), nodes.second.running(second):
        await nodes.publish(LEADER)
        await nodes.wish("shard-2")
        record = await nodes.announced(FOLLOWER)
        assert (record.node, record.dead) == ("shard-2", False)
        follower, leader = await nodes.open(FOLLOWER), await nodes.open(LEADER)
        said = await follower.replication()
        assert (said.leads, said.leader, said.history) == (False, None, "")
        with pytest.raises(EngineError):
            await write(follower, "a", "1")
        await write(leader, "a", "1")
        await nodes.follow()
        assert await read(follower, "a") == b"1"
        assert [each.address for each in (await leader.replication()).followers] == [record.address]
        assert second.serves()
        assert len(members_of(nodes.second.folder)) == 2
    assert nodes.second.leftovers() == []


async def test_a_member_with_fellows_that_dies_comes_back_following_nobody(nodes: Nodes) -> None:
    async with nodes.first.running(nodes.first.agent()), nodes.second.running(nodes.second.agent()):
        await nodes.publish(LEADER)
        await nodes.wish("shard-2")
        await nodes.announced(FOLLOWER)
        await nodes.follow()
        await nodes.publish(LEADER, FOLLOWER)
        await write(await nodes.open(LEADER), "a", "1")
        for member_id, lab in ((FOLLOWER, nodes.second), (LEADER, nodes.first)):
            record = await nodes.announced(member_id)
            process = member_of(lab.folder.member(member_id))
            assert process is not None
            process.id.send(signal.SIGKILL)
            await nodes.announced(member_id, not_run=record.run)
            said = await (await nodes.open(member_id)).replication()
            assert (said.leads, said.history, said.leader) == (False, "", None)
        leader = await nodes.open(LEADER)
        await leader.promote()
        assert await read(leader, "a") == b"1"


async def test_a_death_is_told_at_once(nodes: Nodes) -> None:
    async with nodes.first.running(nodes.first.agent()):
        await nodes.publish(LEADER)
        record = await nodes.announced(LEADER)
        shutil.rmtree(nodes.first.folder.founder.root / "appendonlydir")  # it cannot come back
        process = member_of(nodes.first.folder.founder)
        assert process is not None
        process.id.send(signal.SIGKILL)

        async def dead() -> bool:
            return await nodes.record(LEADER) == replace(record, dead=True)

        await until(dead)
        await nodes.told("shard-1", "its data server did not come back: the data of shard-1.0 is gone")


async def test_an_agent_starts_members_with_fellows_following_nobody(nodes: Nodes) -> None:
    async with nodes.first.running(nodes.first.agent()), nodes.second.running(nodes.second.agent()):
        await nodes.publish(LEADER)
        await nodes.wish("shard-2")
        await nodes.announced(FOLLOWER)
        await nodes.publish(LEADER, FOLLOWER)
    assert nodes.first.leftovers() == nodes.second.leftovers() == []
    stopped = await nodes.record(FOLLOWER)
    assert stopped is not None
    async with nodes.first.running(nodes.first.agent()), nodes.second.running(nodes.second.agent()):
        await nodes.announced(FOLLOWER, not_run=stopped.run)
        for member_id in (LEADER, FOLLOWER):
            assert not (await (await nodes.open(member_id)).replication()).leads
        await nodes.publish(LEADER, learners=(FOLLOWER,))
    async with nodes.first.running(nodes.first.agent()):
        assert (await (await nodes.open(LEADER)).replication()).leads  # it is the only member that counts


async def test_a_founder_that_is_no_member_any_more_does_not_lead(nodes: Nodes) -> None:
    async with nodes.first.running(nodes.first.agent()), nodes.second.running(nodes.second.agent()):
        await nodes.publish(LEADER)
        await nodes.wish("shard-2")
        await nodes.announced(FOLLOWER)
        await nodes.publish(FOLLOWER, leader=FOLLOWER)
    async with nodes.first.running(nodes.first.agent()):
        assert not (await (await nodes.open(LEADER)).replication()).leads


async def test_a_member_goes_with_its_data_when_neither_wish_nor_topology_has_it(nodes: Nodes) -> None:
    async with nodes.first.running(nodes.first.agent()), nodes.second.running(nodes.second.agent()):
        await nodes.publish(LEADER)
        await nodes.wish("shard-2")
        await nodes.announced(FOLLOWER)
        await nodes.publish(LEADER, learners=(FOLLOWER,))
        await nodes.wish()
        watched = await nodes.open(FOLLOWER)
        await nodes.wish("shard-9")  # a wish for others is one, too
        await nodes.wish()
        assert (await watched.info()).run_id
        assert nodes.files.root.is_dir()
        await nodes.publish(LEADER)
        await until(lambda: not nodes.files.root.exists() and not nodes.files.state.exists())
        assert await nodes.record(FOLLOWER) is None
        assert len(members_of(nodes.second.folder)) == 1
        await nodes.wish("shard-2")  # and may be wished for again
        await nodes.announced(FOLLOWER)


async def test_an_older_topology_takes_no_data_away(nodes: Nodes, caplog: pytest.LogCaptureFixture) -> None:
    async with nodes.first.running(nodes.first.agent()), nodes.second.running(nodes.second.agent()):
        await nodes.publish(LEADER, epoch=7)
        await nodes.wish("shard-2")
        await nodes.announced(FOLLOWER)
    await nodes.publish(LEADER, epoch=3)
    await nodes.wish()
    second = nodes.second.agent()
    async with nodes.second.running(second):
        await until(lambda: f"member kept, the topology is older: member={FOLLOWER} epoch=7" in caplog.text)
        assert nodes.files.root.is_dir()
        await nodes.publish(LEADER, epoch=7)
        await nodes.wish("shard-9")
        await until(lambda: not nodes.files.root.exists())


async def test_what_an_agent_had_no_time_to_delete_the_next_one_deletes(nodes: Nodes) -> None:
    async with nodes.first.running(nodes.first.agent()), nodes.second.running(nodes.second.agent()):
        await nodes.publish(LEADER)
        await nodes.wish("shard-2")
        await nodes.announced(FOLLOWER)
    await nodes.wish()
    await nodes.store.commit([Delete(MEMBERS + FOLLOWER)])
    half = nodes.files.root.with_name(".discarded-member-x")
    half.mkdir()
    (half / "file").touch()
    async with nodes.second.running(nodes.second.agent()):
        await until(lambda: not nodes.files.root.exists() and not half.exists())
    assert nodes.second.leftovers() == []


async def test_members_are_adopted(nodes: Nodes) -> None:
    agent = nodes.second.agent()
    async with nodes.first.running(nodes.first.agent()):
        async with nodes.second.running(agent) as task:
            await nodes.publish(LEADER)
            await nodes.wish("shard-2")
            before = await nodes.announced(FOLLOWER)
            await write(await nodes.open(LEADER), "a", "1")
            await nodes.follow()
            await nodes.second.abandon(task, agent)
        follower = await nodes.open(FOLLOWER)
        async with nodes.second.running(nodes.second.agent()):
            assert await nodes.announced(FOLLOWER) == before
            assert (await follower.replication()).in_sync  # nobody has told it anything
            assert await read(follower, "a") == b"1"
        assert nodes.second.leftovers() == []


async def test_an_end_leaves_no_member_of_an_earlier_agent(nodes: Nodes) -> None:
    agent = nodes.second.agent()
    async with nodes.second.running(agent) as task:
        await nodes.wish("shard-2")
        await nodes.announced(FOLLOWER)
        await nodes.second.abandon(task, agent)
    assert member_of(nodes.files) is not None
    stop = asyncio.Event()

    async def at_once() -> None:
        stop.set()

    await nodes.second.agent().run(stop, at_once)
    assert nodes.second.leftovers() == []


@pytest.mark.parametrize("damage", ["lost", "corrupt"])
async def test_files_of_a_member_that_others_have_too_are_replaced(nodes: Nodes, damage: str) -> None:
    async with nodes.first.running(nodes.first.agent()):
        async with nodes.second.running(nodes.second.agent()):
            await nodes.publish(LEADER)
            await nodes.wish("shard-2")
            await nodes.announced(FOLLOWER)
            leader = await nodes.open(LEADER)
            for number in range(20):
                await write(leader, f"key:{number}", "x" * 50)
            await nodes.follow()
            await nodes.publish(LEADER, FOLLOWER)
            assert await leader.round(1, 60.0) == 1
        stopped = await nodes.record(FOLLOWER)
        assert stopped is not None
        spoil(nodes.files.root / "appendonlydir", damage)
        async with nodes.second.running(nodes.second.agent()):
            await nodes.announced(FOLLOWER, not_run=stopped.run)
            if damage == "corrupt":
                await nodes.told("shard-2", "could not load its files, which are deleted")
            await nodes.follow()
            assert await (await nodes.open(FOLLOWER)).count() == 20


@pytest.mark.parametrize("damage", ["lost", "corrupt"])
async def test_the_files_of_a_leader_are_never_replaced(nodes: Nodes, damage: str) -> None:
    async with nodes.second.running(nodes.second.agent()), nodes.first.running(nodes.first.agent()):
        await nodes.publish(LEADER)
        await nodes.wish("shard-2")
        await nodes.announced(FOLLOWER)
        await write(await nodes.open(LEADER), "a", "1" * 100)
        await nodes.follow()
        # The second node's member leads by now.
        await (await nodes.open(FOLLOWER)).promote()
        await nodes.publish(LEADER, FOLLOWER, leader=FOLLOWER)
        record = await nodes.announced(FOLLOWER)
        process = member_of(nodes.files)
        assert process is not None
        folder = nodes.files.root / "appendonlydir"
        process.id.send(signal.SIGSTOP)
        spoil(folder, damage)
        left = sorted(path.name for path in folder.glob("*"))
        process.id.send(signal.SIGKILL)
        await nodes.told("shard-2", f"{FOLLOWER} did not come back")
        assert sorted(path.name for path in folder.glob("*")) == left
        # When another one leads, they are worth nothing.
        await nodes.publish(LEADER, FOLLOWER)
        await nodes.announced(FOLLOWER, not_run=record.run)


def spoil(folder: Path, damage: str) -> None:
    """Lose the files of a data server, or make them such that it cannot load them."""
    if damage == "lost":
        shutil.rmtree(folder)
        return
    for path in folder.glob("*.base.rdb"):
        path.write_bytes(b"!" * 200)


async def test_a_taken_port_is_given_up_for_another(nodes: Nodes) -> None:
    async with nodes.second.running(nodes.second.agent()):
        await nodes.wish("shard-2")
        before = await nodes.announced(FOLLOWER)
    taken = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", before.address.port)
    async with taken, nodes.second.running(nodes.second.agent()):
        after = await nodes.announced(FOLLOWER, not_run=before.run)
        assert after.address.port != before.address.port


async def test_settings_reach_members_that_came_later(nodes: Nodes) -> None:
    agent = nodes.second.agent()
    async with nodes.second.running(agent):
        await agent.retune(agent.spec.fsync, 64 << 20)
        await nodes.wish("shard-2")
        await nodes.announced(FOLLOWER)
        found = await raw(await nodes.open(FOLLOWER)).execute("CONFIG", "GET", "maxmemory")
        assert found == {b"maxmemory": b"%d" % (64 << 20)}


async def test_a_state_that_cannot_be_read_keeps_no_node_from_serving(nodes: Nodes) -> None:
    async with nodes.second.running(nodes.second.agent()):
        await nodes.wish("shard-2")
        await nodes.announced(FOLLOWER)
    assert read_json(nodes.files.state) is not None
    nodes.files.state.write_text("{")
    agent = nodes.second.agent()
    async with nodes.second.running(agent):
        assert agent.serves()
        nodes.files.state.unlink()
        await nodes.announced(FOLLOWER)
