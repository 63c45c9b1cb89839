"""Files of load and dump: recognised, whole or absent."""

from __future__ import annotations

import gzip
import io
import stat
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.cli.files import FileProblem, format_of, lines, reading, writing
from helios.errors import InvalidInput


@pytest.mark.parametrize(
    ("name", "given_format", "expected"),
    [
        ("a.tsv", None, "tsv"),
        ("a.tsv.gz", None, "tsv"),
        ("b/a.jsonl", None, "jsonl"),
        ("a.ndjson.gz", None, "jsonl"),
        ("-", "tsv", "tsv"),
        ("a.tsv", "jsonl", "jsonl"),
    ],
)
def test_formats(name: str, given_format: str | None, expected: str) -> None:
    assert format_of(name, given_format) == expected


@pytest.mark.parametrize(("name", "given_format"), [("-", None), ("a.csv", None), ("tsv", None), ("a.tsv", "csv")])
def test_formats_that_nobody_can_tell(name: str, given_format: str | None) -> None:
    with pytest.raises(InvalidInput):
        format_of(name, given_format)


@given(st.lists(st.binary().map(lambda line: line.replace(b"\n", b""))), st.booleans())
def test_lines_are_split_at_line_feeds_alone(parts: list[bytes], ended: bool) -> None:
    content = b"\n".join(parts) + (b"\n" if ended and parts else b"")
    expected = parts if ended or not parts or parts[-1] else parts[:-1]
    assert list(lines(io.BytesIO(content))) == expected


def test_a_line_beyond_the_bound_is_passed_by_and_told() -> None:
    content = io.BytesIO(b"ab\n" + b"x" * 4 + b"\n" + b"cde\n" + b"y" * 600_000 + b"\nabc")
    assert list(lines(content, longest_bytes=3)) == [b"ab", None, b"cde", None, b"abc"]
    assert list(lines(io.BytesIO(b"x" * 4), longest_bytes=3)) == [None]


@pytest.mark.parametrize("length", [999_999, 1_000_000, 1_000_001, 1_000_002])
@pytest.mark.parametrize("ended", [True, False])
def test_the_bound_holds_for_lines_of_many_parts(length: int, ended: bool) -> None:
    line = b"x" * length
    content = io.BytesIO(line + b"\nnext" if ended else line)
    found = list(lines(content, longest_bytes=1_000_000))
    assert found == [line if length <= 1_000_000 else None, *([b"next"] if ended else [])]


def test_what_a_packed_line_grows_to_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "bomb.tsv.gz"
    with gzip.open(path, "wb", compresslevel=1) as packed:
        for _ in range(64):
            packed.write(b"x" * (1 << 20))
        packed.write(b"\nk\tv\n")
    tracemalloc.start()
    try:
        with reading(str(path)) as (content, _):
            assert list(lines(content, longest_bytes=1 << 20)) == [None, b"k\tv"]
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most < 8 << 20


def test_a_name_that_says_gzip_must_be_right(tmp_path: Path) -> None:
    path = tmp_path / "plain.tsv.gz"
    path.write_bytes(b"a\tb\n")
    with pytest.raises(FileProblem, match="is not packed by gzip as its name says"), reading(str(path)):
        pass
    path.write_bytes(b"")
    with reading(str(path)) as (content, _):
        assert content.read() == b""


def test_gzip_is_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(gzip.compress(b"a\tb\n") + gzip.compress(b"c\td\n"))
    with reading(str(path)) as (content, _):
        assert content.read() == b"a\tb\nc\td\n"
    path.write_bytes(b"a\tb\n")
    with reading(str(path)) as (content, _):
        assert content.read() == b"a\tb\n"


@pytest.mark.parametrize(
    "content",
    [gzip.compress(b"a\tb\n" * 100)[:-9], gzip.compress(b"x")[:-8] + b"12345678"],
    ids=["cut", "wrong checksum"],
)
def test_a_damaged_file_is_a_problem_and_not_an_end(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.tsv.gz"
    path.write_bytes(content)
    with pytest.raises(FileProblem, match="cannot read"), reading(str(path)) as (unpacked, _):
        unpacked.read()


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match=r"nowhere\.tsv: No such file"), reading(str(tmp_path / "nowhere.tsv")):
        pass


@pytest.mark.parametrize(("name", "unpack"), [("a.tsv", bytes), ("a.tsv.gz", gzip.decompress)])
def test_a_file_appears_whole(tmp_path: Path, name: str, unpack: Callable[[bytes], bytes]) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    with writing(str(path)) as file:
        file.write(b"content")
        assert path.read_bytes() == b"before"
    assert unpack(path.read_bytes()) == b"content"
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_dump_leaves_the_file_of_before_and_nothing_else(
    tmp_path: Path, name: str, error: type[BaseException]
) -> None:
    path = tmp_path / name
    path.write_bytes(b"before")
    with pytest.raises(error), writing(str(path)) as file:
        file.write(b"content")
        raise error
    assert path.read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target = tmp_path / "real.tsv"
    link = tmp_path / "link.tsv"
    link.symlink_to(target)
    with writing(str(link)) as file:
        file.write(b"content")
    assert link.is_symlink()
    assert target.read_bytes() == b"content"


def test_a_device_is_written_as_it_stands() -> None:
    with writing("/dev/null") as file:
        file.write(b"content")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match="cannot write"), writing(str(tmp_path / "no" / "a.tsv")):
        pass
