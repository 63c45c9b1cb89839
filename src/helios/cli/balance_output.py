"""Loads and their balance as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from helios.cli.cluster_output import moves
from helios.cli.output import ago, clock, count, facts, off, ops, share, size, table

Fields = Mapping[str, Any]

_BAR = 8  # characters on each side


def balance(view: Fields, now: float) -> str:
    """One line a node with a bar, what stands out, and what a rebalance would do."""
    nodes = view["nodes"]
    if not nodes:
        return "no nodes yet; `helios-cli addnode ID ADDRESS` adds one"
    whole = max([view["threshold"], *(abs(node["deviation"]) for node in nodes if node["deviation"] is not None)])
    rows = [
        [
            node["id"],
            node["status"],
            count(node["keys"]),
            _size(node["bytes"]),
            ops(node["ops"]),
            share(node["fair_share"]),
            off(node["deviation"]),
            _bar(node["deviation"], whole),
        ]
        for node in nodes
    ]
    parts = [table(["NODE", "STATUS", ">KEYS", ">BYTES", ">OPS/S", ">SHARE", ">OFF", f"BY {view['by'].upper()}"], rows)]
    notes = [
        ("worst", f"{view['worst']}, {_far(view['worst_deviation'], view['by'])}" if view["worst"] else "-"),
        ("big keys", f"{_keys(nodes, 'big_keys') or 'none met so far'}; {_covered(nodes)}"),
        ("hot keys", _hot(view)),
        ("collected", ago(view["collected_at"], now)),
        ("automatic", "on" if view["auto_rebalance"] else "off"),
    ]
    notes += [(f"{node['id']}", f"not collected: {node['error']}") for node in nodes if node["error"]]
    parts.append(facts(notes))
    parts.append(proposal(view))
    return "\n\n".join(parts)


def _covered(nodes: Sequence[Fields]) -> str:
    """How much of all keys the last minute has looked at: what has come later may hide big ones."""
    least = min((node["covered"] for node in nodes if node["keys"]), default=1.0)
    return f"{least * 100:.0f} % of each node's keys looked at in the last minute"


def proposal(view: Fields) -> str:
    """What a rebalance would do, and why; nothing was changed."""
    lines = [f"rebalance ({view['strategy']}, by {view['by']}): {view['proposal']}"]
    return "\n".join(lines + ([moves(view["moves"])] if view["moves"] else []))


def history(views: Sequence[Fields]) -> str:
    """One line a change, the oldest first; what else there is to say stands below it."""
    if not views:
        return "nothing was done yet"
    lines = table(
        ["REQUESTED", "BY", "WHAT", "STATUS", ">KEYS MOVED", "ENDED"],
        [
            [
                clock(view["requested_at"]),
                view["user"] or view["origin"],
                view["what"],
                view["status"],
                count(view["keys_moved"]),
                clock(view["ended_at"]),
            ]
            for view in views
        ],
    ).splitlines()
    shown = lines[:1]
    for line, view in zip(lines[1:], views, strict=True):
        shown.append(line)
        as_wished = view["status"] in ("done", "running", "queued")
        # A rebalance that had nothing to do says so; of the others their name says what was done.
        why = (
            view["reason"] or (view["message"] if view["kind"] == "rebalance" else "") if as_wished else view["message"]
        )
        if why:
            shown.append(f"    {why}")
    return "\n".join(shown)


def _far(deviation: float, by: str) -> str:
    what = "operations" if by == "ops" else by
    return f"{abs(deviation):.1%} {'more' if deviation > 0 else 'less'} {what} than its share"


def _bar(deviation: float | None, whole: float) -> str:
    """A bar to the right for what is too much, to the left for what is too little."""
    if deviation is None:
        return ""
    length = min(_BAR, round(abs(deviation) / whole * _BAR))
    bar = "█" * length
    return f"{'' if deviation > 0 else bar:>{_BAR}}│{bar if deviation > 0 else ''}"


def _keys(nodes: Sequence[Fields], name: str) -> str:
    found = [(node["id"], key) for node in nodes for key in node[name]]
    if name == "hot_keys":
        ordered = sorted(found, key=lambda one: -one[1]["hits"])
        return ", ".join(f"{key['key']} on {node} (about {count(key['hits'])} accesses)" for node, key in ordered)
    ordered = sorted(found, key=lambda one: -one[1]["bytes"])
    return ", ".join(f"{key['key']} on {node} ({size(key['bytes'])})" for node, key in ordered)


def _hot(view: Fields) -> str:
    """By the routers' samples, and by the counts of servers that have some."""
    found = [f"{key['key']} on {key['shard']} (about {ops(key['ops'])} operations/s)" for key in view["hot_keys"]]
    counted = _keys(view["nodes"], "hot_keys")
    return ", ".join([*found, *([counted] if counted else [])]) or "none stands out"


def _size(number: int | None) -> str:
    return "?" if number is None else size(number)
