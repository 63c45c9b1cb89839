"""The folder of a backup: what is whole passes, and whatever is amiss is named."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from helios.cli import backup_files
from helios.cli.backup_files import CLUSTER, UNFINISHED, WHOLE, Backup, DamagedBackup, File
from helios.cli.files import FileProblem
from helios.cli.restore import check
from helios.engines.valkey._rdb import Damaged, Records, crc64
from helios.model.backup import ClusterState
from helios.model.codec import encode
from helios.model.topology import Placement, Topology

LIBRARY = b"#!lua name=lib\n"


def text(value: bytes) -> bytes:
    assert len(value) < 64
    return bytes([len(value)]) + value


def rdb(*records: bytes, head: bytes = b"REDIS0011", checksum: bool = True) -> bytes:
    """A file as a server writes it."""
    body = head + b"\xfa" + text(b"redis-ver") + text(b"7.2.0") + b"".join(records) + b"\xff"
    return body + (struct.pack("<Q", crc64(body)) if checksum else bytes(8))


KEY = b"\x00" + text(b"key") + text(b"value")
ENDING = b"\xfc" + struct.pack("<Q", 1_700_000_000_123) + b"\x00" + text(b"ends") + b"\xc0\x05"
IN_ANOTHER_DATABASE = b"\xfe\x03\x00" + text(b"other") + text(b"1")
LIBRARIES = b"\xf5" + text(LIBRARY)


def saved(folder: Path, content: bytes = b"") -> Path:
    """A whole backup of one shard."""
    folder.mkdir()
    state = ClusterState(
        Topology(1, placement=Placement(weights=(("shard-1", 1.0),))), {"sharding.migration_rate": "5"}
    )
    files = []
    for name, data, shard in ((CLUSTER, encode(state), ""), ("shard-1.rdb", content or rdb(KEY, ENDING), "shard-1")):
        (folder / name).write_bytes(data)
        files.append(File(name, len(data), sha256(data).hexdigest(), shard, "redis 7.2.0" if shard else ""))
    backup_files.write_whole(folder, Backup("b1", 1_700_000_000.0, 12.5, "0.1.0", tuple(files)))
    return folder


def test_a_whole_backup_says_what_it_holds(tmp_path: Path) -> None:
    checked = check(saved(tmp_path / "b", rdb(LIBRARIES, KEY, ENDING, IN_ANOTHER_DATABASE)))
    assert (checked.keys, checked.strays, checked.libraries) == (2, 1, (LIBRARY,))
    assert checked.cluster.settings == {"sharding.migration_rate": "5"}
    assert checked.backup.pause_ms == 12.5


def test_keys_of_other_shards_are_left_out(tmp_path: Path) -> None:
    folder = saved(tmp_path / "b")
    fields = json.loads((folder / WHOLE).read_text())
    fields.pop("sha256")
    fields["files"][1]["shard"] = "shard-2"
    files = tuple(File(**file) for file in fields["files"])
    backup_files.write_whole(folder, Backup("b1", 1.0, 1.0, "0.1.0", files))
    assert (check(folder).keys, check(folder).strays) == (0, 2)


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def prolong(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("name", [CLUSTER, "shard-1.rdb", WHOLE])
@pytest.mark.parametrize("damage", [change_a_byte, cut_off, prolong])
def test_a_damaged_file_is_named(tmp_path: Path, name: str, damage: Callable[[Path], None]) -> None:
    folder = saved(tmp_path / "b")
    damage(folder / name)
    if (name, damage) == (WHOLE, cut_off):  # its last byte is a line feed, which says nothing
        cut_off(folder / name)
    with pytest.raises(DamagedBackup, match=name):
        check(folder)


@pytest.mark.parametrize("name", [CLUSTER, "shard-1.rdb"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "b")
    (folder / name).unlink()
    with pytest.raises(DamagedBackup, match=f"{name} is missing"):
        check(folder)


def test_what_was_interrupted_before_it_had_a_name_is_nothing(tmp_path: Path) -> None:
    for name in (CLUSTER, f".{CLUSTER}.new", f".{UNFINISHED}.new"):
        assert backup_files.is_empty(tmp_path)
        (tmp_path / name).write_text("{")
    assert backup_files.is_empty(tmp_path)
    (tmp_path / "shard-1.rdb").write_bytes(b"somebody's own")
    assert not backup_files.is_empty(tmp_path)


def test_what_is_no_backup(tmp_path: Path) -> None:
    with pytest.raises(FileProblem, match=r"holds no backup: backup\.json is not there"):
        check(tmp_path)
    (tmp_path / UNFINISHED).write_text("{}")
    with pytest.raises(FileProblem, match="holds an unfinished backup: run helios-cli backup once more"):
        check(tmp_path)


def test_another_version_and_other_files(tmp_path: Path) -> None:
    folder = saved(tmp_path / "b")
    fields = json.loads((folder / WHOLE).read_text())
    (folder / WHOLE).write_text(json.dumps({**fields, "format": 2, "version": "9.9"}))
    with pytest.raises(FileProblem, match=r"was written by Helios 9\.9, which is newer"):
        check(folder)
    (folder / WHOLE).write_text(json.dumps({**fields, "file": "a letter"}))
    with pytest.raises(FileProblem, match="is not of a backup of Helios"):
        check(folder)


def test_no_file_outside_of_the_folder_is_read(tmp_path: Path) -> None:
    folder = saved(tmp_path / "b")
    outside = File("../secret", 1, "", "shard-1", "")
    backup_files.write_whole(folder, Backup("b1", 1.0, 1.0, "0.1.0", (outside,)))
    with pytest.raises(DamagedBackup, match=WHOLE):
        check(folder)


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    backup_files.write(tmp_path / "f", b"secret")
    assert (tmp_path / "f").stat().st_mode & 0o077 == 0


# The servers' format


def test_values_become_payloads_of_dump() -> None:
    (database, key, payload, expires), (_, other, packed, ends) = Records(rdb(KEY, ENDING))
    assert (database, key, expires) == (0, b"key", -1)
    assert payload[:-8] == b"\x00" + text(b"value") + b"\x0b\x00"
    assert payload[-8:] == struct.pack("<Q", crc64(payload[:-8]))
    assert (other, packed[:3], ends) == (b"ends", b"\x00\xc0\x05", 1_700_000_000_123)


def test_the_checksum_is_the_servers() -> None:
    assert crc64(b"123456789") == 0xE9C6D914C4B8D9CA
    assert crc64(b"") == 0


def test_a_server_that_writes_no_checksum() -> None:
    assert len(list(Records(rdb(KEY, checksum=False)))) == 1


def lzf(*parts: bytes) -> bytes:
    """A key that is packed as servers pack long strings."""
    return b"\x00\xc3" + b"".join(parts) + text(b"v")


def test_packed_keys() -> None:
    """One byte as it stands, then nine more of the same."""
    record = lzf(bytes([5, 10]), b"\x00a", b"\xe0\x00\x00")
    assert next(Records(rdb(record)))[1] == b"a" * 10


@pytest.mark.parametrize("parts", [(b"\x02\x0a", b"\x00a"), (b"\x03\x0a", b"\xe0\x00\x00"), (b"\x02\x01", b"\x1fa")])
def test_damaged_packed_keys(parts: tuple[bytes, ...]) -> None:
    """Too short, with nothing to repeat, and longer than it says."""
    with pytest.raises(Damaged, match="a packed string is damaged"):
        next(Records(rdb(lzf(*parts))))


DAMAGES = {
    "nothing": b"",
    "another file": b"PK\x03\x04 and so on",
    "cut off in a value": rdb(KEY)[:-12],
    "cut off in the checksum": rdb(KEY)[:-1],
    "another checksum": rdb(KEY)[:-1] + b"\x00",
    "bytes behind the end": rdb(KEY) + b"x",
    "an unknown type": rdb(b"\x63" + text(b"key") + text(b"v")),
    "an unknown mark": rdb(b"\xf0" + text(b"key")),
    "a length beyond the end": rdb(b"\x00" + text(b"key") + b"\x81" + b"\xff" * 8),
    "more elements than bytes": rdb(b"\x02" + text(b"key") + b"\x81" + b"\x7f" + b"\xff" * 7),
    "a length of no kind": rdb(b"\x00" + text(b"key") + b"\x82"),
    "a hash of the other product": rdb(b"\x16" + text(b"key") + b"\x00"),
}


@pytest.mark.parametrize("data", DAMAGES.values(), ids=DAMAGES.keys())
def test_damaged_files_of_servers(data: bytes) -> None:
    with pytest.raises(Damaged):
        list(Records(data))


@pytest.mark.parametrize("size", range(9, len(rdb(LIBRARIES, KEY, ENDING))))
def test_a_file_that_is_cut_off_anywhere(size: int) -> None:
    with pytest.raises(Damaged):
        list(Records(rdb(LIBRARIES, KEY, ENDING)[:size]))
