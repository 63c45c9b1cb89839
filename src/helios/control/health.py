"""Whether a node is online, read-only, suspect or offline, since when and why: by its agent and its data server."""

from __future__ import annotations

from dataclasses import dataclass, replace

from helios.model.health import NodeHealth, NodeStatus

# Heartbeats and looks at servers come every two seconds: less than this is no silence.
_SILENCE_MIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Signs:
    """When a node's agent was last heard from and when its server answered (None: never); what was wrong with it then.

    `refuses`: why the server takes no writes; empty where it does.
    """

    heartbeat_at: float | None
    answered_at: float | None
    trouble: str = ""
    refuses: str = ""


def suspect_after_s(health_timeout_s: float) -> float:
    """How long a node may be silent before it is suspect: a third of the time after which it is offline."""
    return min(health_timeout_s, max(_SILENCE_MIN_S, health_timeout_s / 3))


def judge(node: str, signs: Signs, before: NodeHealth | None, now: float, health_timeout_s: float) -> NodeHealth:
    """How a node is now. It is as well as the worse of its two parts, since it serves with both.

    As long as the status stays, so do its beginning and its reason.
    """
    heard = [at for at in (signs.heartbeat_at, signs.answered_at) if at is not None]
    last_seen = min(heard) if len(heard) == 2 else None
    silent_s = None if last_seen is None else now - last_seen
    if silent_s is None or silent_s >= health_timeout_s:
        status = NodeStatus.OFFLINE
    elif silent_s >= suspect_after_s(health_timeout_s):
        status = NodeStatus.SUSPECT
    else:
        status = NodeStatus.READ_ONLY if signs.refuses else NodeStatus.ONLINE
    if before is not None and before.status is status:
        since, reason = before.since, before.reason
    elif status is NodeStatus.ONLINE:
        since, reason = now, ""
    elif status is NodeStatus.READ_ONLY:
        since, reason = now, f"its data server refuses writes: {signs.refuses}"
    else:
        since, reason = now if last_seen is None else last_seen, _reason(signs)
    return NodeHealth(node, status, since, reason, last_seen, signs.answered_at)


def seen_by_reader(
    node: str, known: NodeHealth | None, heartbeat_at: float | None, now: float, health_timeout_s: float
) -> NodeHealth:
    """How a node is for somebody who reads what the coordinator wrote down, perhaps some time ago.

    A heartbeat that has stopped since counts against the node; what the coordinator has not judged yet is taken
    for well. Where its agent alone was silent a moment ago and is heard again, that is believed before the coordinator
    says so.
    """
    by_heartbeat = judge(node, Signs(heartbeat_at, now), None, now, health_timeout_s)
    if known is None:
        return by_heartbeat
    if known.status.heard:
        return replace(known, last_seen=heartbeat_at) if by_heartbeat.status.heard else by_heartbeat
    if by_heartbeat.status is NodeStatus.ONLINE and _lacked_only_its_agent(known, now, health_timeout_s):
        return by_heartbeat
    severe = by_heartbeat.status is NodeStatus.OFFLINE and known.status is NodeStatus.SUSPECT
    return by_heartbeat if severe else known


def as_answered(known: NodeHealth, refuses: str | None, now: float) -> NodeHealth:
    """How a node is for somebody who has just asked its server whether it refuses writes (None: no answer).

    The coordinator may be unable to write that down, where the store is on the same full disk.
    """
    if refuses is None or not known.status.heard:
        return known
    asked = judge(known.node, Signs(now, now, refuses=refuses), known, now, _SILENCE_MIN_S)
    return replace(asked, last_seen=known.last_seen, answered_at=known.answered_at)


def _lacked_only_its_agent(known: NodeHealth, now: float, health_timeout_s: float) -> bool:
    """Whether the data server had just answered when the coordinator wrote this down."""
    answered_at, last_seen = known.answered_at, known.last_seen
    if answered_at is None or now - answered_at >= suspect_after_s(health_timeout_s):
        return False
    return last_seen is None or answered_at > last_seen


def _reason(signs: Signs) -> str:
    if signs.heartbeat_at is None:
        return "its agent has never been heard from"
    if signs.answered_at is None:
        return f"its data server has never answered: {signs.trouble}" if signs.trouble else "its data server is new"
    if signs.answered_at <= signs.heartbeat_at:
        return f"its data server does not answer: {signs.trouble or 'the look at it has not ended'}"
    return "its agent (helios node) sends no heartbeat"
