"""Framing against slow, obvious parsers: any chunking gives the same frames and replies, faults included."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.obvious_wire import LIMITS, obvious_reply, obvious_requests

from helios.errors import ProtocolError
from helios.resp.wire import Frame, ReplySplitter, RequestParser, encode_command


def chunks(data: bytes, cuts: list[int]) -> Iterator[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts} | {0, len(data)})
    for begin, end in itertools.pairwise(places):
        yield data[begin:end]


def parse(pieces: Iterator[bytes], limit: int) -> tuple[list[Frame], bool]:
    parser = RequestParser(LIMITS)
    frames: list[Frame] = []
    for piece in pieces:
        parser.feed(piece)
        try:
            while taken := parser.take(limit):
                assert len(taken) <= limit
                frames += taken
        except ProtocolError:
            with pytest.raises(ProtocolError):
                parser.take(limit)
            return frames, True
    return frames, False


ARGUMENTS = st.lists(st.binary(max_size=60), min_size=1, max_size=6)
LINES = st.lists(st.sampled_from([b"PING", b"get", b"x" * 30, b"'a b'", b'"\\x41\\n"', b'"']), max_size=4).map(
    b" ".join
)
PIECES = st.one_of(
    ARGUMENTS.map(encode_command),
    LINES.map(lambda line: line + b"\r\n"),
    LINES.map(lambda line: line + b"\n"),
    st.sampled_from(
        [b"*0\r\n", b"*-1\r\n", b"*21\r\n", b"*1\r\n$-1\r\n", b"*1\r\n$201\r\n", b"*03\r\n", b"*1\r\n$1_0\r\n"]
    ),
    st.sampled_from(
        [b"*1\r\n:1\r\n", b"*1\r\n$1\r\nabc", b"*\r\n", b"\0\0\n", b"*2\r\n$200\r\n" + b"v" * 200 + b"\r\n"]
    ),
    st.binary(max_size=8),
)
STREAMS = st.lists(PIECES, max_size=8).map(b"".join)
CUTS = st.lists(st.integers(0, 5000), max_size=40)


@given(STREAMS, CUTS, st.integers(1, 5))
def test_any_chunking_gives_the_frames_of_the_obvious_parser(data: bytes, cuts: list[int], limit: int) -> None:
    assert parse(chunks(data, cuts), limit) == obvious_requests(data)


@given(STREAMS)
def test_byte_by_byte_gives_the_same_frames(data: bytes) -> None:
    assert parse((bytes([byte]) for byte in data), 1 << 30) == obvious_requests(data)


@given(st.lists(ARGUMENTS, max_size=10), CUTS)
def test_frames_are_the_bytes_that_came(commands: list[list[bytes]], cuts: list[int]) -> None:
    data = b"".join(map(encode_command, commands))
    frames, error = parse(chunks(data, cuts), 1 << 30)
    assert not error
    assert [argv for _, argv in frames] == commands
    assert b"".join(raw for raw, _ in frames) == data


def encoded_values() -> st.SearchStrategy[bytes]:
    leaves = st.one_of(
        st.sampled_from(
            [b"+OK\r\n", b"-ERR no\r\n", b":1\r\n", b"$-1\r\n", b"*-1\r\n", b"_\r\n", b"#t\r\n", b",1.5\r\n"]
        ),
        st.sampled_from(
            [b"(12345678901234567890\r\n", b"=7\r\ntxt:a\r\n\r\n", b"!5\r\nERR x\r\n", b"*0\r\n", b"%0\r\n"]
        ),
        st.binary(max_size=20).map(lambda value: b"$%d\r\n%b\r\n" % (len(value), value)),
    )

    def nested(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
        lists = st.lists(inner, max_size=4)
        pairs = st.lists(st.tuples(inner, inner).map(b"".join), max_size=3)
        return st.one_of(
            st.tuples(st.sampled_from([b"*", b"~", b">"]), lists).map(
                lambda pair: pair[0] + b"%d\r\n" % len(pair[1]) + b"".join(pair[1])
            ),
            pairs.map(lambda items: b"%%%d\r\n" % len(items) + b"".join(items)),
            st.tuples(pairs, inner).map(lambda pair: b"|%d\r\n" % len(pair[0]) + b"".join(pair[0]) + pair[1]),
        )

    return st.recursive(leaves, nested, max_leaves=12)


@given(st.lists(encoded_values(), max_size=6), CUTS, st.integers(0, 10))
def test_any_chunking_gives_the_replies_of_the_obvious_splitter(
    replies: list[bytes], cuts: list[int], cut: int
) -> None:
    data = b"".join(replies)
    data = data[: len(data) - cut] if cut < len(data) else data
    expected, position = [], 0
    while position < len(data):
        try:
            end = obvious_reply(data, position)
        except IndexError:
            break
        expected.append(data[position:end])
        position = end
    splitter = ReplySplitter()
    found = [reply for piece in chunks(data, cuts) for reply in splitter.feed(piece)]
    assert found == expected
    splitter = ReplySplitter()
    assert [reply for byte in data for reply in splitter.feed(bytes([byte]))] == expected


@given(st.binary(max_size=80), CUTS)
def test_no_bytes_crash_parser_or_splitter(data: bytes, cuts: list[int]) -> None:
    parse(chunks(data, cuts), 3)
    splitter = ReplySplitter()
    try:
        for piece in chunks(data, cuts):
            splitter.feed(piece)
    except ProtocolError:
        pass


@given(st.lists(encoded_values(), max_size=6), CUTS, st.integers(4, 60))
def test_replies_that_are_too_big_leave_an_error_and_no_bytes(replies: list[bytes], cuts: list[int], most: int) -> None:
    replies = [reply for reply in replies if reply[:1] != b">"]
    splitter = ReplySplitter(most)
    found: list[bytes] = []
    for piece in chunks(b"".join(replies), cuts):
        found += splitter.feed(piece)
        assert splitter.buffered <= most + 30  # beside the line that is not whole yet
    expected = [reply if len(reply) <= most else b"-ERR the command was carried out" for reply in replies]
    assert [reply if len(reply) <= most else reply[:32] for reply in found] == expected
    splitter = ReplySplitter(most)
    again = [reply for byte in b"".join(replies) for reply in splitter.feed(bytes([byte]))]
    assert again == found
    assert splitter.buffered == 0


@given(
    st.lists(st.one_of(st.integers(200_000, 700_000), st.integers(0, 30)), min_size=1, max_size=4), CUTS, st.booleans()
)
def test_big_strings_come_whole_in_any_chunks(sizes: list[int], cuts: list[int], nested: bool) -> None:
    replies = [b"$%d\r\n" % size + bytes([size % 251]) * size + b"\r\n" for size in sizes]
    replies = [b"*2\r\n:1\r\n" + reply if nested else reply for reply in replies]
    data = b"".join(replies) + b"+OK\r\n"
    splitter = ReplySplitter()
    found = [reply for piece in chunks(data, [cut * 397 for cut in cuts]) for reply in splitter.feed(piece)]
    assert found == [*replies, b"+OK\r\n"]
    assert splitter.buffered == 0
    cut_off = ReplySplitter()
    cut_off.feed(replies[0][:-1])
    assert cut_off.buffered == len(replies[0]) - 1
    with pytest.raises(ProtocolError):
        cut_off.feed(b"xx")
    assert cut_off.buffered == 0
