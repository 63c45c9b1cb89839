"""Bugs to be planted, so that a test can show that the simulation finds them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from unittest.mock import patch

from tests.simulation.invariants import Invariants
from tests.simulation.planted_replicated import REPLICATED

from helios.coordinator.access import Access, Identity
from helios.coordinator.changes import Follower
from helios.coordinator.copy_target import CopyTarget
from helios.coordinator.fencing import Fencing
from helios.coordinator.publisher import Publisher
from helios.coordinator.shard_copier import ShardCopier
from helios.coordinator.streams import StreamMarks
from helios.coordinator.transition_work import TransitionWork
from helios.engines.memory import MemoryEngine
from helios.errors import EngineDenied
from helios.model.topology import Member, NodeKind
from helios.placement.routing import Routes
from helios.ports.engine import ChangeStream, Engine, UserRole
from helios.ports.store import Compare, Delete, Put
from helios.router.commands.counting import OwnKeys
from helios.router.session.users import MemberUsers
from helios.router.upstream.connection import Credentials


async def _settle_at_once(self: Fencing, epoch: int, member: Member) -> int:
    return 0


def _synced(self: CopyTarget) -> bool:
    return True


async def _wait_for_no_disk(self: CopyTarget) -> None:
    pass


async def _wait_for_no_target(self: TransitionWork, shard: str) -> None:
    pass


@contextmanager
def _not_durable() -> Iterator[None]:
    with (
        patch.object(CopyTarget, "synced", _synced),
        patch.object(CopyTarget, "finish", _wait_for_no_disk),
        patch.object(TransitionWork, "_make_durable", _wait_for_no_target),
    ):
        yield


async def _wait_for_no_source(*engines: Engine) -> None:
    pass


async def _end_nobody(self: Access, administrator: Engine) -> int:
    return 0


@contextmanager
def _late_restore() -> Iterator[None]:
    # That users are left over at the end is not what is to be found here.
    with patch.object(Access, "end_users", _end_nobody), patch.object(Invariants, "look_for_users", new=False):
        yield


async def _write_out_of_order(
    self: Publisher, operations: Sequence[Put | Delete], compares: Sequence[Compare] = ()
) -> int:
    return await self._commit(operations, compares)


_drain = ShardCopier._drain


async def _drain_and_go_on(self: ShardCopier, follower: Follower, target: str) -> None:
    await _drain(self, follower, target)
    self._targets[target].drained = False


async def _as_default_user(self: MemberUsers, member: Member, role: UserRole) -> Credentials | None:
    node = self._topology.node(member.node)
    if node is None or node.kind is not NodeKind.EXTERNAL:
        return await _made(self, member, role)
    self._as_default.add(member.id)
    await self._session.acts_as_default(self._as_default)
    return None


async def _changes_of_sources(self: MemoryEngine, *, own: bool = True, beginning: bytes = b"") -> ChangeStream:
    return await _changes(self, beginning=beginning) if own else _Silence()


class _Silence:
    """A change stream that names nothing."""

    async def barrier(self) -> set[bytes]:
        return set()

    async def close(self) -> None:
        pass


async def _grouped_streams(self: StreamMarks, keys: Collection[bytes]) -> set[bytes]:
    states = await self._source.stream_states(sorted(keys))
    return {key for key, state in zip(sorted(keys), states, strict=True) if state is not None and state.groups}


async def _open_as_default(self: Access, member: Member, identity: Identity) -> Engine:
    try:
        return await _open(self, member, identity)
    except EngineDenied:
        return await self.administer(member)


async def _fenceable(self: Access, member: Member) -> str:
    return ""


@contextmanager
def _movers_as_default() -> Iterator[None]:
    with patch.object(Access, "open", _open_as_default), patch.object(Access, "unfenceable", _fenceable):
        yield


_registered = MemoryEngine.registered


async def _registered_nowhere(self: MemoryEngine, register: bytes) -> frozenset[bytes]:
    """The import's mark alone, which says that the register is whole."""
    return frozenset(one for one in await _registered(self, register) if one.startswith(register))


def _first_error(replies: Mapping[str, bytes | None]) -> bytes:
    return next(reply for reply in replies.values() if reply is not None and reply[:1] == b"-")


async def _bring_nothing(here: Engine, there: Engine) -> None:
    pass


async def _no_strays(self: OwnKeys, routes: Routes, shard: str, calls: int, asked_s: float, wait_s: float) -> int:
    return 0


_made = MemberUsers._made
_open = Access.open
_changes = MemoryEngine.changes

PLANTS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "": nullcontext,
    # A pair is switched although routers have not acknowledged its fence.
    "switch-unacknowledged": lambda: patch.object(Fencing, "settle", _settle_at_once),
    # A pair is switched, and its source swept, before the copies are on the target's disk.
    "sweep-before-durable": _not_durable,
    # What a replaced coordinator had sent, or sends when it wakes, is still carried out.
    "late-restore-of-zombie": _late_restore,
    # Those that follow had been in the code until a life showed them.
    "records-overwritten": lambda: patch.object(Publisher, "write", _write_out_of_order),
    "drained-target-copied": lambda: patch.object(ShardCopier, "_drain", _drain_and_go_on),
    # A sweep is over before its deletions are on the source's disk, and a power cut brings back what it deleted.
    "sweep-undone": lambda: patch("helios.coordinator.sweep.make_durable", _wait_for_no_source),
    # A router is the default user of external servers, so that nobody can force it off there.
    "external-as-default": lambda: patch.object(MemberUsers, "_made", _as_default_user),
    # Nobody looks whether the copies on a target are still there.
    "target-unwatched": lambda: patch.object(MemoryEngine, "changes", _changes_of_sources),
    # Of what changes in a stream unnamed, only consumer groups are thought of.
    "streams-half-known": lambda: patch.object(StreamMarks, "changed", _grouped_streams),
    # Where nobody can make users, coordinators are the default user, and nobody ends what they have sent.
    "movers-as-default": _movers_as_default,
    # Which keys of an import their owners have had already is not asked after a crash.
    "imports-unregistered": lambda: patch.object(MemoryEngine, "registered", _registered_nowhere),
    # Where a part of a command fails, its error speaks for all, though others were carried out, or may have been.
    "first-error-for-all": lambda: patch("helios.router.commands.scatter.in_part", _first_error),
    # A shard that owns keys for the first time has none of the cluster's functions.
    "functions-left-behind": lambda: patch("helios.coordinator.transition_work.bring_functions", _bring_nothing),
    # A server's own number of keys is believed, whatever scripts have left there.
    "strays-counted": lambda: patch.object(OwnKeys, "_strays", _no_strays),
    **REPLICATED,
}
