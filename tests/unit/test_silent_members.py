"""When a data server that answers nothing is given up, by a clock of the test's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tests.timers import Timers

from helios.model.ids import Address
from helios.model.topology import Member
from helios.resp.wire import encode_command
from helios.router._fast_path import Lease
from helios.router.frontend.caller import FutureReply
from helios.router.options import RouterOptions
from helios.router.upstream.connection import Wire
from helios.router.upstream.link import ServerConnection
from helios.router.upstream.state import ConnectionState

TIMEOUT_S = 10.0
MAX_REPLY_BYTES = 1000
LASTING = Lease(lambda: -1.0)
PART_S = TIMEOUT_S / 4


class Watched:
    """A link with a connection that only keeps what is done to it."""

    def __init__(self) -> None:
        host: Any = SimpleNamespace(
            lease=LASTING, hot_keys=SimpleNamespace(passed=lambda shard, frames: None), big_keys=None
        )
        member = Member("shard-1.0", "shard-1", Address("127.0.0.1", 1))
        self.link = ServerConnection("shard-1", member, 2, host, RouterOptions(member_timeout_s=TIMEOUT_S))
        self.timers = Timers()
        self.ended: list[str] = []
        link: Any = self.link
        link._loop = self.timers
        wire: Any = Wire(LASTING, MAX_REPLY_BYTES)
        wire.transport = SimpleNamespace(write=lambda data: None)
        wire.abort = self.ended.append
        self.wire: Wire = wire
        link._wire = wire
        self.link.state = ConnectionState.READY

    def send(self, *words: bytes) -> None:
        self.link.send(encode_command(words or [b"PING"]), FutureReply())
        self.link._flush()


@pytest.fixture
async def watched() -> Watched:
    return Watched()


async def test_a_server_that_answers_nothing_is_given_up(watched: Watched) -> None:
    watched.send()
    for _ in range(3):
        watched.timers.pass_by(PART_S)
    assert watched.ended == []
    watched.timers.pass_by(PART_S)
    assert watched.ended == ["it answered nothing for 10 s"]


@pytest.mark.parametrize("word", [b"EVAL", b"fcall"])
async def test_a_script_that_everybody_waits_for_is_named(watched: Watched, word: bytes) -> None:
    watched.send(word, b"while true do end", b"0")
    watched.send()
    for _ in range(4):
        watched.timers.pass_by(PART_S)
    name = word.decode().upper()
    assert watched.ended == [f"it answered nothing for 10 s, since {name} was sent to it: that script may still run"]


@pytest.mark.parametrize("begun", [b"$5\r\nab", b"*2\r\n:1\r\n", b"+O"])
async def test_a_reply_that_stops_halfway_is_told_as_that(watched: Watched, begun: bytes) -> None:
    watched.send()
    watched.wire.data_received(begun)
    for _ in range(5):
        watched.timers.pass_by(PART_S)
    assert watched.ended == ["it began a reply and sent no more of it for 10 s"]


@pytest.mark.parametrize("begun", [b"$100000000000\r\nab", b"*1000000\r\n" + b":1\r\n" * 500])
async def test_a_reply_without_an_end_is_told_as_that(watched: Watched, begun: bytes) -> None:
    watched.send()
    watched.wire.data_received(begun)
    for _ in range(4):
        watched.timers.pass_by(PART_S)
        watched.wire.data_received(b":1\r\n" * 100)
    assert watched.ended == ["its reply is too long to be kept (see router.max_reply) and did not end in 10 s"]


async def test_silence_counts_from_the_last_answer(watched: Watched) -> None:
    for _ in range(2):
        watched.send()
    watched.timers.pass_by(PART_S)
    watched.timers.pass_by(PART_S)
    watched.link.answered += 1
    for _ in range(4):
        watched.timers.pass_by(PART_S)
    assert watched.ended == []
    watched.timers.pass_by(PART_S)
    assert watched.ended


async def test_a_stall_of_the_router_itself_is_no_silence_of_the_server(watched: Watched) -> None:
    watched.send()
    watched.timers.pass_by(5 * TIMEOUT_S)
    assert watched.ended == []


async def test_another_time_holds_at_once(watched: Watched) -> None:
    watched.link.configure(RouterOptions(member_timeout_s=1.0))
    watched.send()
    for _ in range(4):
        watched.timers.pass_by(0.25)
    assert watched.ended == ["it answered nothing for 1 s"]
