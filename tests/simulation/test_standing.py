"""What simulated servers that follow each other answer to routers: more than the conformance suite of engines asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.simulation.loop import SimClock, SimLoop
from tests.simulation.servers import SimServer
from tests.simulation.serving import Serving

from helios.engines.memory.connection import MemoryConnection
from helios.model.ids import Address
from helios.resp.wire import encode_command


class _NoAudit:
    def client(self, server: SimServer, user: str, command: str, key: bytes) -> None:
        """Nobody looks."""

    def undeclared(self, server: SimServer, key: bytes, value: bytes) -> None:
        """Nobody looks."""

    def mover(self, server: SimServer, deed: str, keys: object) -> None:
        """Nobody looks."""


class _Pair:
    """A leader, a follower that is in sync, and a router's connection to each."""

    def __init__(self, loop: SimLoop) -> None:
        wall = SimClock(loop).wall
        self.servers = [
            SimServer(name, wall=wall, audit=_NoAudit(), aof_fsync="everysec", admin=None) for name in ("one", "other")
        ]
        self.leader, self.follower = self.servers
        self.said: list[bytes] = []
        addresses = {Address("server", 7001 + number): server for number, server in enumerate(self.servers)}
        self.follower.replication.follow(Address("server", 7001), addresses)
        self._servings = {server: self._serving(server) for server in self.servers}

    def _serving(self, server: SimServer) -> Serving:
        connection = MemoryConnection(server, server.name, "", "default", 1.0)
        server.accept(connection)
        connection.joined = True
        serving = Serving(server, connection, self.said.append)
        server.enter(serving)
        return serving

    def ask(self, server: SimServer, *words: bytes) -> bytes:
        return self._servings[server].take(encode_command(words))


def _with_pair(test: Callable[[_Pair], Awaitable[None]]) -> None:
    loop = SimLoop()

    async def run() -> None:
        pair = _Pair(loop)
        await asyncio.sleep(1)
        await test(pair)

    loop.run_until_complete(run())


def test_a_round_tells_who_has_what_the_leader_had_when_it_began() -> None:
    async def round_of(pair: _Pair) -> None:
        pair.ask(pair.leader, b"SET", b"a", b"1")
        assert pair.ask(pair.leader, b"SPUBLISH", b"helios-rounds", b"") == b":0\r\n"
        reached = pair.leader.replication.state().offset
        assert pair.ask(pair.leader, b"ROLE").startswith(b"*3\r\n$6\r\nmaster\r\n:%d\r\n" % reached)
        assert pair.ask(pair.leader, b"WAIT", b"1", b"100") == b""
        await asyncio.sleep(0.05)
        assert pair.said == [b":1\r\n"]
        assert pair.follower.get(b"a") == b"1"
        told = pair.ask(pair.leader, b"INFO", b"replication")
        assert b"slave0:ip=server,port=7002,state=online,offset=%d," % reached in told
        assert b"master_replid:" + pair.leader.replication.state().history.encode() in told

    _with_pair(round_of)


def test_a_wait_for_a_follower_that_is_frozen_ends_without_it() -> None:
    async def wait(pair: _Pair) -> None:
        pair.follower.freeze()
        pair.ask(pair.leader, b"SPUBLISH", b"helios-rounds", b"")
        pair.ask(pair.leader, b"WAIT", b"1", b"100")
        await asyncio.sleep(0.2)
        assert pair.said == [b":0\r\n"]

    _with_pair(wait)


def test_a_follower_takes_no_writes_and_one_without_a_leader_answers_nothing() -> None:
    async def refuse(pair: _Pair) -> None:
        assert pair.ask(pair.follower, b"SET", b"a", b"1").startswith(b"-READONLY")
        assert pair.ask(pair.follower, b"GET", b"a") == b"$-1\r\n"
        pair.follower.replication.detach()
        assert pair.ask(pair.follower, b"GET", b"a").startswith(b"-MASTERDOWN")
        assert b"role:slave" in pair.ask(pair.follower, b"INFO", b"replication")

    _with_pair(refuse)


def test_a_transaction_over_the_end_of_a_leadership_is_discarded() -> None:
    async def transact(pair: _Pair) -> None:
        pair.ask(pair.leader, b"MULTI")
        pair.ask(pair.leader, b"SET", b"a", b"1")
        pair.leader.replication.detach()
        assert pair.ask(pair.leader, b"EXEC").startswith(b"-EXECABORT")
        assert b"a" not in pair.leader.scan(0, 10)[1]

    _with_pair(transact)


def test_who_waits_at_a_leader_that_is_replaced_is_told() -> None:
    async def stand_down(pair: _Pair) -> None:
        assert pair.ask(pair.leader, b"BLPOP", b"queue", b"0") == b""
        pair.leader.replication.detach()
        assert [said[:10] for said in pair.said] == [b"-UNBLOCKED"]

    _with_pair(stand_down)
