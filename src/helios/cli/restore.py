"""Brings a backup into a running cluster of any number of nodes, and checks one without that."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from helios.cli import backup_files
from helios.cli.backup_files import Backup, File
from helios.cli.load import Loader
from helios.cli.output import count, duration, size
from helios.cli.records import Record
from helios.client.connection import CommandRefused, RespClient
from helios.errors import Refused
from helios.model.backup import ClusterState
from helios.model.users import ReadFrom
from helios.placement.table import PlacementTable, table_of


def _several(number: int, what: str) -> str:
    """A number of something that is counted in English."""
    if number == 1:
        return f"1 {what}"
    return f"{count(number)} {what.removesuffix('y')}ies" if what.endswith("ry") else f"{count(number)} {what}s"


@dataclass(slots=True)
class RestoreReport:
    """What came of a restore. `strays` are copies of keys on servers that did not own them, which are left out."""

    restored: int = 0
    failed: int = 0
    strays: int = 0
    libraries: int = 0
    settings: int = 0
    users: int = 0
    started: float = field(default_factory=time.monotonic)

    @property
    def clean(self) -> bool:
        """Whether everything is there."""
        return not self.failed

    def as_dict(self) -> dict[str, int]:
        """For programs."""
        names = ("restored", "failed", "strays", "libraries", "settings", "users")
        return {name: getattr(self, name) for name in names}

    def as_text(self) -> str:
        """For people."""
        beside = [(self.libraries, "function library"), (self.settings, "setting"), (self.users, "user")]
        said = "".join(f", {_several(number, what)}" for number, what in beside if number)
        took = duration(time.monotonic() - self.started)
        return f"{_several(self.restored, 'key')} restored{said}, {count(self.failed)} failed, in {took}"


@dataclass(frozen=True, slots=True)
class Checked:
    """A backup that is as it was written: what it holds."""

    backup: Backup
    cluster: ClusterState
    keys: int
    strays: int
    libraries: tuple[bytes, ...]

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return {
            "id": self.backup.id,
            "taken_at": self.backup.taken_at,
            "pause_ms": self.backup.pause_ms,
            "version": self.backup.version,
            "shards": len(self.backup.shards),
            "bytes": self.backup.size,
            "keys": self.keys,
            "libraries": len(self.libraries),
            "settings": len(self.cluster.settings),
            "users": len(self.cluster.users),
        }

    def as_text(self) -> str:
        """For people."""
        return (
            f"whole: {_several(self.keys, 'key')} of {_several(len(self.backup.shards), 'shard')}, "
            f"{size(self.backup.size)}; {_several(len(self.libraries), 'function library')}, "
            f"{_several(len(self.cluster.settings), 'setting')}, {_several(len(self.cluster.users), 'user')}"
        )


def check(folder: Path, progress: Callable[[int], None] = lambda _: None) -> Checked:
    """Read everything of a backup and compare it with what was written. Raises DamagedBackup, FileProblem."""
    backup = backup_files.read_whole(folder)
    for file in backup.files:
        backup_files.check_file(folder, file, progress)
    cluster = backup_files.read_cluster(folder)
    keys = strays = 0
    libraries: dict[bytes, None] = {}
    placement = table_of(cluster.topology.placement)
    for file in backup.shards:
        with backup_files.opened(folder, file) as records:
            for database, key, _, _ in records:
                owned = _is_owned(placement, file, database, key)
                keys += owned
                strays += not owned
            libraries |= dict.fromkeys(records.libraries)
    return Checked(backup, cluster, keys, strays, tuple(libraries))


def _is_owned(placement: PlacementTable, file: File, database: int, key: bytes) -> bool:
    """Whether clients saw the key: its shard was its owner, and not a server that still had a copy of it."""
    return database == 0 and placement.owner(key) == file.shard


class Restorer:
    """One restore. `tell` gets a line of text for each problem, `progress` how many keys have been read."""

    def __init__(
        self, client: RespClient, folder: Path, tell: Callable[[str], None], progress: Callable[[int], None]
    ) -> None:
        self._client = client
        self._folder = folder
        self._tell = tell
        self._progress = progress
        self.report = RestoreReport()

    def run(self, checked: Checked, *, settings: bool, users: bool) -> None:
        """Write everything. Raises Refused where the cluster has keys; nothing was written then."""
        self._refuse_keys()
        self.report.strays = checked.strays
        for code in checked.libraries:
            self._client.call(b"FUNCTION", b"LOAD", b"REPLACE", code)
            self.report.libraries += 1
        self._write_keys(checked)
        if settings:
            self._set(checked.cluster)
        if users and checked.cluster.users:
            # At the end: from now on only they are let in.
            self._client.call(b"RESTOREUSERS", _as_json(checked.cluster).encode())
            self.report.users = len(checked.cluster.users)

    def _refuse_keys(self) -> None:
        nodes = self._client.call(b"LISTNODES")
        if not nodes:
            raise Refused("the cluster has no nodes yet: add one with addnode")
        if not self._client.call(b"DBSIZE"):
            return
        holding = [f"{node[b'id'].decode()} ({count(node[b'keys'])})" for node in nodes if node[b"keys"] != 0]
        raise Refused(
            f"the cluster at {self._client.address} is not empty, and nothing was changed: {', '.join(holding)} "
            "hold keys; restore into a new cluster, or empty this one with FLUSHALL"
        )

    def _write_keys(self, checked: Checked) -> None:
        loader = Loader(self._client, self._tell, lambda: self._progress(loader.report.loaded), unit="key")
        placement = table_of(checked.cluster.topology.placement)
        number = 0
        try:
            for file in checked.backup.shards:
                with backup_files.opened(self._folder, file) as records:
                    for database, key, payload, expire_at_ms in records:
                        if not _is_owned(placement, file, database, key):
                            continue
                        number += 1
                        ends = expire_at_ms if expire_at_ms >= 0 else None
                        loader.write(number, Record(key, payload, serialised=True, expire_at_ms=ends))
            loader.settle()
        finally:
            self.report.restored, self.report.failed = loader.report.loaded, loader.report.failed

    def _set(self, cluster: ClusterState) -> None:
        for name, value in cluster.settings.items():
            try:
                self._client.call(b"SETTING", name.encode(), value.encode())
                self.report.settings += 1
            except CommandRefused as error:
                self._tell(f"the setting {name} stays as it is: {error.sentence}")


def _as_json(cluster: ClusterState) -> str:
    users = {
        user.name: {
            "role": user.role,
            "password_hash": user.password_hash,
            **({"keys": user.keys} if user.keys else {}),
            **({"read_from": user.read_from} if user.read_from is not ReadFrom.LEADER else {}),
        }
        for user in cluster.users
    }
    return json.dumps(users)
