"""The formats of load and dump: nothing is lost, nothing wrong passes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.cli.records import HEADER, BadLine, Record, TsvLines, json_line, parse_json_line, parser, tsv_line

MILLISECONDS = st.integers(min_value=1, max_value=2**53)


def records(*, strings_only: bool) -> st.SearchStrategy[Record]:
    """Any record that a dump can meet."""
    expiry = st.none() if strings_only else st.none() | MILLISECONDS
    kinds = st.just(False) if strings_only else st.booleans()
    nasty = (
        st.binary()
        | st.text().map(str.encode)
        | st.lists(st.sampled_from([b"\\", b"t", b"\t", b"\n", b"\r"])).map(b"".join)
    )
    return st.builds(Record, key=nasty, value=nasty, serialised=kinds, expire_at_ms=expiry)


@given(st.lists(records(strings_only=True)))
def test_tsv_of_a_dump_comes_back_whole(written: list[Record]) -> None:
    content = HEADER + b"\n" + b"".join(map(tsv_line, written))
    lines = TsvLines()
    read = [lines.parse(line) for line in content.removesuffix(b"\n").split(b"\n")]
    assert read == [None, *written]


@given(records(strings_only=False))
def test_json_of_a_dump_comes_back_whole(record: Record) -> None:
    line = json_line(record)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert parse_json_line(line[:-1]) == record


@given(st.binary(min_size=1), st.binary())
def test_plain_tsv_is_taken_byte_for_byte(key: bytes, value: bytes) -> None:
    key, value = key.translate(None, b"\t\n"), value.replace(b"\n", b"")
    line = key + b"\t" + value
    if key:
        assert TsvLines().parse(line) == Record(key, value)
    else:
        with pytest.raises(BadLine, match="the key is empty"):
            TsvLines().parse(line)


def test_backslashes_of_a_plain_file_stay() -> None:
    assert TsvLines().parse(rb"C:\temp" + b"\t" + rb"a\tb\\") == Record(rb"C:\temp", rb"a\tb\\")


def test_a_header_switches_the_lines_behind_it() -> None:
    lines = TsvLines()
    assert lines.parse(b"a\t" + rb"\t") == Record(b"a", rb"\t")
    assert lines.parse(HEADER) is None
    assert lines.parse(b"a\t" + rb"\t") == Record(b"a", b"\t")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "empty"),
        (b"no tab", "no tab"),
        (b"a\tb\\x", "unknown escape"),
        (b"a\tb\\", "unknown escape"),
        (b"a\tb\tc", "tab"),
    ],
)
def test_bad_lines_of_an_escaped_tsv(line: bytes, why: str) -> None:
    lines = TsvLines()
    lines.parse(HEADER)
    with pytest.raises(BadLine, match=why):
        lines.parse(line)


@pytest.mark.parametrize(
    ("line", "record"),
    [
        (b'{"key":"a","value":"b"}', Record(b"a", b"b")),
        (b' {"value":"","key":""} \r', Record(b"", b"")),
        (b'{"key_base64":"/w==","value_base64":"AA=="}', Record(b"\xff", b"\x00")),
        (b'{"key":"a","value":"b","ttl":1.5}', Record(b"a", b"b", ttl_ms=1500)),
        (b'{"key":"a","value":"b","ttl":0.0001}', Record(b"a", b"b", ttl_ms=1)),
        (b'{"key":"a","value":"b","expire_at_ms":1700000000123}', Record(b"a", b"b", expire_at_ms=1700000000123)),
        (b'{"key":"a","dump":"AA=="}', Record(b"a", b"\x00", serialised=True)),
        ('{"key":"é","value":"\\u00e9"}'.encode(), Record("é".encode(), "é".encode())),
    ],
)
def test_json_lines_that_are_taken(line: bytes, record: Record) -> None:
    assert parse_json_line(line) == record


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b"\xff", "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"key":"a"}', "exactly one of value"),
        (b'{"value":"a"}', "exactly one of key"),
        (b'{"key":"a","value":"b","dump":"AA=="}', "exactly one of value"),
        (b'{"key":"a","key":"b","value":"c"}', "given twice"),
        (b'{"key":1,"value":"b"}', "key is not a string"),
        (b'{"key":"a","value":null}', "value is not a string"),
        (b'{"key":"a","value_base64":"%"}', "not base64"),
        (b'{"key":"a","value_base64":5}', "not a string"),
        ('{"key":"a","value_base64":"é"}'.encode(), "not base64"),
        (b'{"key":"\\ud800","value":"b"}', "surrogate"),
        (b'{"key":"a","value":"b","ttl":0}', "positive"),
        (b'{"key":"a","value":"b","ttl":-1}', "positive"),
        (b'{"key":"a","value":"b","ttl":NaN}', "positive"),
        (b'{"key":"a","value":"b","ttl":1e999}', "positive"),
        (b'{"key":"a","value":"b","ttl":true}', "positive"),
        (b'{"key":"a","value":"b","ttl":"5"}', "positive"),
        (b'{"key":"a","value":"b","expire_at_ms":1.5}', "whole"),
        (b'{"key":"a","value":"b","ttl":1,"expire_at_ms":1}', "both"),
        (b'{"key":"a","value":"b","tll":1}', "unknown field 'tll'"),
    ],
)
def test_json_lines_that_are_not(line: bytes, why: str) -> None:
    with pytest.raises(BadLine, match=why):
        parse_json_line(line)


@given(st.binary(), st.sampled_from(["tsv", "jsonl"]))
def test_no_line_does_worse_than_bad(line: bytes, file_format: str) -> None:
    try:
        parser(file_format)(line)
    except BadLine as error:
        assert str(error)


@pytest.mark.parametrize(
    ("record", "command"),
    [
        (Record(b"k", b"v"), (b"SET", b"k", b"v")),
        (Record(b"k", b"v", ttl_ms=5), (b"SET", b"k", b"v", b"PX", b"5")),
        (Record(b"k", b"v", expire_at_ms=5), (b"SET", b"k", b"v", b"PXAT", b"5")),
        (Record(b"k", b"v", serialised=True), (b"RESTORE", b"k", b"0", b"v", b"REPLACE")),
        (Record(b"k", b"v", serialised=True, ttl_ms=5), (b"RESTORE", b"k", b"5", b"v", b"REPLACE")),
        (
            Record(b"k", b"v", serialised=True, expire_at_ms=5),
            (b"RESTORE", b"k", b"5", b"v", b"REPLACE", b"ABSTTL"),
        ),
    ],
)
def test_commands(record: Record, command: tuple[bytes, ...]) -> None:
    assert record.command() == command
