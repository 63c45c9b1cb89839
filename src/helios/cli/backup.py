"""Takes a backup: reads the copies of all shards from a node at the speed of the slowest of network and disk."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import hiredis

from helios.cli import backup_files
from helios.cli.backup_files import CLUSTER, UNFINISHED, WHOLE, Backup, File
from helios.cli.files import FileProblem
from helios.client.connection import CommandRefused, RespClient, pack
from helios.errors import NotFound

_BEGIN_TIMEOUT_S = 24 * 3600.0  # moves that were asked for before are waited for


@dataclass(slots=True)
class _Copy:
    """One shard's file as far as it has come."""

    shard: str
    server: str
    file: Any
    digest: Any
    size: int
    done: bool = False


@dataclass(slots=True)
class Progress:
    """How far a backup is."""

    shards: int = 0
    shards_done: int = 0
    bytes: int = 0
    started: float = field(default_factory=time.monotonic)


class Taker:
    """One backup into one folder. What a run before has left there is gone on with, if the node still has it."""

    def __init__(
        self,
        client: RespClient,
        folder: Path,
        tell: Callable[[str], None],
        show: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self._client = client
        self._folder = folder
        self._tell = tell
        self._show = show
        self.progress = Progress()

    def run(self) -> Backup:
        """Take it to its end. Raises FileProblem, CommandRefused, Unavailable, OutcomeUnknown."""
        if (self._folder / WHOLE).exists():
            raise FileProblem(f"{self._folder} holds a backup already: name another folder")
        begun = self._unfinished()
        if begun is not None:
            try:
                return self._read(begun)
            except CommandRefused as error:
                if error.code != NotFound.code:
                    raise
            self._tell(f"the backup that was begun in {self._folder} is kept no longer: it is taken anew")
            self._discard(begun)
        elif not backup_files.is_empty(self._folder):
            raise FileProblem(f"{self._folder} is not empty, and holds no backup: name another folder")
        return self._read(self._begin())

    def _unfinished(self) -> dict[str, Any] | None:
        path = self._folder / UNFINISHED
        try:
            fields: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise FileProblem(f"{path} cannot be read: remove {self._folder}, and begin anew ({error})") from error
        return fields

    def _discard(self, begun: dict[str, Any]) -> None:
        with backup_files.telling(self._folder):
            for name in (CLUSTER, *(backup_files.file_of(shard) for shard in begun["shards"]), UNFINISHED):
                (self._folder / name).unlink(missing_ok=True)

    def _begin(self) -> dict[str, Any]:
        with backup_files.telling(self._folder):
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        moving = self._client.call(b"ACTIVEMIGRATIONS")
        if moving:
            self._tell("keys move between nodes: the backup begins when that has ended")
        view = self._client.call(b"BACKUP", timeout_s=_BEGIN_TIMEOUT_S)
        begun = {
            "id": view[b"id"].decode(),
            "taken_at": float(view[b"taken_at"]),
            "pause_ms": float(view[b"pause_ms"]),
            "version": view[b"version"].decode(),
            "shards": {copy[b"shard"].decode(): copy[b"server"].decode() for copy in view[b"shards"]},
        }
        backup_files.write(self._folder / CLUSTER, view[b"cluster"])
        backup_files.write(self._folder / UNFINISHED, json.dumps(begun).encode())
        return begun

    def _read(self, begun: dict[str, Any]) -> Backup:
        """Read what is still to come of a backup that has begun."""
        with ExitStack() as stack, backup_files.telling(self._folder):
            copies = [self._copy(stack, shard, server) for shard, server in sorted(begun["shards"].items())]
            self.progress.shards = len(copies)
            self.progress.bytes = sum(copy.size for copy in copies)
            self._read_all(begun["id"], copies)
            for copy in copies:
                backup_files.sync(copy.file)
            state = self._folder / CLUSTER
            cluster = File(CLUSTER, state.stat().st_size, backup_files.digest_of(state).hexdigest())
        files = [
            File(backup_files.file_of(copy.shard), copy.size, copy.digest.hexdigest(), copy.shard, copy.server)
            for copy in copies
        ]
        backup = Backup(begun["id"], begun["taken_at"], begun["pause_ms"], begun["version"], (cluster, *files))
        backup_files.write_whole(self._folder, backup)
        self._client.call(b"BACKUPEND", backup.id.encode())
        return backup

    def _copy(self, stack: ExitStack, shard: str, server: str) -> _Copy:
        path = self._folder / backup_files.file_of(shard)
        file = stack.enter_context(backup_files.open_private(path, append=True))
        return _Copy(shard, server, file, backup_files.digest_of(path), path.stat().st_size)

    def _read_all(self, backup_id: str, copies: list[_Copy]) -> None:
        """A part of each shard in turn, so that no server waits for long to be read."""

        def ask(copy: _Copy) -> None:
            # Only now: what stands before is kept for us no longer.
            self._client.send(pack(b"BACKUPREAD", backup_id.encode(), copy.shard.encode(), b"%d" % copy.size))
            waiting.append(copy)

        waiting: deque[_Copy] = deque()
        for copy in copies:
            ask(copy)
        while waiting:
            copy = waiting.popleft()
            part = self._client.read()
            if isinstance(part, hiredis.ReplyError):
                for _ in waiting:  # the connection is used on
                    self._client.read()
                raise CommandRefused(str(part))
            self._take(copy, part)
            if not copy.done:
                ask(copy)

    def _take(self, copy: _Copy, part: dict[bytes, Any]) -> None:
        data = part[b"data"]
        copy.file.write(data)
        copy.file.flush()  # whoever goes on after this process was killed finds it there
        copy.digest.update(data)
        copy.size += len(data)
        self.progress.bytes += len(data)
        if part[b"size"] >= 0:
            if (copy.size, copy.digest.hexdigest()) != (part[b"size"], part[b"sha256"].decode()):
                raise FileProblem(
                    f"{self._folder / backup_files.file_of(copy.shard)} is not what was sent: remove {self._folder} "
                    "and take the backup anew"
                )
            copy.done = True
            self.progress.shards_done += 1
        self._show(self.progress)
