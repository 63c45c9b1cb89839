"""Whether a node is online, suspect or offline, since when and why."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.topologies import cluster
from tests.waiting import until

from helios.control.health import Signs, as_answered, judge, seen_by_reader, suspect_after_s
from helios.coordinator.health import Watch
from helios.coordinator.history import History
from helios.coordinator.publisher import Publisher
from helios.coordinator.term_context import TermContext
from helios.engines.memory import MemoryConnector
from helios.engines.memory.connection import MemoryConnection
from helios.engines.memory.server import MemoryServer
from helios.model.codec import decode
from helios.model.health import NodeHealth, NodeStatus
from helios.model.settings import ClusterSettings
from helios.ports.ids import new_id
from helios.ports.records import AGENTS, HEALTH, TERM, TOPOLOGY, AgentRecord, HealthRecord, put_record
from helios.ports.store import Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore

TIMEOUT_S = 30.0
ONLINE = NodeHealth("n", NodeStatus.ONLINE, 500.0, "", 999.0, 999.0)


def status(heartbeat_at: float | None, answered_at: float | None, now: float = 1000.0) -> NodeStatus:
    return judge("n", Signs(heartbeat_at, answered_at), None, now, TIMEOUT_S).status


@pytest.mark.parametrize(
    ("heartbeat_at", "answered_at", "expected"),
    [
        (999.0, 998.0, NodeStatus.ONLINE),
        (990.1, 990.1, NodeStatus.ONLINE),
        (990.0, 999.0, NodeStatus.SUSPECT),
        (999.0, 975.0, NodeStatus.SUSPECT),
        (999.0, 970.0, NodeStatus.OFFLINE),
        (960.0, 999.0, NodeStatus.OFFLINE),
        (None, 999.0, NodeStatus.OFFLINE),
        (999.0, None, NodeStatus.OFFLINE),
    ],
)
def test_a_node_is_as_well_as_the_worse_of_its_parts(
    heartbeat_at: float | None, answered_at: float | None, expected: NodeStatus
) -> None:
    assert status(heartbeat_at, answered_at) is expected


def test_silence_begins_when_it_was_last_heard_and_names_what_is_silent() -> None:
    suspect = judge("n", Signs(999.0, 985.0, "no route"), ONLINE, 1000.0, TIMEOUT_S)
    assert (suspect.status, suspect.since) == (NodeStatus.SUSPECT, 985.0)
    assert suspect.reason == "its data server does not answer: no route"
    later = judge("n", Signs(1001.0, 985.0, "another word"), suspect, 1002.0, TIMEOUT_S)
    assert (later.since, later.reason) == (suspect.since, suspect.reason), "nothing to write down again"
    offline = judge("n", Signs(1019.0, 985.0, "no route"), later, 1020.0, TIMEOUT_S)
    assert (offline.status, offline.since, offline.last_seen) == (NodeStatus.OFFLINE, 985.0, 985.0)
    back = judge("n", Signs(1029.0, 1029.5), offline, 1030.0, TIMEOUT_S)
    assert (back.status, back.since, back.reason) == (NodeStatus.ONLINE, 1030.0, "")
    agent = judge("n", Signs(960.0, 999.0), ONLINE, 1000.0, TIMEOUT_S)
    assert agent.reason == "its agent (helios node) sends no heartbeat"


def test_suspicion_comes_before_the_end_of_patience() -> None:
    assert suspect_after_s(30.0) == 10.0
    assert suspect_after_s(6.0) == 3.0
    assert suspect_after_s(1.0) == 1.0


def test_a_reader_believes_the_coordinator_and_heartbeats_that_have_stopped_since() -> None:
    silent = NodeHealth("n", NodeStatus.SUSPECT, 985.0, "its data server does not answer: x", 985.0, 985.0)
    assert seen_by_reader("n", silent, 999.0, 1000.0, TIMEOUT_S) == silent
    assert seen_by_reader("n", ONLINE, 999.5, 1000.0, TIMEOUT_S).last_seen == 999.5
    gone = seen_by_reader("n", ONLINE, 900.0, 1000.0, TIMEOUT_S)
    assert (gone.status, gone.since) == (NodeStatus.OFFLINE, 900.0)
    assert gone.reason == "its agent (helios node) sends no heartbeat"
    assert seen_by_reader("n", silent, 900.0, 1000.0, TIMEOUT_S).status is NodeStatus.OFFLINE
    assert seen_by_reader("n", None, 999.0, 1000.0, TIMEOUT_S).status is NodeStatus.ONLINE
    assert seen_by_reader("n", None, None, 1000.0, TIMEOUT_S).status is NodeStatus.OFFLINE


def test_an_agent_that_is_heard_again_is_believed_before_the_coordinator_says_so() -> None:
    silent = NodeHealth("n", NodeStatus.OFFLINE, 960.0, "its agent (helios node) sends no heartbeat", 960.0, 998.0)
    assert seen_by_reader("n", silent, 999.0, 1000.0, TIMEOUT_S).status is NodeStatus.ONLINE
    assert seen_by_reader("n", silent, 960.0, 1000.0, TIMEOUT_S) == silent
    # What its server is like by now is not known from a word of long ago.
    assert seen_by_reader("n", silent, 1099.0, 1100.0, TIMEOUT_S) == silent


def watch_of(publisher: Publisher, connector: MemoryConnector) -> Watch:
    """That of a new term."""
    clock = SystemClock()
    context = TermContext(publisher, connector, clock, ClusterSettings(), lambda: new_id(clock))
    return Watch(context, History(publisher, clock).note)


class Watched(MemoryServer):
    """A server that knows how often it was greeted, and how often it was asked how many keys it has."""

    greeted = looked = 0

    def join(self, connection: MemoryConnection, password: str | None) -> None:
        """Let a connection in."""
        self.greeted += 1
        super().join(connection, password)

    def keys(self) -> list[bytes]:
        """Those that there are."""
        self.looked += 1
        return super().keys()


async def test_looks_share_a_connection_until_it_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("helios.coordinator.health._LOOK_EVERY_S", 0.01)
    topology, store, server = cluster("a"), MemoryStore(), Watched("a", wall=SystemClock().wall)
    version = await store.commit([Put(TERM, b"1"), put_record(TOPOLOGY, topology)])
    publisher = await Publisher.open(store, SystemClock(), 1, version)
    watching = asyncio.create_task(
        watch_of(publisher, MemoryConnector({topology.shards[0].leading.address: server})).run()
    )

    async def looked(times: int) -> None:
        wanted = server.looked + times

        async def enough() -> bool:
            return server.looked >= wanted

        await until(enough, "it is looked at again and again")

    await looked(5)
    assert server.greeted == 1
    server.crash()
    server.restart()
    await looked(5)
    assert server.greeted == 2
    watching.cancel()
    await asyncio.wait([watching])
    assert not server.connections(), "nothing stays open behind the term"


async def test_a_new_coordinator_looks_before_it_judges() -> None:
    topology = cluster("a")
    leader, clock, store = topology.shards[0].leading, SystemClock(), MemoryStore()
    now = clock.wall()
    # Before everything was stopped for an hour, the last one to look was told that the node is going.
    before = NodeHealth("a", NodeStatus.SUSPECT, now - 3600, "it was going", now - 3600, now - 3600)
    agent = AgentRecord("a", topology.nodes[0].address, topology.nodes[0].kind, now)
    version = await store.commit(
        [
            Put(TERM, b"1"),
            put_record(TOPOLOGY, topology),
            put_record(AGENTS + "a", agent),
            put_record(HEALTH, HealthRecord((before,))),
        ]
    )
    publisher = await Publisher.open(store, SystemClock(), 1, version)
    written = store.watch(HEALTH, version)
    watching = asyncio.create_task(
        watch_of(publisher, MemoryConnector({leader.address: MemoryServer("a", wall=clock.wall)})).run()
    )
    async with asyncio.timeout(10):
        (event,) = await anext(written)
    watching.cancel()
    await asyncio.wait([watching])
    await written.aclose()
    assert event.value is not None
    assert [one.status for one in decode(HealthRecord, event.value).nodes] == [NodeStatus.ONLINE]


FULL = "it could not write its log: make room on the disk of /data"


def test_a_server_that_refuses_writes_makes_its_node_read_only() -> None:
    full = judge("n", Signs(999.0, 999.0, refuses=FULL), ONLINE, 1000.0, TIMEOUT_S)
    assert (full.status, full.since, full.status.heard) == (NodeStatus.READ_ONLY, 1000.0, True)
    assert full.reason == f"its data server refuses writes: {FULL}"
    later = judge("n", Signs(1009.0, 1009.0, refuses="other words"), full, 1010.0, TIMEOUT_S)
    assert (later.since, later.reason) == (full.since, full.reason)
    silent = judge("n", Signs(1009.0, 985.0, "no route", refuses=FULL), full, 1010.0, TIMEOUT_S)
    assert (silent.status, silent.status.heard) == (NodeStatus.SUSPECT, False)
    assert judge("n", Signs(1019.0, 1019.0), full, 1020.0, TIMEOUT_S).status is NodeStatus.ONLINE


def test_a_reader_keeps_what_the_coordinator_says_of_writes_while_the_agent_is_heard() -> None:
    full = judge("n", Signs(999.0, 999.0, refuses=FULL), ONLINE, 1000.0, TIMEOUT_S)
    assert seen_by_reader("n", full, 1001.0, 1002.0, TIMEOUT_S) == replace(full, last_seen=1001.0)
    assert seen_by_reader("n", full, 960.0, 1002.0, TIMEOUT_S).status is NodeStatus.OFFLINE


def test_who_asks_the_server_knows_it_at_once_though_nobody_could_write_it_down() -> None:
    full = as_answered(ONLINE, FULL, 1000.0)
    assert (full.status, full.since) == (NodeStatus.READ_ONLY, 1000.0)
    assert full.last_seen == ONLINE.last_seen
    assert as_answered(full, "", 1010.0).status is NodeStatus.ONLINE
    assert as_answered(full, None, 1010.0) is full
    offline = NodeHealth("n", NodeStatus.OFFLINE, 500.0, "silent")
    assert as_answered(offline, FULL, 1000.0) is offline
