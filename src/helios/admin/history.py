"""What was done to the cluster: the changes that have ended and those that are under way, in words."""

from __future__ import annotations

from helios.admin.reports import change_view
from helios.admin.views import HistoryView
from helios.model.migration import Change, ChangeKind, ChangeStatus, Origin
from helios.ports.records import CHANGES, FAILOVERS, HISTORY, FailoverRecord, HistoryRecord, list_records
from helios.ports.store import Store

FAILOVER = "failover"
"""The kind of entry that nobody has asked for: a lost leader was replaced."""


async def history(store: Store, count: int) -> list[HistoryView]:
    """The last `count` changes that were admitted, and failovers, the oldest first."""
    ended = {record.value.change.id: record.value for record in await list_records(store, HistoryRecord, HISTORY)}
    for record in await list_records(store, Change, CHANGES):
        change = record.value
        if change.id not in ended and change.status not in (ChangeStatus.REFUSED, ChangeStatus.SUBMITTED):
            ended[change.id] = HistoryRecord(change, 0.0)
    views = {change_id: _view(record) for change_id, record in ended.items()}
    for failover in await list_records(store, FailoverRecord, FAILOVERS):
        views[failover.value.id] = _failover(failover.value)
    return [views[entry_id] for entry_id in sorted(views)[-count:]]


def _failover(record: FailoverRecord) -> HistoryView:
    instead = "again" if record.leader == record.before else f"instead of {record.before}"
    lost = "what had not reached it is lost" if record.lossy else "nothing that a majority had was lost"
    return HistoryView(
        change=record.id,
        kind=FAILOVER,
        what=f"failover of {record.shard}: {record.leader} leads {instead}",
        origin=str(Origin.AUTOMATIC),
        status=str(ChangeStatus.DONE),
        reason=f"{record.reason}; {lost}",
        message=lost,
        requested_at=record.began_at,
        ended_at=record.ended_at,
        keys_moved=0,
        shard=record.shard,
    )


def _view(record: HistoryRecord) -> HistoryView:
    change = record.change
    return HistoryView(
        change=change.id,
        kind=str(change.kind),
        what=_what(change),
        origin=str(change.origin),
        user=change.user,
        status=str(change.status),
        reason=change.reason,
        message=change_view(change, ("",) * record.moves).message,
        requested_at=change.requested_at,
        ended_at=record.ended_at or None,
        keys_moved=record.keys_moved,
    )


def _what(change: Change) -> str:
    """What was asked for, as one would type it."""
    match change.kind:
        case ChangeKind.FOUND:
            return f"founded with {', '.join(node.id for node in change.nodes)}"
        case ChangeKind.ADD_NODE:
            (node,) = change.nodes
            words = [
                "addnode",
                node.id,
                str(node.address),
                *([] if node.weight == 1 else [f"--weight {node.weight:g}"]),
            ]
            return " ".join(
                [*words, *["--import"] * change.import_keys, *["--flush"] * change.flush, *["--adopt"] * change.adopt]
            )
        case ChangeKind.REMOVE_NODE:
            return f"removenode {change.node}"
        case ChangeKind.MIGRATE:
            pattern = "" if change.pattern == "*" else f" {change.pattern}"
            return f"migrate {change.source} {change.target}{pattern}"
        case ChangeKind.REBALANCE:
            return f"rebalance --by {change.by} --strategy {change.strategy}"
        case ChangeKind.REWEIGHT:
            return f"reweight {change.node} {change.weight:g}"
        case ChangeKind.DRAIN | ChangeKind.UNDRAIN:
            return f"{change.kind} {change.node}"
        case ChangeKind.PROMOTE:
            return f"promote {change.shard} {change.node}{' --accept-loss' * change.accept_loss}"
        case ChangeKind.REPAIR:
            return "check --repair"
        case ChangeKind.BACKUP:
            return "backup"
        case ChangeKind.END_SCRIPT:
            done = "ended" if change.status is ChangeStatus.DONE else "could not end"
            return f"{done} a script on {change.node}"
