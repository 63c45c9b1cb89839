"""Framing against slow, obvious parsers: any chunking gives the same frames and replies, faults included."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.errors import ProtocolError
from helios.resp.wire import Frame, Limits, ReplySplitter, RequestParser, encode_command, split_inline

LIMITS = Limits(arguments=20, bulk_bytes=200, frame_bytes=400)


def obvious_requests(data: bytes) -> tuple[list[Frame], bool]:
    """All frames of `data` read from its start in one go, and whether it ends in a fault."""
    frames: list[Frame] = []
    position = 0
    while position < len(data):
        start = position
        if data[position : position + 1] != b"*":
            line = data.find(b"\n", position)
            if line < 0:
                break
            try:
                words = split_inline(data[position:line])
            except ProtocolError:
                return frames, True
            if words:
                frames.append((encode_command(words), words))
            position = line + 1
            continue
        line = data.find(b"\r\n", position)
        if line < 0:
            break
        if not canonical(data[position + 1 : line]) or int(data[position + 1 : line]) > LIMITS.arguments:
            return frames, True
        count = int(data[position + 1 : line])
        position = line + 2
        argv: list[bytes] = []
        while len(argv) < count:
            if position < len(data) and data[position : position + 1] != b"$":
                return frames, True
            line = data.find(b"\r\n", position)
            if line < 0:
                return frames, False
            digits = data[position + 1 : line]
            if not canonical(digits) or not 0 <= int(digits) <= LIMITS.bulk_bytes:
                return frames, True
            stop = line + 2 + int(digits)
            if stop - start > LIMITS.frame_bytes:
                return frames, True
            if stop + 2 > len(data):
                return frames, False
            if data[stop : stop + 2] != b"\r\n":
                return frames, True
            argv.append(data[line + 2 : stop])
            position = stop + 2
        if argv:
            frames.append((data[start:position], argv))
    return frames, False


def canonical(digits: bytes) -> bool:
    return len(digits) < 19 and digits.removeprefix(b"-").isdigit() and digits == b"%d" % int(digits)


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
    frames, fault = parse(chunks(data, cuts), 1 << 30)
    assert not fault
    assert [argv for _, argv in frames] == commands
    assert b"".join(raw for raw, _ in frames) == data


def obvious_reply(data: bytes, position: int) -> int:
    """The position behind the reply that begins at `position`; IndexError where it is not complete."""
    line = data.find(b"\r\n", position)
    if line < 0:
        raise IndexError
    kind, text, position = data[position : position + 1], data[position + 1 : line], line + 2
    if kind in b"+-:_,#(":
        return position
    if kind in b"$=!":
        if text == b"-1":
            return position
        position += int(text) + 2
        if position > len(data):
            raise IndexError
        return position
    values = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}[kind] * max(int(text), 0)
    for _ in range(values + (kind == b"|")):
        position = obvious_reply(data, position)
    return position


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
