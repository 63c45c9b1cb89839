from __future__ import annotations

import pytest

from helios.errors import ProtocolError
from helios.resp.encoding import encode, error_reply
from helios.resp.wire import Buffer, Limits, ReplySplitter, RequestParser, elements, encode_command, split_inline


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"*2000000\r\n", "invalid multibulk length"),
        (b"*x\r\n", "invalid multibulk length"),
        (b"*1\r\n+OK\r\n", r"expected '\$', got '\+'"),
        (b"*1\r\n$600000000\r\n", "invalid bulk length"),
        (b"*1\r\n$-1\r\n", "invalid bulk length"),
        (b"*1\r\n$1\r\nab\r\n", "expected CRLF"),
        (b"*" + b"1" * 70_000, "too big mbulk count string"),
        (b"*1\r\n$" + b"1" * 70_000, "too big bulk count string"),
        (b"x" * 70_000, "too big inline request"),
        (b'get "a\r\n', "unbalanced quotes"),
        (b"get 'a'b\n", "unbalanced quotes"),
    ],
)
def test_faults_are_named_as_the_servers_name_them(data: bytes, message: str) -> None:
    parser = RequestParser()
    parser.feed(data)
    with pytest.raises(ProtocolError, match=message):
        parser.take()


def test_frames_before_a_fault_are_given_first() -> None:
    parser = RequestParser()
    parser.feed(b"PING\r\n*1\r\n!")
    assert [argv for _, argv in parser.take()] == [[b"PING"]]
    with pytest.raises(ProtocolError):
        parser.take()


def test_an_announced_length_costs_no_memory_before_the_bytes_come() -> None:
    parser = RequestParser()
    parser.feed(b"*2\r\n$3\r\nSET\r\n$500000000\r\nabc")
    assert parser.take() == []
    assert parser.buffered < 100


def test_a_big_frame_in_many_chunks_is_joined_once() -> None:
    value = b"v" * 3_000_000
    frame = encode_command([b"SET", b"k", value])
    parser = RequestParser()
    for at in range(0, len(frame), 1000):
        parser.feed(frame[at : at + 1000])
        taken = parser.take()
    assert taken == [(frame, [b"SET", b"k", value])]
    assert parser.buffered == 0


def test_the_whole_frame_has_a_limit_too() -> None:
    parser = RequestParser(Limits(frame_bytes=1000))
    parser.feed(encode_command([b"MSET", *[b"x" * 90] * 20]))
    with pytest.raises(ProtocolError, match="too big request"):
        parser.take()


BIG = b"".join(b"%d," % number for number in range(200_000))
LONG_FRAMES = [
    [b"SET", b"k", BIG],
    [b"MSET", b"k", BIG, b"l", BIG[::-1], b"m", b"n"],
    [b"SADD", b"k", *(b"%d" % number for number in range(25_000))],
]


@pytest.mark.parametrize("argv", LONG_FRAMES)
@pytest.mark.parametrize("piece", [1_000, 65_536, 10_000_000])
def test_long_frames_are_the_same_however_they_are_cut(argv: list[bytes], piece: int) -> None:
    frame, ping = encode_command(argv), encode_command([b"PING"])
    parser, data, frames = RequestParser(), frame + ping + frame + frame, []
    for at in range(0, len(data), piece):
        parser.feed(data[at : at + piece])
        frames += parser.take()
    assert frames == [(frame, argv), (ping, [b"PING"]), (frame, argv), (frame, argv)]
    assert parser.buffered == 0


def test_a_long_array_in_pieces_is_one_reply() -> None:
    array = b"*%d\r\n" % 200_000 + b"$3\r\nabc\r\n" * 200_000
    splitter, data, replies = ReplySplitter(), array * 2 + b"+OK\r\n" + array, []
    for at in range(0, len(data), 65_536):
        replies += splitter.feed(data[at : at + 65_536])
    assert replies == [array, array, b"+OK\r\n", array]
    assert splitter.buffered == 0


def test_what_filled_a_buffer_comes_out_whole_and_once() -> None:
    buffer = Buffer()
    assert buffer.whole() == b""
    for piece in (b"", b"a", b"bc", b"d" * 100_000):
        buffer.append(piece)
    assert buffer.whole() == b"abc" + b"d" * 100_000
    assert buffer.whole() == b""
    buffer.append(b"again")
    assert buffer.whole() == b"again"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"set  k\tv ", [b"set", b"k", b"v"]),
        (b'set "a b" \'c "d\' ""', [b"set", b"a b", b'c "d', b""]),
        (rb'"\x41\n\"\q" ' + rb"'it\'s'", [b'A\n"q', b"it's"]),
        (b"", []),
    ],
)
def test_inline_words(line: bytes, words: list[bytes]) -> None:
    assert split_inline(line) == words


@pytest.mark.parametrize(
    "data", [b"$?\r\n", b"*?\r\n", b"?1\r\n", b"%-1\r\n", b"$x\r\n", b"$1\r\nabc", b"+" * 1_100_000]
)
def test_replies_that_are_not_understood_are_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        ReplySplitter().feed(data)


def test_elements_are_given_as_they_came() -> None:
    assert elements(b"*3\r\n$1\r\na\r\n*1\r\n:1\r\n$-1\r\n") == [b"$1\r\na\r\n", b"*1\r\n:1\r\n", b"$-1\r\n"]


def test_values_in_both_protocols() -> None:
    value = {"a": [1, 2.5, None], "b": True}
    assert encode(value, 3) == b"%2\r\n$1\r\na\r\n*3\r\n:1\r\n,2.5\r\n_\r\n$1\r\nb\r\n#t\r\n"
    assert encode(value, 2) == b"*4\r\n$1\r\na\r\n*3\r\n:1\r\n$3\r\n2.5\r\n$-1\r\n$1\r\nb\r\n:1\r\n"
    assert error_reply("ERR two\r\nlines") == b"-ERR two  lines\r\n"
