"""Nodes, migrations and numbers as tables for people. A field that a node does not send shows as a dash."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from helios.cli.output import ago, clock, count, duration, facts, off, ops, share, size, table
from helios.terminal import clean

Fields = Mapping[str, Any]


def nodes(views: Sequence[Fields], now: float, *, loads: bool = False) -> str:
    """One line a node; weight and zone only where some node has set them, what it carries with `loads`."""
    if not views:
        return "no nodes yet; `helios-cli addnode ID ADDRESS` adds one"
    zones = any(view.get("zone") for view in views)
    weights = any(view.get("weight", 1.0) != 1.0 for view in views)
    headings = ["ID", "ADDRESS", "STATUS", "STATE", ">KEYS", ">SHARE", "LEADER", "LAST SEEN"]
    headings += [">BYTES", ">OPS/S", ">OFF"] * loads
    headings += ["ZONE"] * zones + [">WEIGHT"] * weights
    rows = []
    for view in views:
        row = [
            _text(view, "id"),
            _text(view, "address") + (" (external)" if view.get("kind") == "external" else ""),
            _text(view, "status"),
            _text(view, "state"),
            count(view.get("keys")),
            share(view.get("ring_share", 0.0)),
            _text(view, "leader"),
            ago(view.get("last_seen"), now),
        ]
        if loads:
            carried = "?" if view.get("bytes") is None else size(view["bytes"])
            row += [carried, ops(view.get("ops")), off(view.get("deviation"))]
        rows.append(row + [_text(view, "zone")] * zones + [f"{view.get('weight', 1.0):g}"] * weights)
    silent = [
        clean(f"{view['id']} is {view['status']} since {clock(view.get('status_since'))}: {view['status_reason']}")
        for view in views
        if view.get("status_reason")
    ]
    return "\n".join([table(headings, rows), *silent])


def shards(views: Sequence[Fields]) -> str:
    """One line a copy, the leader of each shard first."""
    if not views:
        return "no shards yet; `helios-cli addnode ID ADDRESS` adds a node, and a shard with it"
    rows = []
    for view in views:
        for number, one in enumerate(view["copies"]):
            first = number == 0
            rows.append(
                [
                    _text(view, "id") if first else "",
                    _text(one, "node"),
                    _text(one, "role"),
                    _text(one, "address"),
                    {True: "yes", False: "no"}.get(one.get("in_sync"), "?"),
                    "-" if one.get("lag_bytes") is None else size(one["lag_bytes"]),
                    "-" if one.get("lag_s") is None else duration(one["lag_s"]),
                    f"{_text(view, 'durability')}, {_copies(view)}" if first else "",
                ]
            )
    headings = ["SHARD", "NODE", "ROLE", "SERVER", "IN SYNC", ">LAG", ">SEEN", "ACKNOWLEDGED BY"]
    return table(headings, rows)


def _copies(view: Fields) -> str:
    there = view["wanted"] - view["missing"]
    return f"{_text(view, 'status')}: {there} of {view['wanted']} copies"


def key(view: Fields, *, everywhere: bool = False) -> str:
    """Where a key lives, and with `everywhere` every node that has a copy, in order."""
    rule = view.get("rule")
    copies = view.get("copies") or [] if everywhere else []
    why = f"the rule {rule}" if view.get("decided_by") == "rule" else "the ring"
    return facts(
        [
            ("key", _text(view, "key")),
            ("node", _text(view, "node_id")),
            ("address", _text(view, "address")),
            ("decided by", why),
            *((one["role"], f"{_text(one, 'node')} at {_text(one, 'address')}") for one in copies),
        ]
    )


def change(view: Fields) -> str:
    """What came of a request, and how to follow it."""
    said = view.get("message") or f"{_text(view, 'kind').replace('_', ' ')}: {_text(view, 'status')}"
    ids = view.get("migrations") or []
    lines = [said]
    if ids:
        lines.append(f"migrations: {', '.join(ids)}")
    if view.get("status") not in ("done", "refused", "failed", "cancelled"):
        lines.append("`helios-cli activemigrations` shows how far it is")
    return "\n".join(lines)


def ended(view: Fields, migrations_of_it: Sequence[Fields], now: float) -> str:
    """What has become of a request that was waited for."""
    said = _text(view, "message") if view["status"] == "done" else _text(view, "status")
    return f"{said}\n{migrations(migrations_of_it, now)}" if migrations_of_it else said


def migration(view: Fields, now: float) -> str:
    """Everything about one migration."""
    rows = [
        ("id", _text(view, "id")),
        ("from", _text(view, "source_node")),
        ("to", _text(view, "target_node")),
        ("pattern", _text(view, "key_pattern")),
        ("status", _status(view)),
        ("keys moved", _progress(view)),
        ("requested", clock(view.get("requested_at"))),
        ("started", clock(view.get("start_time"))),
        ("ended", clock(view.get("end_time"))),
        ("took", _took(view, now)),
        ("time left", _left(view)),
        ("pause", _pause(view)),
        ("slowed", f"writes to its keys, by up to {view['slowed_ms']} ms" if view.get("slowed_ms") else "-"),
    ]
    if view.get("verified"):
        rows.append(("verified", f"{count(view['verified'])} copies compared, all equal"))
    if view.get("error"):
        rows.append(("error", str(view["error"])))
    return facts(rows)


def migrations(views: Sequence[Fields], now: float) -> str:
    """One line a migration; errors only where there are any."""
    if not views:
        return "no migrations"
    errors = any(view.get("error") for view in views)
    headings = ["ID", "FROM", "TO", "PATTERN", "STATUS", ">KEYS MOVED", "STARTED", ">TOOK", ">PAUSE"]
    headings += ["ERROR"] * errors
    rows = []
    for view in views:
        row = [_text(view, name) for name in ("id", "source_node", "target_node", "key_pattern")]
        row += [_status(view), _progress(view), clock(view.get("start_time")), _took(view, now), _pause(view)]
        rows.append(row + [str(view.get("error") or "")] * errors)
    return table(headings, rows)


def rules(views: Sequence[Fields]) -> str:
    """One line a rule, in the order in which they are tried."""
    if not views:
        return "no rules: the ring alone decides where keys live"
    rows = [[_text(view, "source"), _text(view, "target"), " and ".join(view["patterns"])] for view in views]
    return table(["KEYS OF", "LIVE ON", "IF THEY MATCH"], rows)


def check(view: Fields) -> str:
    """What a check has found, and what a repair has done."""
    rows = [
        [_text(one, "kind"), _text(one, "node"), count(one["count"]), _text(one, "detail")] for one in view["findings"]
    ]
    lines = [f"repaired: {view['repaired']}"] if view.get("repaired") else []
    lines.append(table(["FINDING", "NODE", ">COUNT", "DETAIL"], rows) if rows else "clean: all is as it should be")
    return "\n".join(lines)


def slow_commands(view: Fields) -> str:
    """One line a command, the newest first, then the routers that did not tell."""
    rows = [
        [
            clock(slow["at"]),
            f"{slow['took_s'] * 1000:.1f} ms",
            f"{slow['node']}/{slow['worker']}",
            " ".join(filter(None, (slow["client"], slow["name"]))) or "-",
            " ".join(slow["arguments"]),
        ]
        for slow in view["commands"]
    ]
    lines = [table(["WHEN", ">TOOK", "ROUTER", "CLIENT", "COMMAND"], rows) if rows else "no slow commands"]
    return "\n".join(lines + [f"unknown: {clean(router)}" for router in view["missing"]])


def preview(views: Sequence[Fields]) -> str:
    """What would move, a line a pair of nodes."""
    moving = [view for view in views if view["keys"]]
    return moves(moving) if moving else "nothing would move"


def moves(moving: Sequence[Fields]) -> str:
    """What would move from where to where, a line a pair of nodes, and their sum."""
    rows = [[view["source_node"], view["target_node"], count(view["keys"]), size(view["bytes"])] for view in moving]
    if len(rows) > 1:
        keys, volume = (sum(view[name] for view in moving) for name in ("keys", "bytes"))
        rows.append(["all", "", count(keys), size(volume)])
    sampled = count(max(view["sampled"] for view in moving))
    return (
        f"{table(['FROM', 'TO', '>KEYS', '>BYTES'], rows)}\n"
        f"estimated from up to {sampled} keys of each source; nothing was changed"
    )


def settings(views: Sequence[Fields], *, origins: bool = False) -> str:
    """One line a setting, with what it means or where its value comes from."""
    last = "origin" if origins else "description"
    return table(
        ["SETTING", ">VALUE", "ORIGIN" if origins else "MEANING"],
        [[_text(v, "name"), _text(v, "value"), _text(v, last)] for v in views],
    )


def setting(view: Fields) -> str:
    """One setting with what it may be."""
    return facts(
        [(name, _text(view, name)) for name in ("name", "value", "origin", "allowed", "effect", "description")]
    )


def setting_history(changes: Sequence[Fields]) -> str:
    """One line for each setting that was changed, the oldest first."""
    if not changes:
        return "no setting has been changed since the cluster was founded"
    rows = [
        [_text(change, "number"), clock(change.get("at")), *_altered(item), _text(change, "by")]
        for change in changes
        for item in change.get("altered", ())
    ]
    return table([">NUMBER", "WHEN", "SETTING", ">OLD", ">NEW", "BY"], rows)


def altered(items: Sequence[Fields]) -> str:
    """What a roll-back did."""
    return table(["SETTING", ">OLD", ">NEW"], [_altered(item) for item in items]) if items else "nothing was to change"


def _altered(item: Fields) -> list[str]:
    return [_text(item, "name"), _text(item, "old"), _text(item, "new")]


def stats(view: Fields, now: float) -> str:
    """The numbers of the cluster, then its nodes."""
    rows = [
        ("nodes", f"{_text(view, 'online_nodes')} of {_text(view, 'total_nodes')} online"),
        ("keys", count(view.get("total_keys"))),
        ("sharding", "enabled" if view.get("sharding_enabled") else "disabled"),
        ("replication factor", _text(view, "replication_factor")),
        ("copies", _missing(view)),
        ("virtual nodes", _text(view, "virtual_nodes")),
        ("migrations", f"{_text(view, 'active_migrations')} active, {_text(view, 'pending_migrations')} pending"),
        ("migration rate", f"{count(view.get('migration_rate'))} keys/s"),
        ("auto rebalance", "on" if view.get("auto_rebalance") else "off"),
        ("placement rules", _text(view, "rules")),
        ("epoch", _text(view, "epoch")),
        ("coordinator", str(view.get("coordinator") or "none")),
    ]
    by_replica, by_leader = view.get("replica_reads", 0), view.get("replica_reads_by_leader", 0)
    if by_replica or by_leader:
        rows.append(("replica reads", f"{count(by_replica)}; {count(by_leader)} more had to be answered by leaders"))
    collected = [node["measured_at"] for node in view.get("nodes", []) if node.get("measured_at") is not None]
    if collected:
        rows.append(("loads", f"bytes, operations and OFF as collected {ago(min(collected), now)}"))
    text = facts(rows)
    return f"{text}\n\n{nodes(view['nodes'], now, loads=True)}" if view.get("nodes") else text


def _missing(view: Fields) -> str:
    troubles = (
        ("leaderless", "without a leader"),
        ("without_majority", "without a majority"),
        ("under_replicated", "lacking some"),
    )
    told = [f"{count(view[name])} {what}" for name, what in troubles if view.get(name)]
    said = f"shards: {', '.join(told)}" if told else "all there"
    if view.get("lag_bytes") is None:
        return said
    return f"{said}; at most {size(view['lag_bytes'])} and {duration(view.get('lag_s') or 0.0)} behind"


def _text(view: Fields, name: str) -> str:
    value = view.get(name)
    return "-" if value is None or value == "" else str(value)


def _status(view: Fields) -> str:
    notes = [str(view["phase"])] if view.get("phase") else []
    notes += ["paused"] if view.get("paused") and view.get("status") == "in_progress" else []
    return f"{_text(view, 'status')} ({', '.join(notes)})" if notes else _text(view, "status")


def _progress(view: Fields) -> str:
    moved, total = view.get("keys_moved", 0), view.get("total_keys", 0)
    percent = f" ({moved * 100 // total} %)" if total and view.get("status") == "in_progress" else ""
    return f"{count(moved)} of {count(total)}{percent}"


def _left(view: Fields) -> str:
    remaining_s = view.get("remaining_s")
    return "-" if remaining_s is None else f"about {duration(remaining_s)}"


def _took(view: Fields, now: float) -> str:
    start, end = view.get("start_time"), view.get("end_time")
    return "-" if start is None else duration(max(0.0, (now if end is None else end) - start))


def _pause(view: Fields) -> str:
    pause_ms = view.get("pause_ms")
    return "-" if pause_ms is None else f"{pause_ms:.1f} ms"
