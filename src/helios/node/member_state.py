"""What a node remembers of its data servers beside their folders, and which of them run now."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from helios.errors import StartError
from helios.node.files import MemberFolder, NodeFolder, read_json, write_json
from helios.node.locks import holder_of
from helios.node.process import Process

_NEWER = ("epoch", "tls")  # what is remembered beyond what the release before did


@dataclass(frozen=True, slots=True)
class MemberState:
    """What is remembered of a data server beside its folder. `started`: it has once come up with its data.

    `server` is the program that ran last, for people: which one runs next, the folder does not say. `epoch` is that of
    the topology at its last start, of members that can be taken away; earlier topologies do not know of it.
    """

    id: str
    port: int
    password: str
    server: str = ""
    version: str = ""
    started: bool = False
    salt: str = ""  # of a password that comes of the cluster's key
    epoch: int = 0
    tls: bool = False  # whether it speaks TLS at its port


def read_state(path: Path, member_id: str) -> MemberState | None:
    """What is remembered of a member. Raises StartError for what Helios did not write, or wrote for another."""
    value = read_json(path)
    if value is None:
        return None
    try:
        state = MemberState(**value)
    except TypeError as error:
        raise StartError(f"{path} does not hold what Helios wrote there ({error})") from error
    if state.id != member_id:
        raise StartError(f"{path} belongs to {state.id}, not to {member_id}: one folder serves one member")
    return state


def write_state(path: Path, state: MemberState) -> None:
    """Remember this of a member."""
    # An older release would not know what to make of names that it does not have.
    write_json(path, {name: value for name, value in asdict(state).items() if name not in _NEWER or value})


def member_of(folder: MemberFolder) -> Process | None:
    """The data server that runs on this folder's data now, if its process is known."""
    holder = holder_of(folder.lock)
    return Process(holder.process) if holder else None


def members_of(folder: NodeFolder) -> list[Process]:
    """The data servers of a node that run now, as far as their processes are known."""
    return [process for member in folder.members() if (process := member_of(member))]


def described(folder: MemberFolder) -> str:
    """A data server for people: its program and port, as last started."""
    value = read_json(folder.state) or {}
    tls = ", TLS" if value.get("tls") else ""
    return f"{value.get('version', 'unknown')}, port {value.get('port', '?')}{tls}"
