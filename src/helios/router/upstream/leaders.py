"""Whether a connection still leads to the leader of its shard."""

from __future__ import annotations

from helios.control.rounds import Quorum
from helios.model.topology import Member, Shard


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
