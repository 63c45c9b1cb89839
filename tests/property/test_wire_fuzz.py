"""The compiled framing under what nobody should send: mutated streams, huge announcements, every way of cutting."""

from __future__ import annotations

import resource
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.obvious_wire import LIMITS, obvious_requests

from helios.errors import ProtocolError
from helios.resp.wire import Frame, Limits, ReplySplitter, RequestParser, encode_command

SEEDS = st.integers(0, 2**32)
FRAMES = [
    encode_command([b"SET", b"key", b"value"]),
    encode_command([b"GET", b""]),
    encode_command([b"MSET", *[b"k%d" % i for i in range(18)]]),
    b"*2\r\n$3\r\nGET\r\n$199\r\n" + b"\r\n" * 99 + b"x\r\n",
    b"PING\r\n",
    b'set "a\\x00" b\n',
    b"*0\r\n*-1\r\n",
]
REPLIES = [
    b"+OK\r\n",
    b"$5\r\nhello\r\n",
    b"$-1\r\n",
    b"*3\r\n:1\r\n*2\r\n$1\r\na\r\n_\r\n%1\r\n+k\r\n#t\r\n",
    b"|1\r\n+ttl\r\n:3\r\n*1\r\n$2\r\n\r\n\r\n",
    b">2\r\n+invalidate\r\n*1\r\n$1\r\nk\r\n",
    b"=7\r\ntxt:abc\r\n",
]
TOKENS = [
    b"*",
    b"$",
    b"\r",
    b"\n",
    b"\r\n",
    b"-",
    b"0",
    b"-1",
    b"999999999999999999",
    b"9" * 30,
    b"\0",
    b"\xff",
    b"%",
    b"|",
]


def mutated(random: Random, parts: list[bytes]) -> bytes:
    """A few whole parts, then bytes of them lost, changed, doubled, or replaced by what framing reads as its own."""
    data = bytearray(b"".join(random.choices(parts, k=random.randrange(1, 8))))
    for _ in range(random.randrange(5)):
        at = random.randrange(len(data) + 1)
        match random.randrange(4):
            case 0:
                del data[at : at + random.randrange(1, 6)]
            case 1:
                data[at:at] = random.choice(TOKENS)
            case 2:
                data[at : at + 1] = bytes([random.randrange(256)])
            case _:
                data[at:at] = data[: random.randrange(20)]
    return bytes(data)


def cut(random: Random, data: bytes) -> list[bytes]:
    """The data in pieces of a size that differs from case to case; some of them are empty."""
    longest = random.choice((1, 2, 7, 60, 1000))
    pieces, at = [], 0
    while at < len(data):
        size = random.randrange(longest + 1)
        pieces.append(data[at : at + size])
        at += size
    return pieces


def requests(pieces: list[bytes], limit: int) -> tuple[list[Frame], bool]:
    """The frames, and whether a fault ended them. What is kept stays below what has come."""
    parser, frames, came = RequestParser(LIMITS), list[Frame](), 0
    for piece in pieces:
        came += len(piece)
        parser.feed(piece)
        assert parser.buffered <= came
        try:
            while taken := parser.take(limit):
                frames += taken
        except ProtocolError:
            assert parser.buffered == 0
            parser.feed(b"PING\r\n")
            with pytest.raises(ProtocolError):
                parser.take()
            return frames, True
    return frames, False


def replies(pieces: list[bytes]) -> tuple[list[bytes], bool]:
    """The replies before a fault, if there is one, and whether there is."""
    splitter, found = ReplySplitter(), list[bytes]()
    for piece in pieces:
        try:
            found += splitter.feed(piece)
        except ProtocolError:
            return found, True
    return found, False


@given(SEEDS)
def test_mutated_requests_are_read_as_the_obvious_parser_reads_them(seed: int) -> None:
    random = Random(seed)
    data = mutated(random, FRAMES)
    assert requests(cut(random, data), random.choice((1, 3, 1 << 30))) == obvious_requests(data)


@given(SEEDS)
def test_mutated_replies_are_the_same_however_they_are_cut(seed: int) -> None:
    random = Random(seed)
    data = mutated(random, REPLIES)
    by_byte = replies([data[at : at + 1] for at in range(len(data))])
    found, error = replies(cut(random, data))
    assert error == by_byte[1]
    # The piece that holds a fault gives no replies, also none of those before it: its connection is lost anyway.
    assert found == by_byte[0][: len(found)]
    assert error or found == by_byte[0]


@pytest.mark.parametrize(
    "announced",
    [
        b"*1048576\r\n",
        b"*1048576\r\n$536870912\r\n",
        b"*2\r\n$3\r\nSET\r\n$536870912\r\nabc",
        b"*1048576\r\n" + b"$0\r\n\r\n" * 1000,
    ],
)
def test_announcements_cost_nothing(announced: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parsers = [RequestParser() for _ in range(200)]
    for parser in parsers:
        parser.feed(announced)
        assert parser.take() == []
        assert parser.buffered == len(announced)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@pytest.mark.parametrize(
    "announced", [b"$999999999999999999\r\n", b"*1099511627776\r\n", b"*999999999\r\n" * 50, b"%549755813888\r\n" * 3]
)
def test_announced_replies_cost_nothing(announced: bytes) -> None:
    splitter = ReplySplitter()
    try:
        assert splitter.feed(announced) == []
    except ProtocolError:
        assert splitter is not None


def test_a_frame_with_the_most_arguments_passes_and_one_more_does_not() -> None:
    limits = Limits(arguments=3000)
    parser = RequestParser(limits)
    argv = [b"DEL", *[b"%d" % i for i in range(2999)]]
    parser.feed(encode_command(argv) + encode_command([*argv, b"x"]))
    assert [found for _, found in parser.take()] == [argv]
    with pytest.raises(ProtocolError, match="invalid multibulk length"):
        parser.take()


def test_many_tiny_frames_of_one_piece_are_taken_in_batches() -> None:
    frame = b"*1\r\n$1\r\nx\r\n"
    parser = RequestParser()
    parser.feed(frame * 200_000)
    count = 0
    while taken := parser.take(128):
        count += len(taken)
        assert taken[0] == (frame, [b"x"])
    assert count == 200_000


@pytest.mark.parametrize("data", [None, "text", 5, bytearray(b"PING\r\n")])
def test_only_bytes_are_taken(data: object) -> None:
    for stream in (RequestParser(), ReplySplitter()):
        with pytest.raises(TypeError):
            stream.feed(data)  # type: ignore[arg-type]
