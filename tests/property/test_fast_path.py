"""The compiled way of commands: each to its key's shard, each caller's replies in the order of its commands."""

from __future__ import annotations

from collections import deque
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from tests.obvious import obvious_walk

from helios.model.ids import Address
from helios.model.topology import Member, Node, NodeKind, Placement, Shard, Topology
from helios.placement.ring import points_of, position
from helios.placement.routing import Routes
from helios.resp.commands import ONE_KEY
from helios.resp.wire import RequestParser, encode_command
from helios.router._fast_path import (
    LATE,
    PARKS_READS,
    PARKS_WRITES,
    UNASKED,
    CommandQueue,
    FastPath,
    Fifo,
    LastSlot,
    Lease,
    Outbox,
    Slot,
)
from helios.router.frontend.caller import ANSWERING, DONE, FULL, WAIT_REPLY, Caller, Dispatch
from helios.router.stats.big_keys import BigKeys

SHARDS = ("shard-1", "shard-2", "shard-3")
POINTS = {shard: points_of(shard, 1.0, 150) for shard in SHARDS}
TOPOLOGY = Topology(
    epoch=1,
    nodes=tuple(Node(shard, Address("127.0.0.1", 1), NodeKind.EXTERNAL) for shard in SHARDS),
    shards=tuple(Shard(s, f"{s}.0", (Member(f"{s}.0", s, Address("127.0.0.1", 1)),)) for s in SHARDS),
    placement=Placement(weights=tuple((shard, 1.0) for shard in SHARDS)),
)


class Loop:
    """Runs what is to be run in the next turn when told to."""

    def __init__(self) -> None:
        self.calls: deque[object] = deque()

    def call_soon(self, call: object) -> None:
        self.calls.append(call)

    def time(self) -> float:
        return 5.0

    def turn(self) -> None:
        while self.calls:
            call = self.calls.popleft()
            assert callable(call)
            call()


class Server(CommandQueue):
    """A queue whose server has not answered yet."""

    def __init__(self, max_commands: int = 1 << 20, max_bytes: int = 1 << 30) -> None:
        self.now = 0.0
        lease = Lease(lambda: self.now)
        lease.deadline = 10.0
        super().__init__(
            max_commands=max_commands, max_bytes=max_bytes, pushes=True, lease=lease, big_keys=BigKeys(lambda: 0.0)
        )
        self.ready = True
        self.got: deque[bytes] = deque()

    def schedule(self) -> None:
        pass

    def overloaded(self) -> bytes:
        return b"-OVERLOADED\r\n"

    def answer(self, count: int) -> None:
        """Answer some of what came, each command by its own text."""
        self.scheduled = False
        self.got += self.out
        self.out = []
        replies = [b"$%d\r\n%b\r\n" % (len(raw), raw) for raw in (self.got.popleft() for _ in range(count))]
        assert self.received(replies) is None


class Holder:
    def hold(self, caller: Caller) -> None:
        raise AssertionError("nothing is fenced")

    delay = forget = hold


class Client(Caller):
    """A caller whose replies are collected."""

    def __init__(self, outbox: Outbox, fast_path: FastPath) -> None:
        super().__init__(self.slow_way, outbox, Holder(), RequestParser(), fast_path)
        self.received: list[bytes] = []
        self.others: list[list[bytes]] = []
        self.closing: Dispatch | None = None

    def slow_way(self, caller: Caller, raw: bytes, argv: list[bytes]) -> int:
        """Stands for the dispatcher: answers at once, or (WAIT) later."""
        if self.closing is not None:
            return self.closing(caller, raw, argv)
        self.others.append(argv)
        assert raw == encode_command(argv)
        if argv[0] == b"WAIT":
            self.pending = LastSlot(self)
            self.replies.append(self.pending)
            return WAIT_REPLY
        self.answer(b"+%b\r\n" % argv[0])
        return DONE

    def flush(self) -> None:
        self.received += self.take_ready()
        if self.resume:
            self.resume = False
            self.run()


def laid_out() -> tuple[Loop, dict[str, Server], Client]:
    loop = Loop()
    servers = {shard: Server() for shard in SHARDS}
    fast_path = FastPath(ONE_KEY, servers, {}, {})
    routes = Routes(TOPOLOGY)
    fast_path.serve(routes, routes.owners)
    return loop, servers, Client(Outbox(loop), fast_path)


COMMANDS = st.lists(
    st.one_of(
        st.binary(max_size=9).map(lambda key: [b"GET", key]),
        st.tuples(st.binary(max_size=9), st.binary(max_size=40)).map(lambda pair: [b"set", *pair]),
        st.just([b"PING"]),
        st.just([b"GET"]),
        st.just([b"GET", b"too", b"many"]),
        st.just([b"MGET", b"a", b"b"]),
    ),
    max_size=60,
)


@given(COMMANDS, st.integers(0, 2**32))
def test_replies_keep_the_order_of_the_commands(commands: list[list[bytes]], seed: int) -> None:
    random = Random(seed)
    loop, servers, client = laid_out()
    data, at = b"".join(map(encode_command, commands)), 0
    while at < len(data) or any(server.out or server.got for server in servers.values()):
        size = random.choice((1, 5, 100))
        if at < len(data):
            client.data_received(data[at : at + size])
            at += size
        for server in random.sample(list(servers.values()), 2):
            waiting = len(server.out) + len(server.got)
            if waiting:
                server.answer(random.randint(0, waiting))
        if random.random() < 0.5:
            loop.turn()
    loop.turn()
    expected, other = [], []
    for argv in commands:
        if len(argv) == {b"GET": 2, b"set": 3}.get(argv[0]):
            raw = encode_command(argv)
            expected.append(b"$%d\r\n%b\r\n" % (len(raw), raw))
        else:
            other.append(argv)
            expected.append(b"+%b\r\n" % argv[0])
    assert client.received == expected
    assert client.others == other
    assert client.owed == 0
    assert len(client.replies) == 0
    assert sum(server.answered for server in servers.values()) == len(commands) - len(other)
    assert all(server.queued_bytes == 0 for server in servers.values())


@given(st.lists(st.binary(max_size=30), max_size=30))
def test_each_key_goes_to_the_shard_that_an_obvious_ring_names(keys: list[bytes]) -> None:
    _, servers, client = laid_out()
    frames = {shard: [encode_command([b"GET", k]) for k in keys if owner(k) == shard] for shard in SHARDS}
    client.data_received(b"".join(encode_command([b"GET", key]) for key in keys))
    assert {shard: server.out for shard, server in servers.items()} == frames


def owner(key: bytes) -> str:
    return obvious_walk(POINTS, position(key))[0]


def test_nothing_takes_the_short_way_while_it_is_closed() -> None:
    _, servers, client = laid_out()
    fast_path = FastPath(ONE_KEY, servers, {}, {})
    closed = Client(client.outbox, fast_path)
    closed.data_received(encode_command([b"GET", b"a"]))
    assert closed.others == [[b"GET", b"a"]]
    assert fast_path.commands == 0
    assert not any(server.out for server in servers.values())


def test_a_command_whose_reply_is_awaited_stops_those_behind_it() -> None:
    loop, servers, client = laid_out()
    client.data_received(encode_command([b"WAIT"]) + encode_command([b"GET", b"a"]))
    assert client.stops == ANSWERING
    assert not any(server.out for server in servers.values())
    client.pending.fill(b"+done\r\n")
    loop.turn()
    assert client.received == [b"+done\r\n"]
    assert servers[owner(b"a")].out == [encode_command([b"GET", b"a"])]


def test_a_client_with_too_many_commands_stops_until_half_are_answered() -> None:
    loop, servers, client = laid_out()
    client.max_commands = 10
    client.data_received(encode_command([b"GET", b"a"]) * 25)
    server = servers[owner(b"a")]
    assert client.stops == FULL
    assert len(server.out) == 10
    server.answer(4)
    loop.turn()
    assert client.stops == FULL
    server.answer(1)
    loop.turn()
    assert len(client.replies) == 10
    while client.replies:
        server.answer(len(server.out) + len(server.got))
        loop.turn()
    assert len(client.received) == 25
    assert client.stops == 0


def test_a_full_queue_refuses_and_a_big_command_alone_passes() -> None:
    loop, _, client = laid_out()
    server = Server(max_commands=2, max_bytes=100)
    for raw in (b"x" * 500, b"y", b"z"):
        slot = Slot(client)
        client.replies.append(slot)
        server.send(raw, slot)
    assert server.out == [b"x" * 500]
    assert (server.issued, server.queued_bytes) == (1, 500)
    server.answer(1)
    loop.turn()
    assert client.received[1:] == [b"-OVERLOADED\r\n"] * 2


def test_a_reply_that_nothing_asked_for_is_noticed_and_pushes_are_not_replies() -> None:
    server = Server()
    assert server.received([b">1\r\n+x\r\n"]) is None
    assert server.received([b"+OK\r\n"]) == UNASKED
    server.out, server.ready = [], True
    assert server.answered == 0


def test_a_reply_that_comes_after_the_lease_is_handed_to_nobody() -> None:
    loop, servers, client = laid_out()
    client.data_received(encode_command([b"GET", b"a"]) * 2)
    server = servers[owner(b"a")]
    server.answer(1)
    server.now = server.lease.deadline
    assert server.received([b"+late\r\n"]) == LATE
    loop.turn()
    assert client.received == [b"$20\r\n*2\r\n$3\r\nGET\r\n$1\r\na\r\n\r\n"]
    assert (server.answered, len(server.take_sent())) == (1, 1)


class Told:
    """Is told what waits, as rounds are."""

    def __init__(self) -> None:
        self.count = 0

    def park(self, queue: CommandQueue, count: int) -> None:
        self.count += count

    def forget(self, queue: CommandQueue) -> None:
        raise AssertionError("no connection is lost")


def parking(server: Server, parks: int) -> Told:
    told = Told()
    server.parks, server.rounds = parks, told
    return told


@given(st.integers(1, 20), st.lists(st.integers(1, 5), max_size=20), st.integers(0, 20))
def test_parked_replies_are_handed_on_in_order_once_they_are_covered(count: int, steps: list[int], late: int) -> None:
    loop, servers, client = laid_out()
    commands = [encode_command([b"set", b"a", b"%d" % number]) for number in range(count)]
    client.data_received(b"".join(commands))
    server = servers[owner(b"a")]
    told = parking(server, PARKS_WRITES)
    server.answer(count)
    loop.turn()
    assert client.received == []
    assert (told.count, server.parked_count) == (count, count)
    assert (server.answered, server.queued_bytes) == (count, 0)
    released = 0
    for step in steps:
        if released + step > count:
            break
        if released >= late:
            server.now = server.lease.deadline
            assert server.hand_on(step) == LATE
            break
        assert server.hand_on(step) is None
        released += step
    loop.turn()
    assert client.received == [b"$%d\r\n%b\r\n" % (len(raw), raw) for raw in commands[:released]]
    assert server.parked_count == count - released
    server.refuse(count, b"-READ\r\n", b"-WRITTEN\r\n")
    loop.turn()
    assert client.received[released:] == [b"-WRITTEN\r\n"] * (count - released)
    assert server.parked_count == 0


@given(
    st.sampled_from([0, PARKS_WRITES, PARKS_READS | PARKS_WRITES]),
    st.lists(
        st.tuples(st.sampled_from([b"GET", b"set"]), st.sampled_from([b"", b"-WRONGTYPE no\r\n", b"-NOPERM no\r\n"])),
        min_size=1,
        max_size=30,
    ),
)
def test_what_need_not_wait_is_handed_on_behind_what_does(parks: int, commands: list[tuple[bytes, bytes]]) -> None:
    loop, servers, client = laid_out()
    server = servers[owner(b"a")]
    told = parking(server, parks)
    client.data_received(b"".join(encode_command([name, b"a", b"v"][: 2 + (name == b"set")]) for name, _ in commands))
    server.got += server.out
    server.out = []
    replies = [error or b"+%d\r\n" % number for number, (_, error) in enumerate(commands)]
    assert server.received(replies) is None
    # An error that tells what a key holds waits as a read does, whatever the command.
    acknowledging = {b"": parks, b"-WRONGTYPE no\r\n": parks if parks & PARKS_READS else 0, b"-NOPERM no\r\n": 0}
    waits = [bool(acknowledging[error] & (PARKS_WRITES if name == b"set" else PARKS_READS)) for name, error in commands]
    loop.turn()
    first = waits.index(True) if any(waits) else len(waits)
    assert client.received == replies[:first]
    assert told.count == server.parked_count == sum(waits)
    server.refuse(sum(waits), b"-READ\r\n", b"-WRITTEN\r\n")
    loop.turn()
    refusals = {b"GET": b"-READ\r\n", b"set": b"-WRITTEN\r\n"}
    assert client.received == [
        refusals[name] if wait else reply for wait, reply, (name, _) in zip(waits, replies, commands, strict=True)
    ]


@given(st.lists(st.sampled_from(["append", "popleft", "pop", "clear"]), max_size=200))
def test_a_fifo_is_a_deque(steps: list[str]) -> None:
    fifo: Fifo[int] = Fifo()
    model: deque[int] = deque()
    for number, step in enumerate(steps):
        if step == "append":
            fifo.append(number)
            model.append(number)
        elif step == "clear":
            if number % 7 == 0:
                fifo.clear()
                model.clear()
        elif model:
            assert getattr(fifo, step)() == getattr(model, step)()
        assert len(fifo) == len(model)


def test_a_way_that_a_command_closes_is_closed_for_the_next() -> None:
    loop, servers, client = laid_out()

    def close(caller: Caller, raw: bytes, argv: list[bytes]) -> int:
        caller.fast_path = None
        client.others.append(argv)
        caller.answer(b"+closed\r\n")
        return DONE

    client.closing = close
    client.data_received(b"".join(map(encode_command, ([b"GET", b"a"], [b"PING"], [b"GET", b"a"]))))
    loop.turn()
    assert sum(len(server.out) for server in servers.values()) == 1
    assert client.others == [[b"PING"], [b"GET", b"a"]]


class Logged(Server):
    """One of two connections to a server that tells when it carried out what, by its place in a log."""

    def __init__(self, log: list[bytes], max_commands: int = 1 << 20) -> None:
        super().__init__(max_commands)
        self.log = log

    def answer(self, count: int) -> None:
        self.got += self.out
        self.out = []
        for raw in [self.got.popleft() for _ in range(min(count, len(self.got)))]:
            self.log.append(raw)
            assert self.received([b":%d\r\n" % (len(self.log) - 1)]) is None


def behind_a_big_reply(
    pipelines: list[list[list[bytes]]], max_commands: int = 1 << 20
) -> tuple[Loop, Logged, Logged, list[Client]]:
    """Clients who have sent these, behind one whose GET has a big reply; the other connection; all but that client."""
    loop, log = Loop(), list[bytes]()
    first, other = Logged(log), Logged(log, max_commands)
    fast_path = FastPath(ONE_KEY, dict.fromkeys(SHARDS, first), {}, {})
    routes = Routes(TOPOLOGY)
    fast_path.serve(routes, routes.owners)
    clients = [Client(Outbox(loop), fast_path) for _ in range(len(pipelines) + 1)]
    clients[0].data_received(encode_command([b"GET", b"big"]))
    for client, commands in zip(clients[1:], pipelines, strict=True):
        client.data_received(b"".join(map(encode_command, commands)))
    return loop, first, other, clients[1:]


PIPELINES = st.lists(
    st.lists(
        st.sampled_from([[b"GET", b"a"], [b"STRLEN", b"b"], [b"SET", b"a", b"1"], [b"GET", b"big"], [b"LPOP", b"b"]]),
        min_size=1,
        max_size=6,
    ),
    max_size=6,
)


@given(PIPELINES, st.integers(0, 2**32))
def test_reads_behind_a_big_reply_overtake_nothing_of_their_own_client(
    pipelines: list[list[list[bytes]]], seed: int
) -> None:
    random = Random(seed)
    loop, first, other, clients = behind_a_big_reply(pipelines)
    if random.random() < 0.5:
        first.got, first.out = deque(first.out), []
    first.read_again(other)
    while any(len(each.waiters) for each in (first, other)):
        random.choice((first, other)).answer(random.randint(0, 4))
        if random.random() < 0.3:
            loop.turn()
    loop.turn()
    for client, commands in zip(clients, pipelines, strict=True):
        places = [int(reply[1:-2]) for reply in client.received]
        assert places == sorted(places)
        assert [first.log[place] for place in places] == [encode_command(argv) for argv in commands]
    assert (first.queued_bytes, other.queued_bytes) == (0, 0)
    assert first.answered == 1 + sum(map(len, pipelines))


def test_reads_behind_a_big_reply_need_not_wait_for_it() -> None:
    reads, writes = [[b"GET", b"a"], [b"TTL", b"b"]], [[b"GET", b"a"], [b"SET", b"a", b"1"]]
    loop, first, other, (reader, writer) = behind_a_big_reply([reads, writes])
    first.read_again(other)
    assert other.out == list(map(encode_command, reads))
    other.answer(2)
    loop.turn()
    assert len(reader.received) == 2
    assert not writer.received
    first.answer(5)
    loop.turn()
    assert len(writer.received) == 2
    assert len(reader.received) == 2
    assert reader.fast_path is not None
    counted = {name: kind.latencies.counted() for name, kind in reader.fast_path.by_name.items()}
    assert sum(count for _, count in counted["get"]) == 3  # the big one, the reader's, and the writer's
    assert sum(count for _, count in counted["ttl"]) == 1


def test_reads_are_not_sent_again_where_not_all_of_them_find_room() -> None:
    _, first, other, _ = behind_a_big_reply([[[b"GET", b"a"]], [[b"GET", b"b"]]], max_commands=1)
    first.read_again(other)
    assert not other.out
