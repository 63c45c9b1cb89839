"""The agent with a real data server, a store in memory and a stand-in for the router."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.waiting import LIMIT_S, until

from helios.errors import StartError
from helios.model.ids import Address
from helios.model.topology import Member, Node, Shard, Topology
from helios.node.agent import Agent, AgentSpec, lock_node
from helios.node.files import DataFolder, read_json
from helios.node.locks import holder_of
from helios.node.member import member_of
from helios.node.ports import free_ports
from helios.node.probe import ask
from helios.node.process import ProcessId
from helios.node.workers import WorkerSpec
from helios.ports.records import (
    AGENTS,
    MEMBERS,
    SESSIONS,
    TOPOLOGY,
    AgentRecord,
    MemberRecord,
    SessionRecord,
    list_records,
    put_record,
    read_record,
)
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

pytestmark = pytest.mark.processes

# Does what a router worker does towards its agent, and nothing else.
STAND_IN = """
import sys, time, pathlib
from helios.node.locks import RunLock
lock = RunLock.acquire(pathlib.Path(sys.argv[1]), {"ready": "yes", "fingerprint": sys.argv[2]})
time.sleep(600)
"""


class Lab:
    """A data folder with a store, in which agents of one node can be run one after the other."""

    def __init__(self, root: Path) -> None:
        self.data = DataFolder(root)
        self.data.prepare()
        self.folder = self.data.node("shard-1")
        self.store = MemoryStore()
        self.port = free_ports(1)
        self.fingerprint = "a"
        self.coordinating = 0

    def agent(self, workers: int = 1, **options: Any) -> Agent:
        listen = Address("127.0.0.1", self.port)
        return Agent(
            AgentSpec("shard-1", listen, listen, workers=workers, version="1", **options),
            self.data,
            self.store,
            SystemClock(),
            worker=self._worker,
            coordinate=self._coordinate,
        )

    def _worker(self, number: int) -> WorkerSpec:
        lock = self.folder.router_lock(number)
        argv = [sys.executable, "-c", STAND_IN, str(lock), self.fingerprint]
        return WorkerSpec(argv, lock, self.data.log(f"router-{number}"), self.fingerprint)

    async def _coordinate(self) -> None:
        self.coordinating += 1
        try:
            await asyncio.Event().wait()
        finally:
            self.coordinating -= 1

    @asynccontextmanager
    async def running(self, agent: Agent) -> AsyncIterator[asyncio.Task[None]]:
        """Run the agent until the end of the block, and see that it comes up."""
        stop, ready = asyncio.Event(), asyncio.Event()

        async def mark() -> None:
            ready.set()

        lock = lock_node(self.data, "shard-1")
        task = asyncio.create_task(agent.run(stop, mark))
        try:
            waiting = asyncio.create_task(ready.wait())
            await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            if task.done():
                await task
            yield task
        finally:
            stop.set()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            lock.release()

    async def abandon(self, task: asyncio.Task[None], agent: Agent) -> None:
        """Leave the agent's processes running, as its violent death would."""
        agent._acting = False
        task.cancel()
        await asyncio.wait({task})

    def member(self) -> ProcessId:
        found = member_of(self.folder)
        assert found is not None
        return found.id

    def router(self, number: int = 0) -> ProcessId | None:
        holder = holder_of(self.folder.router_lock(number))
        return holder.process if holder else None

    async def command(self, *words: str) -> object:
        record = await read_record(self.store, MemberRecord, MEMBERS + "shard-1.0")
        assert record is not None
        value = record.value
        return (await ask(value.address, [words], user=value.user, password=value.password))[-1]

    async def ready(self) -> bool:
        record = await read_record(self.store, AgentRecord, AGENTS + "shard-1")
        return record is not None and record.value.ready

    async def count_on_it(self) -> None:
        record = await read_record(self.store, MemberRecord, MEMBERS + "shard-1.0")
        assert record is not None
        member = Member("shard-1.0", "shard-1", record.value.address)
        node = Node("shard-1", Address("127.0.0.1", self.port))
        topology = Topology(1, nodes=(node,), shards=(Shard("shard-1", "shard-1.0", (member,)),))
        await self.store.commit([put_record(TOPOLOGY, topology)])

    def leftovers(self) -> list[str]:
        """The command lines of processes that belong to this folder."""
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                line = path.read_bytes().replace(b"\0", b" ").decode()
                if str(self.data.root) in line and int(path.parent.name) != os.getpid():
                    found.append(line)
        return found


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[Lab]:
    lab = Lab(tmp_path / "da ta")
    yield lab
    for process in filter(None, [member_of(lab.folder)]):
        process.id.send(signal.SIGKILL)
    for _, path in lab.folder.router_locks():
        holder = holder_of(path)
        if holder:
            holder.process.send(signal.SIGKILL)
    await until(lambda: lab.leftovers() == [])
    await lab.store.close()


async def test_a_life_and_another_on_the_same_data(lab: Lab) -> None:
    async with lab.running(lab.agent()):
        assert await lab.ready()
        assert lab.coordinating == 1
        assert await lab.command("SET", "a", "1") == b"OK"
        assert lab.router() is not None
        assert (lab.folder.member / "valkey.conf").stat().st_mode & 0o777 == 0o600
        assert lab.folder.member_state.stat().st_mode & 0o777 == 0o600
        record = await read_record(lab.store, MemberRecord, MEMBERS + "shard-1.0")
        assert record is not None
        [refused] = await ask(record.value.address, [["GET", "a"]])
        assert "NOAUTH" in str(refused)
    assert not await lab.ready()
    assert lab.leftovers() == []
    assert lab.coordinating == 0
    async with lab.running(lab.agent()):
        again = await read_record(lab.store, MemberRecord, MEMBERS + "shard-1.0")
        assert again is not None
        assert again.value == record.value
        assert await lab.command("GET", "a") == b"1"


async def test_server_and_routers_are_adopted(lab: Lab) -> None:
    agent = lab.agent(workers=2)
    async with lab.running(agent) as task:
        member, routers = lab.member(), (lab.router(0), lab.router(1))
        await lab.abandon(task, agent)
        assert member.alive()
    async with lab.running(lab.agent(workers=1)):
        assert lab.member() == member
        assert lab.router(0) == routers[0]
        assert lab.router(1) is None  # one worker is asked for now
    assert lab.leftovers() == []


async def test_routers_that_were_started_otherwise_are_replaced(lab: Lab) -> None:
    agent = lab.agent()
    async with lab.running(agent) as task:
        router = lab.router()
        await lab.abandon(task, agent)
    lab.fingerprint = "b"
    async with lab.running(lab.agent()):
        assert lab.router() not in (None, router)


async def test_a_server_whose_name_was_not_written_is_adopted_by_its_own_word(lab: Lab) -> None:
    agent = lab.agent()
    async with lab.running(agent) as task:
        member = lab.member()
        await lab.abandon(task, agent)
    (lab.folder.member / "member.lock").write_text("")
    async with lab.running(lab.agent()):
        assert await lab.command("PING") == b"PONG"
        assert ProcessId.of(member.pid) == member
    assert not member.alive()


async def test_a_stranger_with_the_pid_of_a_dead_server_is_left_alone(lab: Lab) -> None:
    async with lab.running(lab.agent()):
        pass
    me = ProcessId.this()
    named = {"pid": me.pid, "started": me.started, "boot": me.boot, "note": {}}
    (lab.folder.member / "member.lock").write_text(json.dumps(named))
    async with lab.running(lab.agent()):
        assert lab.member() != me
    # And this process is still here to say so.
    assert lab.leftovers() == []


async def test_a_dead_server_comes_back_with_its_data(lab: Lab) -> None:
    agent = lab.agent()
    async with lab.running(agent):
        await lab.command("SET", "a", "1")
        first = lab.member()
        first.send(signal.SIGKILL)
        await until(lambda: member_of(lab.folder) is not None and lab.member() != first)
        await until(agent.serves)
        assert await lab.command("GET", "a") == b"1"


async def test_a_dead_router_comes_back(lab: Lab) -> None:
    async with lab.running(lab.agent()):
        first = lab.router()
        assert first is not None
        first.send(signal.SIGKILL)
        await until(lambda: lab.router() not in (None, first))


async def test_a_server_that_hangs_is_ended_and_comes_back_and_people_are_told(lab: Lab) -> None:
    async with lab.running(lab.agent(hang_s=1.0)):
        assert await lab.command("SET", "k", "v") == b"OK"
        before = lab.member()
        before.send(signal.SIGSTOP)
        await until(lambda: not before.alive())

        news: tuple[str, ...] = ()
        async with asyncio.timeout(LIMIT_S):
            while len(news) < 3:
                await asyncio.sleep(0.01)
                record = await read_record(lab.store, AgentRecord, AGENTS + "shard-1")
                news = () if record is None else record.value.news
        assert await lab.command("GET", "k") == b"v"
        hung, died, back = news
        assert hung.startswith("its data server has said nothing for ")
        assert "it was stopped by a signal" in hung
        assert died == "its data server died (signal 9); starting it again"
        assert back == "its data server is back"


async def test_an_agent_may_leave_what_it_runs_to_the_next_one(lab: Lab) -> None:
    async with lab.running(lab.agent(leave_running=True)):
        assert await lab.command("SET", "k", "v") == b"OK"
        member, router = lab.member(), lab.router()
    assert member.alive()
    assert router is not None
    assert router.alive()
    assert await lab.command("GET", "k") == b"v"
    async with lab.running(lab.agent()):
        assert (lab.member(), lab.router()) == (member, router)
    assert not member.alive()


async def test_nobody_waits_for_the_sessions_of_a_dead_router(lab: Lab) -> None:
    mine, others = SessionRecord("1", "shard-1"), SessionRecord("2", "shard-2")
    async with lab.running(lab.agent()):
        first = lab.router()
        assert first is not None
        lease = await lab.store.grant(1000.0)
        await lab.store.commit([put_record(SESSIONS + each.id, each, lease) for each in (mine, others)])
        first.send(signal.SIGKILL)
        await until(lambda: lab.router() not in (None, first))
        assert [record.value for record in await list_records(lab.store, SessionRecord, SESSIONS)] == [others]


async def test_no_server_is_started_empty_where_there_was_data(lab: Lab) -> None:
    async with lab.running(lab.agent()):
        await lab.count_on_it()
    shutil.rmtree(lab.folder.member)
    with pytest.raises(StartError, match=r"the data of shard-1\.0 is gone from"):
        async with lab.running(lab.agent()):
            pass
    assert lab.leftovers() == []


async def test_no_server_is_restarted_empty(lab: Lab) -> None:
    async with lab.running(lab.agent()):
        first = lab.member()
        shutil.rmtree(lab.folder.member)
        first.send(signal.SIGKILL)
        await until(lambda: not first.alive())
        lock = lab.folder.member / "member.lock"
        await until(lock.exists)  # it was tried
        assert not (lab.folder.member / "appendonlydir").exists()
        assert member_of(lab.folder) is None


async def test_a_corrupt_log_is_named_with_the_servers_own_words(lab: Lab) -> None:
    async with lab.running(lab.agent()):
        for number in range(20):
            await lab.command("SET", f"key:{number}", "x" * 50)
    [log] = (lab.folder.member / "appendonlydir").glob("*.incr.aof")
    content = log.read_bytes()
    log.write_bytes(content[:100] + b"!" * 200 + content[300:])
    with pytest.raises(StartError, match=r"(?s)ended while it was starting \(exit status 1\).*Bad file format"):
        async with lab.running(lab.agent()):
            pass
    assert lab.leftovers() == []


async def test_a_taken_port_is_named_and_nothing_is_left(lab: Lab) -> None:
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", lab.port)
    async with server:
        with pytest.raises(StartError, match=f"port {lab.port} on 127.0.0.1 is taken"):
            async with lab.running(lab.agent()):
                pass
    assert lab.leftovers() == []
    assert not lab.folder.member.exists()


async def test_a_taken_member_port_is_given_up_for_another(lab: Lab) -> None:
    async with lab.running(lab.agent()):
        await lab.command("SET", "a", "1")
    state = read_json(lab.folder.member_state)
    assert state is not None
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", state["port"])
    async with server, lab.running(lab.agent()):
        record = await read_record(lab.store, MemberRecord, MEMBERS + "shard-1.0")
        assert record is not None
        assert record.value.address.port != state["port"]
        assert await lab.command("GET", "a") == b"1"


async def test_an_end_during_the_start_leaves_nothing(lab: Lab) -> None:
    stop = asyncio.Event()
    lock = lock_node(lab.data, "shard-1")

    async def never() -> None:
        raise AssertionError("it was told to stop before it could be ready")

    task = asyncio.create_task(lab.agent().run(stop, never))
    await until(lambda: member_of(lab.folder) is not None)
    stop.set()
    await task
    lock.release()
    assert lab.leftovers() == []
