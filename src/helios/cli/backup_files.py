"""The folder of a backup: plain files, of which one says what the others hold.

`backup.json` comes last and makes the backup whole; until then `unfinished.json` tells which one is on its way. Each
shard is a file as its server writes it (RDB), and `cluster.json` is what the cluster agreed on.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from helios.cli.files import FileProblem
from helios.engines.valkey._rdb import Damaged, Records
from helios.errors import HeliosError, StoreError
from helios.model.backup import ClusterState
from helios.model.codec import decode

FORMAT = 1
WHOLE = "backup.json"
UNFINISHED = "unfinished.json"
CLUSTER = "cluster.json"
_NAME = "a backup of a cluster of Helios"
_CHUNK_BYTES = 1 << 20


class DamagedBackup(HeliosError):
    """A backup, or a file of it, is not what was written. Nothing was changed."""

    code = "DAMAGED"


@dataclass(frozen=True, slots=True)
class File:
    """A file of a backup, and what it was when it was written; of a shard's, which, and by which server."""

    name: str
    bytes: int
    sha256: str
    shard: str = ""
    server: str = ""


@dataclass(frozen=True, slots=True)
class Backup:
    """What `backup.json` says: the moment (Unix seconds), for how long commands were held, and the files."""

    id: str
    taken_at: float
    pause_ms: float
    version: str
    files: tuple[File, ...]

    @property
    def shards(self) -> tuple[File, ...]:
        """The files of the shards."""
        return tuple(file for file in self.files if file.shard)

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(file.bytes for file in self.files)


def file_of(shard: str) -> str:
    """The name of a shard's file."""
    return f"{shard}.rdb"


def write_whole(folder: Path, backup: Backup) -> None:
    """The backup is complete. Raises FileProblem."""
    fields = {"file": _NAME, "format": FORMAT, **asdict(backup)}
    write(folder / WHOLE, json.dumps({**fields, "sha256": _digest(fields)}, indent=2).encode() + b"\n")
    with telling(folder):
        (folder / UNFINISHED).unlink(missing_ok=True)
        sync_folder(folder)


def read_whole(folder: Path) -> Backup:
    """What a folder holds. Raises DamagedBackup, or FileProblem where it is no backup."""
    path = folder / WHOLE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        if (folder / UNFINISHED).exists():
            raise FileProblem(f"{folder} holds an unfinished backup: run helios-cli backup once more") from None
        raise FileProblem(f"{folder} holds no backup: {WHOLE} is not there") from None
    except OSError as error:
        raise FileProblem(f"cannot read {path}: {error.strerror or error}") from error
    try:
        fields = json.loads(text)
        name, form, said = fields["file"], fields["format"], fields.pop("sha256")
        if name != _NAME:
            raise FileProblem(f"{path} is not of a backup of Helios")
        if form > FORMAT:
            raise FileProblem(f"{path} was written by Helios {fields['version']}, which is newer: restore with that")
        intact = _digest(fields) == said
        files = tuple(File(**file) for file in fields["files"])
        backup = Backup(fields["id"], fields["taken_at"], fields["pause_ms"], fields["version"], files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedBackup(f"{path} is damaged: it is not what was written") from error
    if not intact or any("/" in file.name or file.name in ("", ".", "..") for file in files):
        raise DamagedBackup(f"{path} is damaged: its checksum is another")
    return backup


def _digest(fields: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def write(path: Path, data: bytes) -> None:
    """Write a file whole, for its owner alone; it is on disk when this returns. Raises FileProblem."""
    with telling(path):
        beside = _beside(path)
        with open_private(beside, append=False) as file:
            file.write(data)
            sync(file)
        beside.replace(path)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def open_private(path: Path, *, append: bool) -> Any:
    """A file to write, which nobody else can read. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | (os.O_APPEND if append else os.O_TRUNC)
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def sync(file: Any) -> None:
    """Return when what was written is on disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Return when the names in the folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest_of(path: Path, progress: Callable[[int], None] = lambda _: None) -> Any:
    """SHA-256 of a file so far, to which more can be added. Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while data := file.read(_CHUNK_BYTES):
            digest.update(data)
            progress(len(data))
    return digest


def check_file(folder: Path, file: File, progress: Callable[[int], None]) -> None:
    """Raise DamagedBackup, which names the file, unless it is as it was written."""
    path = folder / file.name
    try:
        size = path.stat().st_size
        if size != file.bytes:
            raise DamagedBackup(f"{path} is damaged: it has {size:,} bytes, and had {file.bytes:,} when it was written")
        if digest_of(path, progress).hexdigest() != file.sha256:
            raise DamagedBackup(f"{path} is damaged: its checksum is another")
    except FileNotFoundError:
        raise DamagedBackup(f"{path} is missing") from None
    except OSError as error:
        raise FileProblem(f"cannot read {path}: {error.strerror or error}") from error


def read_cluster(folder: Path) -> ClusterState:
    """What the cluster agreed on. Raises DamagedBackup."""
    try:
        return decode(ClusterState, (folder / CLUSTER).read_bytes())
    except OSError as error:
        raise FileProblem(f"cannot read {folder / CLUSTER}: {error.strerror or error}") from error
    except StoreError as error:
        raise DamagedBackup(f"{folder / CLUSTER} cannot be read by this release of Helios: {error}") from error


@contextmanager
def opened(folder: Path, file: File) -> Iterator[Records]:
    """The keys of a shard's file. Raises DamagedBackup, also while they are read in the block."""
    path = folder / file.name
    try:
        with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
            records = Records(data)
            try:
                yield records
            finally:
                records.close()
    except Damaged as error:
        raise DamagedBackup(f"{path} is damaged: {error}") from error
    except (OSError, ValueError) as error:
        raise FileProblem(f"cannot read {path}: {error}") from error


def is_empty(folder: Path) -> bool:
    """Whether a folder has nothing, or only what one that was interrupted at once has left. Raises FileProblem."""
    first = {CLUSTER, *(_beside(folder / name).name for name in (CLUSTER, UNFINISHED))}
    with telling(folder):
        return not folder.exists() or all(path.name in first for path in folder.iterdir())


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Errors of the system in the block become a FileProblem that names the path."""
    try:
        yield
    except OSError as error:
        raise FileProblem(f"cannot write {path}: {error.strerror or error}") from error
