"""Counts that outlive the connections that they were made on, and rates over the last seconds."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Protocol

from helios.router._fast_path import Latencies

_WINDOW_S = 4.0


class CountedConnection(Protocol):
    """What is counted of a connection to a server."""

    shard: str
    latencies: Latencies

    @property
    def counts(self) -> Sequence[int]:
        """Reads, writes, and other commands."""


class Retired:
    """The counts of links that are gone, by shard: what is counted never counts down."""

    def __init__(self) -> None:
        self.requests: dict[str, list[int]] = {}
        self.buckets: dict[str, Counter[int]] = {}
        self.total_ns: Counter[str] = Counter()

    def add(self, link: CountedConnection) -> None:
        """Keep what a link has counted, which is closed."""
        had = self.requests.setdefault(link.shard, [0, 0, 0])
        self.requests[link.shard] = [one + other for one, other in zip(had, link.counts, strict=True)]
        self.buckets.setdefault(link.shard, Counter()).update(dict(link.latencies.counted()))
        self.total_ns[link.shard] += link.latencies.total_ns


class RateMeter:
    """How many commands a second there were of late."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()

    def sample(self, now: float, commands: int) -> None:
        """Note how many commands there have been so far; to be called several times a second."""
        if self._samples and commands < self._samples[-1][1]:
            self._samples.clear()  # counted from the beginning again
        # The one before the window says how it was at its beginning; there is none where time has passed unseen.
        while len(self._samples) > 1 and self._samples[0][0] <= now - _WINDOW_S:
            self._samples.popleft()
        self._samples.append((now, commands))

    @property
    def per_s(self) -> float:
        """Commands a second, over the last few seconds."""
        if len(self._samples) < 2:
            return 0.0
        (begin, before), (end, after) = self._samples[0], self._samples[-1]
        return (after - before) / max(end - begin, 0.001)
