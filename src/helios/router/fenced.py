"""What keeps a command waiting while the topology has fences."""

from __future__ import annotations

from collections.abc import Sequence

from helios.errors import InvalidInput
from helios.placement.routing import Routes
from helios.resp.commands import find, key_positions


def fenced_shard(routes: Routes, argv: Sequence[bytes]) -> str:
    """The shard that has the first fenced key of a command; empty where none of its own words is one."""
    command = find(argv[0]) if argv else None
    if command is None or not routes.has_fence:
        return ""
    try:
        keys = [argv[position] for position in key_positions(command, argv)]
    except InvalidInput:
        return ""
    return next((routes.owner(key) for key in keys if routes.fenced(key)), "")


def why_held(routes: Routes, argv: Sequence[bytes] = ()) -> str:
    """Why a command waits, as the end of a sentence."""
    leaderless = routes.topology.fenced_shards
    shard = fenced_shard(routes, argv)
    waited_for = sorted(leaderless.intersection((shard,)) if shard else leaderless)
    if not waited_for:
        return "while keys are handed over to another shard"
    return f"while {' and '.join(waited_for)} had no leader, for want of members that answer"
