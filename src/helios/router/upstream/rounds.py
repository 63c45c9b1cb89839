"""Acknowledgement rounds: replies of a shard with several members wait until a majority of these has what they tell.

A round is asked of the leader over a connection of its own: a message that nobody receives, where the leader stands
behind it, a wait until so many followers have it, and who they are. It names the followers, rather than count them,
because a learner's acknowledgement counts for nothing, and a router may not have heard of the learner.

Where no majority has confirmed anything for too long, writes are refused until a round finds one again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from functools import cache
from weakref import WeakSet

import hiredis

from helios.control.rounds import Parked, Quorum, Standing
from helios.model.ids import Address
from helios.model.topology import Shard
from helios.ports.engine import ROUND_CHANNEL
from helios.resp.odd import ODD_REPLY
from helios.resp.wire import encode_command
from helios.router.errors import refusals
from helios.router.frontend.caller import Waiter
from helios.router.options import RouterOptions
from helios.router.upstream.connection import decoded, history_led
from helios.router.upstream.durability import spared
from helios.router.upstream.host import ConnectionHost
from helios.router.upstream.leaders import history_of
from helios.router.upstream.link import ServerConnection

_LONGEST_WAIT_MS = 100  # for followers; then it begins again, with those that are members and answer by then
_PAUSE_S = 0.02  # before another round where one proved nothing, and did not wait
# To a channel of shards, which no pattern includes. It goes to followers, and not into the leader's log on disk.
_MESSAGE = encode_command([b"SPUBLISH", ROUND_CHANNEL, b""])
_ROLE = encode_command([b"ROLE"])
_STATE = encode_command([b"INFO", b"replication"])
_FOLLOWER = re.compile(rb"^slave\d+:ip=([^,\r]*),port=(\d+),state=online,offset=(\d+)", re.MULTILINE)


@cache
def _wait(followers: int, longest_ms: int) -> bytes:
    return encode_command([b"WAIT", b"%d" % followers, b"%d" % longest_ms])


class RoundConnection(ServerConnection):
    """What rounds are asked over."""

    def slow(self, raw: bytes, waiter: Waiter, took_ns: int) -> None:
        """Waiting is what it is for."""

    def ask(self, followers: int, ended: Callable[[Standing | None], None], wait_ms: int = _LONGEST_WAIT_MS) -> None:
        """Begin a round that waits for so many followers, whoever they are; `ended` is told what the leader said."""
        commands = [_MESSAGE, _ROLE, _wait(followers, wait_ms), _STATE]
        self.send_together(commands, _Round(self, ended))


class _Round:
    """Takes the replies to one round."""

    __slots__ = ("_connection", "_ended", "_replies")

    def __init__(self, connection: RoundConnection, ended: Callable[[Standing | None], None]) -> None:
        self._connection = connection
        self._ended = ended
        self._replies: list[bytes] = []

    def fill(self, reply: bytes) -> None:
        """Take one reply; there is one to each of its commands, be it an error."""
        self._replies.append(reply)
        if len(self._replies) == 4:
            history = self._connection.history
            standing = _standing(self._replies, tls=self._connection.member.address.tls)
            if standing is not None and history and standing.history != history:
                standing = None  # it leads in another term
            self._ended(standing)


class Rounds:
    """The rounds of one shard under one leader, one at a time, for all connections of this router to it."""

    def __init__(self, shard: Shard, host: ConnectionHost, options: RouterOptions) -> None:
        self.leader = shard.leading
        self._loop = asyncio.get_running_loop()
        self._parked: Parked[ServerConnection] = Parked()
        self._ahead: frozenset[Address] = frozenset()
        self._under_way = False  # or about to begin
        self._links: WeakSet[ServerConnection] = WeakSet()
        self._short = False  # whether the latest round has found too few members
        self._lacking = False  # for so long that writes are refused
        self._timer: asyncio.TimerHandle | None = None
        self._options = options
        self._connection = RoundConnection(shard.id, self.leader, 2, host, options)
        self.apply(shard)

    def apply(self, shard: Shard) -> None:
        """The shard's members are these now; it is still led by the same one."""
        self._quorum = Quorum.of(shard)
        self._connection.history = history_of(shard)

    def configure(self, options: RouterOptions) -> None:
        """Use other timeouts from now on."""
        self._options = options
        self._connection.configure(options)
        if self._timer is not None:
            self._timer.cancel()
            self._look()

    def join(self, link: ServerConnection) -> None:
        """The replies of this link wait for these rounds."""
        self._links.add(link)
        link.lacking = self._lacking

    def connect(self) -> None:
        """Connect before the first round: replies wait for it as soon as there are any."""
        self._connection.connect()

    def park(self, queue: ServerConnection, count: int) -> None:
        """So many more replies of the queue wait for the next round to begin."""
        self._parked.add(queue, count, self._loop.time())
        if self._timer is None:
            self._watch()
        if not self._under_way:
            self._under_way = True
            self._loop.call_soon(self._begin)

    def forget(self, queue: ServerConnection) -> None:
        """No reply of the queue waits any more."""
        self._parked.forget(queue)

    def close(self, reason: str) -> None:
        """End the connection for good."""
        if self._timer is not None:
            self._timer.cancel()
        self._lacking = False
        self._connection.close(reason)

    # --- a round ---

    def _begin(self) -> None:
        if not (self._parked or self._lacking):
            self._under_way = False
            return
        self._parked.begin()
        self._connection.ask(self._quorum.wait_for(self._ahead), self._ended)

    def _ended(self, standing: Standing | None) -> None:
        """The round is over."""
        if standing is None:
            self._short = False
            self._failed(_PAUSE_S)
            return
        asked, self._ahead = self._quorum.wait_for(self._ahead), standing.followers
        self._short = not self._quorum.met_by(self._ahead)
        if not self._short:
            self._lack(False)
            self._hand_on()
            self._begin()
        else:
            # Others were first than had to be: more are waited for the next time. Or none more came in time.
            more = self._quorum.wait_for(self._ahead) > asked or len(self._ahead) < asked
            self._failed(0.0 if more else _PAUSE_S)

    def _failed(self, pause_s: float) -> None:
        self._parked.failed()
        if pause_s:
            self._loop.call_later(pause_s, self._begin)
        else:
            self._loop.call_soon(self._begin)

    def _hand_on(self) -> None:
        run_id = self._connection.run_id
        for queue, count in self._parked.proved():
            if queue.run_id != run_id:
                queue.refuse(count, *self._refusals("its server has been restarted"))
            elif (reason := queue.hand_on(count)) is not None:
                queue.give_up(reason)
            queue.look()

    # --- what takes too long ---

    def _watch(self) -> None:
        self._timer = self._loop.call_at(self._parked.since + self._options.ack_timeout_s, self._look)

    def _look(self) -> None:
        """Tell those that have waited too long that nothing is known."""
        self._timer = None
        timeout_s = self._options.ack_timeout_s
        refusals = self._refusals(f"no majority of its members confirmed it within {timeout_s:g} s")
        expired = self._parked.expired(self._loop.time(), timeout_s)
        if expired and self._short:
            self._lack(True)
        for queue, count in expired:
            queue.refuse(count, *refusals)
            queue.look()
        if self._parked:
            self._watch()

    def _lack(self, lacking: bool) -> None:
        if self._lacking != lacking:
            self._lacking = lacking
            for link in self._links:
                link.lacking = lacking

    def _refusals(self, why: str) -> tuple[bytes, bytes]:
        return refusals(f"{self._connection.shard} at {self.leader.address} answered, but {why}")


class AllRounds:
    """The rounds of every shard that has several members, from when a reply may wait for one."""

    def __init__(self, host: ConnectionHost, options: RouterOptions) -> None:
        self._host = host
        self._options = options
        self._spared = spared(options)
        self._rounds: dict[str, Rounds] = {}

    def tie(self, shard: Shard, link: ServerConnection) -> None:
        """Let the link lead to the shard's leader alone, and its replies wait where its members have to agree."""
        link.history = history_of(shard)
        link.parks = 0 if Quorum.of(shard).alone else self._options.parks
        if link.parks and link.rounds is None:
            if shard.id not in self._rounds:
                self._rounds[shard.id] = made = Rounds(shard, self._host, self._options)
                made.connect()
            rounds = link.rounds = self._rounds[shard.id]
            rounds.join(link)
        link.spares = self._spared

    def apply(self, shards: Mapping[str, Shard], ended: Mapping[str, str]) -> None:
        """These are the shards now; those with another leader have ended, and why."""
        for shard_id, rounds in list(self._rounds.items()):
            if shard_id in ended:
                self._rounds.pop(shard_id).close(ended[shard_id])
            else:
                rounds.apply(shards[shard_id])

    def configure(self, options: RouterOptions) -> None:
        """Use other timeouts from now on, and have others of the replies wait, once links are tied again."""
        self._options = options
        self._spared = spared(options)
        for rounds in self._rounds.values():
            rounds.configure(options)

    def close(self, reason: str) -> None:
        """End every connection. Nothing is parked any more."""
        for rounds in self._rounds.values():
            rounds.close(reason)
        self._rounds.clear()


def _standing(replies: list[bytes], *, tls: bool) -> Standing | None:
    """What the leader said; None where it did not answer as a leader does. With TLS its followers speak it, too."""
    _, role, waited, state = replies
    if waited[:1] != b":" or state[:1] != b"$":
        return None
    try:
        kind, reached = decoded([role])[0][:2]
    except (*ODD_REPLY, hiredis.HiredisError):
        return None
    acknowledged = {
        Address(host.decode("ascii", "replace"), int(port), tls): int(offset)
        for host, port, offset in _FOLLOWER.findall(state)
    }
    history = history_led(state)
    return Standing(history, int(reached), acknowledged) if history and kind == b"master" else None
