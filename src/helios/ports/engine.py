"""What Helios asks of a data server, beside what routers forward to it unread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, TypeAlias

from helios.model.ids import Address
from helios.model.topology import Member

CLIENT_NAME = "helios"
"""How every connection of Helios to a data server is called there, so that others can be told apart."""
NOBODY = Address("127.0.0.1", 1)
"""Whom a server follows that is to lead nobody: nothing listens there, and it takes no writes."""
BIG_VALUE_BYTES = 256 << 10
"""From here on a value is big: to dump and restore a megabyte keeps each server busy for up to 10 ms."""
QUIET_CHANNEL = b"helios-changes"
"""What connections subscribe to on which servers name changed keys: a server bounds what waits for a subscriber."""


ROUND_CHANNEL = b"helios-rounds"
"""The shard channel on which a round publishes an empty message, which the leader's followers are then to have."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a server says of itself."""

    product: str  # "valkey" or "redis"
    version: str
    run_id: str
    keys: int
    used_memory_bytes: int
    aof_enabled: bool
    aof_fsync: str  # the server's appendfsync: "always", "everysec" or "no"
    helios_node: str | None = None  # set where the address is answered by a router of Helios, not by a data server
    dataset_bytes: int = 0  # what keys and values occupy, as far as the server says
    operations: int = 0  # commands since its start, without those of administration and copying
    counts_accesses: bool = False  # whether `frequencies` can be asked
    script_calls: int = 0  # since its start, of scripts and functions that may write


@dataclass(frozen=True, slots=True)
class Vitals:
    """How a server is: how many keys it has, owned or not, and why it takes no writes (empty where it does)."""

    keys: int
    refuses: str


@dataclass(frozen=True, slots=True)
class Dumped:
    """A key's value, serialised by its server, and when it ends (Unix milliseconds), if ever.

    `stream` tells of a value that may be a stream: see `StreamState`. By `idle_s` or `frequency`, whichever its
    server keeps, a key is evicted after a move as it would have been before.
    """

    payload: bytes
    expire_at_ms: int | None
    stream: bool = False
    idle_s: int | None = field(default=None, compare=False)
    frequency: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class StreamState:
    """What a stream knows beside its entries, and what no change stream names when it changes.

    Of consumer groups it tells how many there are: within them anything may have changed.
    """

    last_id: bytes
    entries_added: int
    max_deleted_id: bytes
    groups: int


class StepCopy(StrEnum):
    """How a copy in steps ended."""

    COPIED = "copied"
    ABSENT = "absent"  # the source has no such key, and so the target has none
    CHANGED = "changed"  # the key became another thing meanwhile: the target's copy is worthless until it is repeated


# What an engine remembers of one key's copy on one target, to make the next copy quicker.
Notes: TypeAlias = dict[bytes, bytes]
# Awaited with a number of bytes before they are written.
Pace: TypeAlias = Callable[[int], Awaitable[None]]


async def at_once(_size: int) -> None:
    """The pace of who may go as fast as it can."""


class UserRole(StrEnum):
    """What an ACL user made by Helios may do."""

    ROUTER = "router"  # everything that clients may do through Helios, scripts included
    FLUSHER = "flusher"  # empty the server, for a client's FLUSHALL
    MOVER = "mover"  # read, write, track, count, and administer users
    REPLICATOR = "replicator"  # say who follows whom, and administer users
    FOLLOWER = "follower"  # be given a copy of everything


# The users that Helios makes at servers: those of a router's session, and one for each piece of a coordinator's work.
SESSION_PREFIX = "helios-s-"
FLUSH_PREFIX = "helios-f-"
MOVER_PREFIX = "helios-m-"
FOLLOWER_PREFIX = "helios-r-"  # and, at a shard's leader, one for each member that follows it
SESSION_PREFIXES = {UserRole.ROUTER: SESSION_PREFIX, UserRole.FLUSHER: FLUSH_PREFIX}


def session_of(user: str) -> str | None:
    """The id of the session whose user this is, None where it is no session's."""
    return user[len(SESSION_PREFIX) :] if user.startswith((SESSION_PREFIX, FLUSH_PREFIX)) else None


def users_of(session: str) -> list[str]:
    """The users that a session may have at a server."""
    return [prefix + session for prefix in SESSION_PREFIXES.values()]


class ScriptEnd(StrEnum):
    """What came of the wish to end a script or function that runs at a server."""

    ENDED = "ended"
    NONE = "none"  # there was none, or it had just ended
    UNKILLABLE = "unkillable"  # it has written already, and nothing may be half done


@dataclass(frozen=True, slots=True)
class Follower:
    """A server that follows a leader, as the leader sees it: what it has acknowledged, and how long ago.

    Until it is `online` it is still given a whole copy, and no round counts it.
    """

    address: Address
    offset: int
    lag_s: float
    online: bool = True


@dataclass(frozen=True, slots=True)
class Replication:
    """What a server is to other servers, and how much it has: `offset` bytes of the history of that id.

    `history` is empty where an offset could not be compared with those of others: after a restart, until a whole copy
    has come; while one is loaded; and for a leader that has never been followed. `former_history` is the one before a
    promotion, until `former_end`. `leader` is whom it follows, None if nobody; `in_sync` tells that it receives what
    the leader writes (always true of a leader).
    """

    leads: bool
    history: str
    offset: int
    former_history: str = ""
    former_end: int = 0
    leader: Address | None = None
    in_sync: bool = True
    followers: tuple[Follower, ...] = ()


class ChangeStream(Protocol):
    """The keys that a server changes, by any cause, from the moment that the stream was opened.

    A server that nobody listens to any more ends the stream before what it has to name fills its memory.
    """

    async def barrier(self) -> set[bytes]:
        """Every key named since the last call, at least those changed before this call was made.

        Costs one round trip. Raises ChangesLost if the connection broke or the server was flushed: then
        everything that was copied must be copied again.
        """

    async def close(self) -> None:
        """Stop listening."""


class Engine(Protocol):
    """One server, as one user. Any method may raise EngineUnreachable or EngineDenied.

    After EngineUnreachable the outcome of a write is unknown. Sequences are sent as one pipeline.
    """

    async def info(self) -> EngineInfo:
        """Who answers there."""

    async def count(self) -> int:
        """The number of keys (DBSIZE), owned or not."""

    async def now_s(self) -> float:
        """What the server's clock says: Unix seconds. Its keys end by that clock."""

    async def refuses_writes(self) -> str:
        """Why the server takes no writes at the moment and what to do about it; empty where it takes them."""

    async def vitals(self) -> Vitals:
        """What `count` and `refuses_writes` say, for one round trip: who looks at many servers needs no more."""

    async def scan(self, cursor: int, count: int, beginning: bytes = b"") -> tuple[int, list[bytes]]:
        """The next cursor (0 = the end) and some keys, of those that begin so; each that stays is given at least once.

        The server passes over about `count` keys, whatever they begin with.
        """

    async def exists(self, keys: Sequence[bytes]) -> list[bool]:
        """For each key whether the server has it."""

    async def dump(self, keys: Sequence[bytes]) -> list[Dumped | None]:
        """For each key its value, None where it does not exist (any more)."""

    async def restore(self, items: Sequence[tuple[bytes, Dumped]], *, replace: bool = True) -> list[bool]:
        """Write the keys with their absolute TTL; False where `replace` is off and the key existed.

        Raises PayloadRefused if the server cannot read a payload.
        """

    async def take_over(self, items: Sequence[tuple[bytes, Dumped]], register: bytes) -> list[bool]:
        """Write the keys that are not there yet, and enter each key into a register, both in one step.

        False for those that were there; they are entered all the same. Raises what `restore` raises; a key that could
        not be written is not entered. The register is a key of the server like any other: it is gone when deleted.
        """

    async def register(self, register: bytes, keys: Sequence[bytes]) -> None:
        """Enter keys into a register, which is made where there is none; at least one key."""

    async def registered(self, register: bytes) -> frozenset[bytes]:
        """The keys in a register."""

    async def sizes(self, keys: Sequence[bytes]) -> list[int]:
        """For each key roughly how many bytes its value occupies, 0 where it does not exist.

        From a sample of a few elements, so that it costs about as little as an `exists`.
        """

    async def frequencies(self, keys: Sequence[bytes]) -> list[int]:
        """For each key about how often it has been accessed lately, by the server's own decaying count; 0 if unknown.

        Only for servers that count accesses; the numbers are good for comparing keys of one server.
        """

    async def stream_marks(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """For each key a mark of all that it knows as a stream, consumer groups included; None where it is none.

        While a server gives the same mark of a key, nothing of that has changed. Empty where none can be given, since
        a consumer has been seen in this very moment.
        """

    async def stream_writes(self) -> bytes:
        """A word that another one takes the place of when any stream may have been changed without being named.

        Costs one small question. Empty where the server does not tell.
        """

    async def stream_states(self, keys: Sequence[bytes]) -> list[StreamState | None]:
        """For each key what it knows as a stream, None where it is none."""

    async def copy_in_steps(
        self,
        key: bytes,
        target: Engine,
        *,
        patch: bool,
        notes: Notes | None = None,
        pace: Pace = at_once,
        step_bytes: int = 256 << 10,
    ) -> StepCopy:
        """Make the target's value and TTL of `key` what they are here, in commands of about `step_bytes` each.

        For big values: no command occupies either server for longer than a few milliseconds, unless a single
        element is big. Without `patch` the target's value is removed first; with it, the value is compared in
        steps and only differences are written. A value that steps cannot reproduce is copied whole.
        `notes`, empty at first, spares comparisons if each copy of this key to this target is given them and
        nobody else has written the target's copy in between.
        Not atomic: exact only if the key does not change meanwhile, else it must be copied again, which a
        change stream tells. The target's key must be hidden from everybody until then. `target` is an engine of
        the same kind; errors may come from both.
        """

    async def digests(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """For each key a digest of its type, content and absolute end; None where it does not exist.

        Equal for equal values on any server of the same kind, whatever its version, its encoding and the order in
        which it keeps elements. Empty for a value that became another thing while it was read; one that changes
        meanwhile may give any digest. Reads whole values, in steps.
        """

    async def libraries(self) -> dict[bytes, bytes]:
        """The server's libraries of functions: code by name. Empty where it knows none."""

    async def replace_libraries(self, libraries: Mapping[bytes, bytes]) -> None:
        """Make these the server's libraries; while it works, some may be missing. Raises EngineError for bad code."""

    async def sample_payload(self) -> bytes:
        """What this server writes for some value, to be tried on another one. Leaves nothing behind."""

    async def accepts(self, payload: bytes) -> bool:
        """Whether this server can read what the writer of the payload writes. Leaves nothing behind."""

    async def delete(self, keys: Sequence[bytes]) -> int:
        """Remove the keys without blocking the server (UNLINK); the number that existed."""

    async def flush(self) -> None:
        """Remove every key."""

    async def persist(self, timeout_s: float) -> bool:
        """Wait until everything that the server had executed before this call, by anybody, is on its disk.

        True if it is; False if the server does not promise it (no AOF, or one that it never syncs). May take
        a little more than the second between two syncs of `everysec`; with `always` about a round trip.
        Raises EngineUnreachable on time-out.
        """

    async def replication(self) -> Replication:
        """What the server is to other servers, and how much it has."""

    async def follow(self, leader: Member, user: str | None = None, password: str | None = None) -> None:
        """Make the server a read-only copy of `leader`, to which it logs in as `user` from now on.

        Returns before it is in sync. It goes on from where it stands if the leader has what it lacks and nothing
        differs; else it is given a whole copy, and what it had is gone. To be told the same again changes nothing.
        """

    async def forget_login(self) -> None:
        """Make the server forget how it logs in to its leader: once the connection is lost, it cannot follow again.

        Not by itself, that is; to be told to follow gives it another login.
        """

    async def keep_history(self) -> None:
        """Have a leader go on in its history when nobody has followed it for a while, until it is restarted."""

    async def databases(self) -> int:
        """How many databases the server has, used or not. Raises EngineDenied where it does not say."""

    async def detach(self) -> Replication:
        """Make the server follow nobody: it takes no writes, acknowledges nothing to anybody, and stays where it is.

        What it is given back includes all that it has ever acknowledged. It refuses reads, too, where it is
        configured so.
        """

    async def promote(self) -> Replication:
        """Make the server lead, under a new history that begins where it stands; nothing changes if it leads already.

        Others that are no further than that in its former history can follow it without a whole copy. The new one
        stays until a restart.
        """

    async def round(self, count: int, timeout_s: float) -> int:
        """How many followers have all that the server had executed before this call, by anybody.

        Waits until these are `count`, but no longer than `timeout_s`; other calls on this engine wait meanwhile.
        Whoever follows and is online is counted. Raises EngineError if the server does not lead, or ceases to.
        """

    async def end_script(self) -> ScriptEnd:
        """End the script or function that runs, unless it has written something."""

    async def memory(self, word: str) -> str:
        """What the server answers to MEMORY with this word: DOCTOR, MALLOC-STATS or PURGE."""

    async def changes(self, *, own: bool = True, beginning: bytes = b"") -> ChangeStream:
        """Open a change stream of the keys that begin so; nothing that changes after this returns is missed.

        Without `own` it names what others change, or the server by itself. Where others and this engine change a key
        in the same instant, it may be left out if this engine was the last. An engine has one such stream at a time.
        """

    async def users(self) -> list[str]:
        """The names of the server's ACL users. Raises EngineDenied where that is not allowed."""

    async def strangers(self) -> list[str]:
        """The addresses of clients that are not of Helios. Raises EngineDenied where that is not allowed."""

    async def allow(self, user: str, password: str, role: UserRole) -> None:
        """Create or replace an ACL user. Raises EngineDenied where that is not allowed."""

    async def force_off(self, user: str) -> None:
        """Take every right from a user, end its connections and delete it. Nothing of it runs after this returns."""

    async def close(self) -> None:
        """End the connection."""


class Connector(Protocol):
    """Opens engines."""

    async def open(self, member: Member, *, user: str | None = None, password: str | None = None) -> Engine:
        """Connect to a member; without a user, as its administrator (external: as its default user).

        Raises EngineUnreachable or EngineDenied, naming the member and its address.
        """
