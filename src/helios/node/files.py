"""Where a node keeps what, and files that are whole or not there at all."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helios.errors import StartError
from helios.model.ids import founder_id
from helios.node.ownership import check_owned

_MEMBER = "member"
_DISCARDED = ".discarded-"
_DEPTH = 4  # down to what lies in the folder of a data server


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The layout of a data folder (see the glossary: one folder is one machine's part of a cluster)."""

    root: Path

    @property
    def store(self) -> Path:
        """The store, unless the settings name another place."""
        return self.root / "helios.db"

    @property
    def up_lock(self) -> Path:
        """Held while `helios up` runs on this folder."""
        return self.root / "up.lock"

    @property
    def gateway_lock(self) -> Path:
        """Held while a gateway runs on this folder."""
        return self.root / "gateway.lock"

    @property
    def settings(self) -> Path:
        """The settings that `helios up` hands to its children."""
        return self.root / "settings.json"

    @property
    def cluster(self) -> Path:
        """Which cluster the folder is of."""
        return self.root / "cluster.json"

    @property
    def logs(self) -> Path:
        """The folder of all logs."""
        return self.root / "logs"

    @property
    def nodes(self) -> Path:
        """The folder that has one folder for each node."""
        return self.root / "nodes"

    def log(self, name: str) -> Path:
        """The log of a process."""
        return self.logs / f"{name}.log"

    def node(self, node_id: str) -> NodeFolder:
        """The folder of one node."""
        return NodeFolder(self.nodes / node_id, self.log(node_id))

    def node_ids(self) -> list[str]:
        """The nodes that have ever been started here, by id."""
        if not self.nodes.is_dir():
            return []
        return sorted(path.parent.name for path in self.nodes.glob("*/agent.json"))

    def check_owned(self) -> None:
        """Raise StartError where another user owns, or may write, what Helios would read or run here."""
        check_owned(self.root, _DEPTH)

    def prepare(self) -> None:
        """Make the folder, and see that it is this user's and that files can be written in it; raises StartError."""
        self.check_owned()
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            self.nodes.mkdir(mode=0o700, exist_ok=True)
            probe = self.root / f".writable-{os.getpid()}"
            probe.write_bytes(b"")
            probe.unlink()
        except OSError as error:
            raise StartError(f"cannot write in the data folder {self.root}: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class NodeFolder:
    """The layout of one node's folder."""

    root: Path
    log: Path

    @property
    def lock(self) -> Path:
        """Held while the node's agent runs."""
        return self.root / "agent.lock"

    @property
    def agent(self) -> Path:
        """What the agent remembers: where it listens."""
        return self.root / "agent.json"

    @property
    def instance(self) -> Path:
        """A random id by which this folder differs from others of the same node on other hosts."""
        return self.root / "instance.json"

    @property
    def topology(self) -> Path:
        """The topology as the agent last knew it."""
        return self.root / "topology.json"

    @property
    def settings(self) -> Path:
        """The settings that the agent hands to its routers."""
        return self.root / "settings.json"

    @property
    def founder(self) -> MemberFolder:
        """The data server that the node founds its shard with."""
        return MemberFolder(self.root / _MEMBER)

    def member(self, member_id: str) -> MemberFolder:
        """The data server of that member."""
        founds = member_id == founder_id(self.root.name)
        return self.founder if founds else MemberFolder(self.root / f"{_MEMBER}-{member_id}")

    def members(self) -> list[MemberFolder]:
        """All data servers that there have ever been."""
        return [MemberFolder(path) for path in sorted(self.root.glob(f"{_MEMBER}*")) if path.is_dir()]

    def router_lock(self, worker: int) -> Path:
        """Held while that router worker runs."""
        return self.root / f"router-{worker}.lock"

    def router_locks(self) -> list[tuple[int, Path]]:
        """The locks of all router workers that there have ever been, by worker."""
        found = [(path.stem.removeprefix("router-"), path) for path in self.root.glob("router-*.lock")]
        return sorted((int(number), path) for number, path in found if number.isdigit())

    def process_locks(self) -> list[Path]:
        """The locks of the agent and of all router workers."""
        return [self.lock, *(path for _, path in self.router_locks())]

    def others(self) -> list[str]:
        """The ids of the members that have files here, but for the founder."""
        names = [folder.root.name.removeprefix(_MEMBER) for folder in self.members()]
        return [name.removeprefix("-") for name in names if name]

    def clear_discarded(self) -> None:
        """Delete what was about to be deleted when its agent ended."""
        for path in self.root.glob(f"{_DISCARDED}*"):
            _delete(path)


@dataclass(frozen=True, slots=True)
class MemberFolder:
    """The folder in which a data server works, and what lies beside it."""

    root: Path

    @property
    def socket(self) -> Path:
        """Where the server listens for those who share its host and its user."""
        return self.root / "server.sock"

    @property
    def lock(self) -> Path:
        """Held while the data server, or a child of it, runs."""
        return self.root / "member.lock"

    @property
    def state(self) -> Path:
        """What the agent remembers of its data server: port, password, program."""
        return self.root.with_name(f"{self.root.name}.json")

    def discard(self) -> None:
        """Delete everything that is in it. It is gone in one step, whatever happens meanwhile."""
        gone = self.root.with_name(f"{_DISCARDED}{self.root.name}-{secrets.token_hex(4)}")
        with contextlib.suppress(FileNotFoundError):
            self.root.rename(gone)
            _delete(gone)


def _delete(folder: Path) -> None:
    # Imported where it is rare: it has libraries for packed files with it, which each process would hold for good.
    import shutil

    shutil.rmtree(folder)


def write_private(path: Path, text: str) -> None:
    """Replace the file as a whole, readable by its owner only; on disk when this returns."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, None if there is no such file; raises StartError if it is something else."""
    try:
        with open(path, encoding="utf-8", opener=_no_link) as file:
            value = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StartError(f"{path} cannot be read ({error}): put it back from a backup") from error
    if not isinstance(value, dict):
        raise StartError(f"{path} does not hold what Helios wrote there: put it back from a backup")
    return value


def open_log(path: str | Path) -> int:
    """A descriptor by which to add to a log that no other user reads. Raises OSError, also where it is a link."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        said = "is a symbolic link, through which nothing is logged: remove it, or use another folder by --data-dir"
        raise OSError(error.errno, said, str(path)) from None


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW)


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Replace the file by a JSON object; see `write_private`."""
    write_private(path, json.dumps(value, indent=2) + "\n")
