"""Whether a connection still leads to the leader of its shard."""

from __future__ import annotations

from typing import Protocol

from helios.control.rounds import Quorum
from helios.model.topology import Member, Shard, Topology
from helios.ports.engine import UserRole


def why_left(member: Member, leader: Member | None) -> str:
    """Why connections to a member that led a shard are closed, by its current leader; empty where it is the same."""
    if leader is None:
        return "the shard is no longer in the cluster"
    return "" if (leader.id, leader.address) == (member.id, member.address) else "the shard has another leader"


def history_of(shard: Shard) -> str:
    """The replication id under which the shard's leader has to lead; empty where any will do."""
    return shard.lineage[0].history if shard.lineage and not Quorum.of(shard).alone else ""


def _same_term(before: Shard, now: Shard) -> bool:
    """Whether the shard has had no other leader between, be it that the same member leads again."""
    if not before.lineage or Quorum.of(before).alone:
        return len(now.lineage) <= 1
    return bool(now.lineage) and before.lineage[0].history == now.lineage[0].history


def why_ended(before: Shard, now: Shard | None) -> str:
    """Why connections to the one that led a shard are of no use any more; empty where they are."""
    reason = why_left(before.leading, None if now is None else now.leading)
    if reason or now is None:
        return reason
    return "" if _same_term(before, now) else "another has led the shard meanwhile"


class Left(Protocol):
    """A connection that is about to be closed."""

    member: Member
    role: UserRole

    def left_behind(self) -> list[tuple[int, bytes, int]]:
        """The connections on which something would be unanswered: client id, server's run id, commands."""


class LeftBehind:
    """What was under way at members that led, for when they lead again: the same process may carry it out yet.

    A member that leaves the cluster is kept in mind as well, for its server may run on, and be added again.
    """

    def __init__(self) -> None:
        self._orphaned: dict[tuple[str, UserRole], list[tuple[int, bytes, int]]] = {}  # by member id and role

    def note(self, link: Left) -> None:
        """The link is about to be closed."""
        if orphaned := link.left_behind():
            self._orphaned.setdefault((link.member.id, link.role), []).extend(orphaned)

    def led_again(self, topology: Topology) -> list[tuple[str, UserRole, list[tuple[int, bytes, int]]]]:
        """What is to be ended at once, by shard and role, since its member leads again; others are kept in mind."""
        leading = {shard.leader: shard.id for shard in topology.shards}
        found = [
            (leading[member], role, orphaned)
            for (member, role), orphaned in self._orphaned.items()
            if member in leading
        ]
        self._orphaned = {of: orphaned for of, orphaned in self._orphaned.items() if of[0] not in leading}
        return found
