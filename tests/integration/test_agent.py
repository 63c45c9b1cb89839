"""The agent with a real data server, a store in memory and a stand-in for the router."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.agent_lab import AgentLab
from tests.waiting import LIMIT_S, until

from helios.errors import EngineUnreachable, StartError
from helios.node.agent import lock_node
from helios.node.files import read_json
from helios.node.member_state import member_of
from helios.node.probe import ask
from helios.node.process import ProcessId
from helios.ports.records import (
    AGENTS,
    MEMBERS,
    SESSIONS,
    AgentRecord,
    MemberRecord,
    SessionRecord,
    list_records,
    put_record,
    read_record,
)

pytestmark = pytest.mark.processes


@pytest.fixture
async def lab(tmp_path: Path) -> AsyncIterator[AgentLab]:
    lab = AgentLab(tmp_path / "da ta")
    yield lab
    await lab.end()
    await lab.store.close()


async def test_a_life_and_another_on_the_same_data(lab: AgentLab) -> None:
    async with lab.running(lab.agent()):
        assert await lab.ready()
        assert lab.coordinating == 1
        assert await lab.command("SET", "a", "1") == b"OK"
        assert lab.router() is not None
        assert (lab.folder.founder.root / "valkey.conf").stat().st_mode & 0o777 == 0o600
        assert lab.folder.founder.state.stat().st_mode & 0o777 == 0o600
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
        assert again.value.run not in ("", record.value.run)
        assert replace(again.value, run=record.value.run) == record.value
        assert await lab.command("GET", "a") == b"1"


async def test_strangers_who_want_all_of_the_servers_places_get_half(lab: AgentLab) -> None:
    """Each of them comes again when it is ended. A server that has no place left is none that hangs, either."""
    async with lab.running(lab.agent(hang_s=1.0)):
        server = lab.member()
        assert await lab.command("CONFIG", "SET", "maxclients", "40") == b"OK"
        record = await read_record(lab.store, MemberRecord, MEMBERS + "shard-1.0")
        assert record is not None
        address = record.value.address
        ended: asyncio.Queue[None] = asyncio.Queue()

        async def stranger() -> None:
            while True:
                with contextlib.suppress(OSError):
                    reader, writer = await asyncio.open_connection(address.host, address.port)
                    await reader.read()
                    writer.close()
                    ended.put_nowait(None)
                await asyncio.sleep(0.5)

        async def let_in() -> None:
            while True:
                with contextlib.suppress(EngineUnreachable):
                    assert await lab.command("PING") == b"PONG"
                    return
                await asyncio.sleep(0.01)

        async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as strangers:
            tasks = [strangers.create_task(stranger()) for _ in range(60)]
            for lot in (60, 140, 300):
                for _ in range(lot):
                    await ended.get()
                await let_in()
            for task in tasks:
                task.cancel()
        assert lab.member() == server


@pytest.mark.parametrize("name", ["short", "long" * 25])
async def test_the_server_has_a_socket_where_its_path_is_not_too_long(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        lab = AgentLab(Path(folder) / name)
        async with lab.running(lab.agent()):
            assert await lab.command("PING") == b"PONG"
            assert lab.folder.founder.socket.exists() == (name == "short")
            assert lab.folder.founder.root.stat().st_mode & 0o777 == 0o700
        await lab.store.close()


async def test_server_and_routers_are_adopted(lab: AgentLab) -> None:
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


async def test_routers_that_were_started_otherwise_are_replaced(lab: AgentLab) -> None:
    agent = lab.agent()
    async with lab.running(agent) as task:
        router = lab.router()
        await lab.abandon(task, agent)
    lab.fingerprint = "b"
    async with lab.running(lab.agent()):
        assert lab.router() not in (None, router)


async def test_a_server_whose_name_was_not_written_is_adopted_by_its_own_word(lab: AgentLab) -> None:
    agent = lab.agent()
    async with lab.running(agent) as task:
        member = lab.member()
        await lab.abandon(task, agent)
    lab.folder.founder.lock.write_text("")
    async with lab.running(lab.agent()):
        assert await lab.command("PING") == b"PONG"
        assert ProcessId.of(member.pid) == member
    assert not member.alive()


async def test_a_stranger_with_the_pid_of_a_dead_server_is_left_alone(lab: AgentLab) -> None:
    async with lab.running(lab.agent()):
        pass
    me = ProcessId.this()
    named = {"pid": me.pid, "started": me.started, "boot": me.boot, "note": {}}
    lab.folder.founder.lock.write_text(json.dumps(named))
    async with lab.running(lab.agent()):
        assert lab.member() != me
    # And this process is still here to say so.
    assert lab.leftovers() == []


async def test_a_dead_server_comes_back_with_its_data(lab: AgentLab) -> None:
    agent = lab.agent()
    async with lab.running(agent):
        await lab.command("SET", "a", "1")
        first = lab.member()
        first.send(signal.SIGKILL)
        await until(lambda: (found := member_of(lab.folder.founder)) is not None and found.id != first)
        await until(agent.serves)
        assert await lab.command("GET", "a") == b"1"


async def test_a_dead_router_comes_back(lab: AgentLab) -> None:
    async with lab.running(lab.agent()):
        first = lab.router()
        assert first is not None
        first.send(signal.SIGKILL)
        await until(lambda: lab.router() not in (None, first))


async def test_a_server_that_hangs_is_ended_and_comes_back_and_people_are_told(lab: AgentLab) -> None:
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


async def test_an_agent_may_leave_what_it_runs_to_the_next_one(lab: AgentLab) -> None:
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


async def test_nobody_waits_for_the_sessions_of_a_dead_router(lab: AgentLab) -> None:
    mine, others = SessionRecord("1", "shard-1"), SessionRecord("2", "shard-2")
    async with lab.running(lab.agent()):
        first = lab.router()
        assert first is not None
        lease = await lab.store.grant(1000.0)
        await lab.store.commit([put_record(SESSIONS + each.id, each, lease) for each in (mine, others)])
        first.send(signal.SIGKILL)
        await until(lambda: lab.router() not in (None, first))
        assert [record.value for record in await list_records(lab.store, SessionRecord, SESSIONS)] == [others]


async def test_no_server_is_started_empty_where_there_was_data(lab: AgentLab) -> None:
    async with lab.running(lab.agent()):
        await lab.count_on_it()
    shutil.rmtree(lab.folder.founder.root)
    with pytest.raises(StartError, match=r"the data of shard-1\.0 is gone from"):
        async with lab.running(lab.agent()):
            pass
    assert lab.leftovers() == []


async def test_no_server_is_restarted_empty(lab: AgentLab) -> None:
    async with lab.running(lab.agent()):
        first = lab.member()
        shutil.rmtree(lab.folder.founder.root)
        first.send(signal.SIGKILL)
        await until(lambda: not first.alive())
        lock = lab.folder.founder.lock
        await until(lock.exists)  # it was tried
        assert not (lab.folder.founder.root / "appendonlydir").exists()
        assert member_of(lab.folder.founder) is None


async def test_a_corrupt_log_is_named_with_the_servers_own_words(lab: AgentLab) -> None:
    async with lab.running(lab.agent()):
        for number in range(20):
            await lab.command("SET", f"key:{number}", "x" * 50)
    [log] = (lab.folder.founder.root / "appendonlydir").glob("*.incr.aof")
    content = log.read_bytes()
    log.write_bytes(content[:100] + b"!" * 200 + content[300:])
    with pytest.raises(StartError, match=r"(?s)ended while it was starting \(exit status 1\).*Bad file format"):
        async with lab.running(lab.agent()):
            pass
    assert lab.leftovers() == []


async def test_a_taken_port_is_named_and_nothing_is_left(lab: AgentLab) -> None:
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", lab.port)
    async with server:
        with pytest.raises(StartError, match=f"port {lab.port} on 127.0.0.1 is taken"):
            async with lab.running(lab.agent()):
                pass
    assert lab.leftovers() == []
    assert not lab.folder.founder.root.exists()


async def test_a_taken_member_port_is_given_up_for_another(lab: AgentLab) -> None:
    async with lab.running(lab.agent()):
        await lab.command("SET", "a", "1")
    state = read_json(lab.folder.founder.state)
    assert state is not None
    server = await asyncio.start_server(lambda _r, _w: None, "127.0.0.1", state["port"])
    async with server, lab.running(lab.agent()):
        record = await read_record(lab.store, MemberRecord, MEMBERS + "shard-1.0")
        assert record is not None
        assert record.value.address.port != state["port"]
        assert await lab.command("GET", "a") == b"1"


async def test_an_end_during_the_start_leaves_nothing(lab: AgentLab) -> None:
    stop = asyncio.Event()
    lock = lock_node(lab.data, "shard-1")

    async def never() -> None:
        raise AssertionError("it was told to stop before it could be ready")

    task = asyncio.create_task(lab.agent().run(stop, never))
    await until(lambda: member_of(lab.folder.founder) is not None)
    stop.set()
    await task
    lock.release()
    assert lab.leftovers() == []
