"""How routers fare, as people and programs see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class HotKeyView:
    """A key that clients ask for much, by a router's sample of its commands: at least about `ops` a second."""

    key: str
    shard: str
    ops: float


@dataclass(frozen=True, slots=True)
class LatencyView:
    """How long commands took, from their arrival at a router to the reply.

    `buckets` has for each span of time in which there were any the longest time and how many commands.
    """

    count: int
    total_s: float
    buckets: tuple[tuple[float, int], ...]

    def at(self, part: float) -> float | None:
        """The time in seconds within which this part of the commands (0.99, say) was answered; None without any."""
        wanted, seen = part * self.count, 0
        for longest_s, count in self.buckets:
            seen += count
            if seen >= wanted:
                return longest_s
        return None


@dataclass(frozen=True, slots=True)
class RouterShardView:
    """One shard as a router sees it. `state` is of its connection: ready, connecting, down, closed or idle.

    `unanswered` commands have been sent to it, `held` ones wait for its keys to be handed over.
    """

    shard: str
    state: str
    unanswered: int
    queued_bytes: int
    held: int
    reads: int
    writes: int
    others: int
    latency: LatencyView


@dataclass(frozen=True, slots=True)
class RouterView:
    """One router process: what it does and has done since its start.

    One that has a session and does not answer has `answers` false, an `error` that says so, and only zeros. `error` of
    one that answers says why it serves no keys at the moment.
    """

    session: str
    node: str
    worker: int
    answers: bool
    error: str | None
    pid: int = 0
    version: str = ""
    epoch: int = 0
    lease_left_s: float = 0.0
    uptime_s: float = 0.0
    sessions: int = 0
    clients: int = 0
    clients_max: int = 0
    clients_total: int = 0
    clients_bytes: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    disconnected: Mapping[str, int] = field(default_factory=dict)
    commands: int = 0
    commands_per_s: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    held: int = 0
    held_total: int = 0
    slowed_total: int = 0
    replica_reads: int = 0
    replica_reads_by_leader: int = 0
    errors: Mapping[str, int] = field(default_factory=dict)
    unanswered: int = 0
    slow_commands: int = 0
    stray_scripts: int = 0
    latency: LatencyView = LatencyView(0, 0.0, ())
    shards: tuple[RouterShardView, ...] = ()
    hot_keys: tuple[HotKeyView, ...] = ()


@dataclass(frozen=True, slots=True)
class SlowCommandView:
    """A command that took long, and at which router process. `at` is in Unix seconds.

    `arguments` are the first 32 at most, of 128 bytes at most; `client` is the address it came from, `name` what that
    client calls itself.
    """

    at: float
    took_s: float
    node: str
    worker: int
    client: str
    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SlowCommandsView:
    """The last slow commands of all routers, the newest first; `missing` names the routers that did not tell."""

    commands: tuple[SlowCommandView, ...]
    missing: tuple[str, ...]
