"""load and dump against a fake server that misbehaves in every way a cluster can."""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
import rich.progress
from click.testing import CliRunner, Result
from tests.fake_resp import FakeServer, resp3, serving

from helios.cli import client as entry
from helios.cli import load, transfer_verbs
from helios.cli.dump import Dumper
from helios.cli.records import HEADER


class FakeData:
    """Keys of two types: strings, and whatever else as its DUMP."""

    def __init__(self) -> None:
        self.strings: dict[bytes, bytes] = {}
        self.others: dict[bytes, bytes] = {}
        self.expiry: dict[bytes, int] = {}
        self.page = 3
        self.refused: set[bytes] = set()
        self.commands_left: int | None = None
        self.epochs: list[int] | None = None
        self.between: Callable[[], None] = lambda: None

    def answer(self, argv: list[bytes]) -> bytes | None:
        if self.commands_left is not None:
            self.commands_left -= 1
            if self.commands_left < 0:
                return None
        verb, key = argv[0], argv[1] if len(argv) > 1 else b""
        if key in self.refused:
            return b"-UNKNOWN the connection to shard-1 broke\r\n"
        return {
            b"SET": self._set,
            b"RESTORE": self._restore,
            b"SCAN": self._scan,
            b"GET": self._get,
            b"DUMP": self._dump,
            b"PEXPIRETIME": self._pexpiretime,
            b"CLUSTERSTATS": self._stats,
        }[verb](key, argv[2:])

    def _set(self, key: bytes, rest: list[bytes]) -> bytes:
        self.strings[key] = rest[0]
        self.expiry.pop(key, None)
        if rest[1:]:
            self.expiry[key] = int(rest[2])
        return b"+OK\r\n"

    def _restore(self, key: bytes, rest: list[bytes]) -> bytes:
        self.others[key] = rest[1]
        if rest[0] != b"0":
            self.expiry[key] = int(rest[0])
        return b"+OK\r\n"

    def _scan(self, cursor: bytes, rest: list[bytes]) -> bytes:
        """Pages that overlap by one key, as scans of a table that grows may."""
        pattern = rest[3].decode() if len(rest) > 2 else "*"
        keys = [key for key in [*self.strings, *self.others] if fnmatchcase(key.decode("latin-1"), pattern)]
        start = int(cursor)
        self.between()
        following = start + self.page
        return resp3([b"%d" % following if following < len(keys) else b"0", keys[max(0, start - 1) : following]])

    def _get(self, key: bytes, _: list[bytes]) -> bytes:
        if key in self.others:
            return b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
        return resp3(self.strings.get(key))

    def _dump(self, key: bytes, _: list[bytes]) -> bytes:
        return resp3(self.others.get(key))

    def _pexpiretime(self, key: bytes, _: list[bytes]) -> bytes:
        there = key in self.strings or key in self.others
        return resp3(self.expiry.get(key, -1) if there else -2)

    def _stats(self, _key: bytes, _: list[bytes]) -> bytes:
        if self.epochs is None:
            return b"-ERR unknown command 'CLUSTERSTATS', with args beginning with: \r\n"
        return resp3({"epoch": self.epochs.pop(0) if len(self.epochs) > 1 else self.epochs[0]})


class Shell:
    """A fake server, a folder, and helios-cli."""

    def __init__(self, server: FakeServer, data: FakeData, folder: Path) -> None:
        self.server = server
        self.data = data
        self.folder = folder

    def run(self, *arguments: str, stdin: bytes = b"") -> Result:
        command = ["--port", str(self.server.port), *arguments]
        return CliRunner().invoke(entry.cli, command, input=stdin)

    def file(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    data = FakeData()
    with serving(data.answer) as server:
        yield Shell(server, data, tmp_path)


# --- load ---


@pytest.mark.parametrize(("name", "pack"), [("x.tsv", bytes), ("x.tsv", gzip.compress), ("x.tsv.gz", gzip.compress)])
def test_load_tsv(shell: Shell, name: str, pack: Callable[[bytes], bytes]) -> None:
    content = b"a\t1\nb\tC:\\temp\\new\nc\tx\ty\nd\t\ne\t\xff\x00"
    result = shell.run("load", shell.file(name, pack(content)))
    assert result.exit_code == 0, result.output
    assert shell.data.strings == {b"a": b"1", b"b": b"C:\\temp\\new", b"c": b"x\ty", b"d": b"", b"e": b"\xff\x00"}
    assert result.stdout.startswith("5 loaded, 0 bad lines, 0 failed, in ")
    assert result.stderr == ""


def test_load_reports_bad_lines_by_number_and_loads_the_others(shell: Shell) -> None:
    result = shell.run("load", "-", "--format", "tsv", "--json", stdin=b"a\t1\nbad\n\n\tv\nb\t2\n")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"loaded": 2, "bad_lines": 3, "failed": 0}
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == ["line 2", "line 3", "line 4"]
    assert shell.data.strings == {b"a": b"1", b"b": b"2"}


def test_load_reports_every_write_that_failed(shell: Shell) -> None:
    shell.data.refused = {b"b"}
    result = shell.run("load", "-", "--format", "tsv", stdin=b"a\t1\nb\t2\nc\t3\n")
    assert result.exit_code == 1
    assert "line 2: b was not written: the connection to shard-1 broke" in result.stderr
    assert result.stdout.startswith("2 loaded, 0 bad lines, 1 failed")


def test_load_counts_what_fails_for_one_reason(shell: Shell) -> None:
    keys = [b"k%d" % number for number in range(40)]
    shell.data.refused = set(keys)
    result = shell.run("load", "-", "--format", "tsv", stdin=b"".join(key + b"\t1\n" for key in [*keys, b"good"]))
    assert result.exit_code == 1
    *named, counted = result.stderr.splitlines()
    assert [line.partition(" was not")[0] for line in named] == ["line 1: k0", "line 2: k1", "line 3: k2"]
    assert counted.startswith("37 more were not written: the connection to shard-1 broke")
    assert result.stdout.startswith("1 loaded, 0 bad lines, 40 failed")


@pytest.mark.parametrize("content", [b"a\t1\nbad\nb\t2\n", b"a\t1\nrefused\t1\nb\t2\n"])
def test_strict_stops_at_the_first_problem(shell: Shell, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BATCH_COMMANDS", 1)
    monkeypatch.setattr(load, "BATCHES_AHEAD", 0)
    shell.data.refused = {b"refused"}
    result = shell.run("load", "-", "--format", "tsv", "--strict", stdin=content)
    assert result.exit_code == 1
    assert "stopped at the first problem" in result.stderr
    assert shell.data.strings == {b"a": b"1"}


def test_many_small_batches_arrive_in_order(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BATCH_COMMANDS", 7)
    content = b"".join(b"k%d\t%d\n" % (i % 50, i) for i in range(1000))
    assert shell.run("load", shell.file("x.tsv", content)).exit_code == 0
    assert shell.data.strings == {b"k%d" % i: b"%d" % (950 + i) for i in range(50)}


def test_load_json_lines(shell: Shell) -> None:
    content = (
        b'{"key":"a","value":"1","ttl":1.5}\n{"key":"b","value":"2","expire_at_ms":99}\n'
        b'{"key":"h","dump":"AAE="}\n{"key":"h","oops":1}\n'
    )
    result = shell.run("load", shell.file("x.jsonl", content))
    assert result.exit_code == 1
    assert shell.server.commands == [
        [b"SET", b"a", b"1", b"PX", b"1500"],
        [b"SET", b"b", b"2", b"PXAT", b"99"],
        [b"RESTORE", b"h", b"0", b"\x00\x01", b"REPLACE"],
    ]
    assert "line 4: unknown field 'oops'" in result.stderr


def test_carriage_returns_are_kept_and_noted(shell: Shell) -> None:
    result = shell.run("load", "-", "--format", "tsv", stdin=b"a\t1\r\nb\t2\r\n")
    assert result.exit_code == 0
    assert shell.data.strings[b"a"] == b"1\r"
    assert "2 lines end in a carriage return" in result.stderr


def test_a_lost_connection_says_how_far_the_load_came(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "BATCH_COMMANDS", 10)
    shell.data.commands_left = 25
    content = b"".join(b"k%d\tv\n" % i for i in range(5000))
    result = shell.run("load", shell.file("x.tsv", content))
    assert result.exit_code == 1
    assert "may or may not have been carried out" in result.stderr
    known = re.search(r"stopped; known so far: (\d+) loaded", result.stderr)
    assert known is not None
    assert int(known[1]) <= 25


def test_a_damaged_archive_is_reported_after_its_good_lines(shell: Shell) -> None:
    content = gzip.compress(b"".join(b"k%d\tv\n" % i for i in range(20_000)))[:-20]
    result = shell.run("load", shell.file("x.tsv.gz", content))
    assert result.exit_code == 1
    assert "cannot read" in result.stderr
    assert len(shell.data.strings) > 1000
    assert f"known so far: {len(shell.data.strings):,} loaded" in result.stderr


# --- dump ---


def test_dump_writes_each_key_once(shell: Shell) -> None:
    shell.data.strings = {b"k%d" % i: b"v%d" % i for i in range(20)}
    target = shell.folder / "x.jsonl"
    result = shell.run("dump", str(target))
    assert result.exit_code == 0, result.output
    written = [json.loads(line) for line in target.read_text().splitlines()]
    assert written == [{"key": f"k{i}", "value": f"v{i}"} for i in range(20)]
    assert result.stdout.startswith("20 dumped, 0 failed, in ")


def test_dump_keeps_types_and_times_to_live_in_json_lines(shell: Shell) -> None:
    shell.data.strings = {b"a": b"1", b"\xff": b"\x00\xff"}
    shell.data.others = {b"h": b"\x00\x01"}
    shell.data.expiry = {b"a": 1_700_000_000_123, b"h": 5}
    result = shell.run("dump", "-", "--format", "jsonl")
    assert result.exit_code == 0
    assert [json.loads(line) for line in result.stdout.splitlines()] == [
        {"key": "a", "value": "1", "expire_at_ms": 1_700_000_000_123},
        {"key_base64": "/w==", "value_base64": "AP8="},
        {"key": "h", "dump": "AAE=", "expire_at_ms": 5},
    ]
    assert "3 dumped" in result.stderr


def test_dump_to_tsv_reports_what_tsv_cannot_hold(shell: Shell) -> None:
    shell.data.strings = {b"a\t": b"1\n\\", b"b": b"2"}
    shell.data.others = {b"h": b"\x00\x01"}
    shell.data.expiry = {b"b": 5}
    target = shell.folder / "x.tsv"
    result = shell.run("dump", str(target))
    assert result.exit_code == 1
    assert target.read_bytes() == HEADER + b"\na\\t\t1\\n\\\\\nb\t2\n"
    assert "h is not a string" in result.stderr
    assert result.stdout.startswith("2 dumped, 1 without their time to live, 1 failed")


def test_what_was_dumped_loads_again(shell: Shell) -> None:
    strings = {bytes([i]): bytes([255 - i]) * 3 for i in range(256)}
    shell.data.strings = dict(strings)
    for name in ("x.tsv.gz", "x.jsonl.gz"):
        assert shell.run("dump", str(shell.folder / name)).exit_code == 0
    for name in ("x.tsv.gz", "x.jsonl.gz"):
        shell.data.strings = {}
        assert shell.run("load", str(shell.folder / name)).exit_code == 0
        assert shell.data.strings == strings


def test_dump_of_keys_that_match(shell: Shell) -> None:
    shell.data.strings = {b"user:1": b"a", b"item:1": b"b", b"user:2": b"c"}
    result = shell.run("dump", "-", "--format", "tsv", "--match", "user:*")
    assert result.stdout_bytes == HEADER + b"\nuser:1\ta\nuser:2\tc\n"


def test_a_key_that_goes_meanwhile_is_left_out(shell: Shell) -> None:
    shell.data.strings = {b"a": b"1"}
    shell.data.between = shell.data.strings.clear
    result = shell.run("dump", "-", "--format", "jsonl")
    assert (result.exit_code, result.stdout) == (0, "")


def test_a_key_that_cannot_be_read_is_reported(shell: Shell) -> None:
    shell.data.strings = {b"a": b"1", b"b": b"2"}
    shell.data.refused = {b"b"}
    result = shell.run("dump", "-", "--format", "jsonl")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"key": "a", "value": "1"}
    assert "b cannot be read: UNKNOWN" in result.stderr


def test_keys_that_move_during_the_scan_are_met_by_another_scan(shell: Shell) -> None:
    shell.data.strings = {b"k%d" % i: b"v" for i in range(10)}
    shell.data.epochs = [7, 8, 8]

    def arrive() -> None:
        # Arrives in front of the cursor, where the first scan does not look again.
        if b"late" not in shell.data.strings and len(shell.server.commands) > 8:
            shell.data.strings = {b"late": b"v", **shell.data.strings}

    shell.data.between = arrive
    result = shell.run("dump", "-", "--format", "jsonl")
    assert result.exit_code == 0
    keys = [json.loads(line)["key"] for line in result.stdout.splitlines()]
    assert sorted(keys) == sorted(["late", *(f"k{i}" for i in range(10))])


def test_a_topology_that_never_rests_makes_the_dump_incomplete(shell: Shell) -> None:
    shell.data.strings = {b"a": b"1"}
    shell.data.epochs = list(range(1, 20))
    result = shell.run("dump", "-", "--format", "jsonl", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stderr.splitlines()[-1])["incomplete"] is True
    assert "may be missing" in result.stderr


def test_a_dump_that_breaks_leaves_the_file_of_before(shell: Shell) -> None:
    shell.data.strings = {b"k%d" % i: b"v" for i in range(20)}
    shell.data.commands_left = 10
    path = Path(shell.file("x.jsonl", b"before"))
    result = shell.run("dump", str(path))
    assert result.exit_code == 1
    assert path.read_bytes() == b"before"
    assert [entry.name for entry in shell.folder.iterdir()] == ["x.jsonl"]


def test_a_line_beyond_the_bound_is_named_with_the_way_to_let_it_in(shell: Shell) -> None:
    file = shell.file("x.tsv", b"a\t" + b"x" * 2000 + b"\nb\t2\n")
    result = shell.run("load", "--max-line", "1kb", file)
    assert result.exit_code == 1
    assert "line 1: it is longer than 1.0 KB: --max-line lets longer ones in" in result.output
    assert "1 loaded, 1 bad line, 0 failed" in result.output
    assert shell.run("load", "--max-line", "2kb", file).exit_code == 0
    assert shell.run("load", "--max-line", "much", file).exit_code == 2


def test_a_dump_that_is_stopped_says_how_far_it_was_and_leaves_nothing(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell.data.strings = {b"k%d" % n: b"v" for n in range(9)}
    dumped = Dumper._dump
    steps: list[int] = []

    def stopped(self: Dumper, keys: list[bytes]) -> None:
        if steps:
            raise KeyboardInterrupt
        steps.append(len(keys))
        dumped(self, keys)

    monkeypatch.setattr(Dumper, "_dump", stopped)
    target = shell.folder / "all.jsonl"
    result = shell.run("dump", str(target))
    assert result.exit_code == 130
    assert result.stderr.startswith(f"stopped; so far: {steps[0]} dumped, 0 failed, in ")
    assert result.stderr.endswith(f"; {target} is not written\n")
    assert list(shell.folder.iterdir()) == []


def test_a_dump_shows_how_many_keys_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    seen: list[float | None] = []
    real = rich.progress.Progress.add_task

    def add_task(self: rich.progress.Progress, description: str, total: float | None = 100.0) -> rich.progress.TaskID:
        seen.append(total)
        return real(self, description, total=total)

    monkeypatch.setattr(rich.progress.Progress, "add_task", add_task)
    with transfer_verbs._dumping(lambda: 12) as (_, progress):
        progress(5)
    assert seen == [12]
