"""The keys that clients use the most, by a sample of what is sent to servers. Commands do not wait for it."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp
from random import Random

from helios.admin.router_views import HotKeyView
from helios.router.nowhere import NOWHERE
from helios.router.stats.frames import sent_keys

CAPACITY = 256  # keys that are kept when there are too many
_MIN_GAP = 4  # one command of so many is looked at, of more where there are many
_LOOKS_PER_S = 500
_MEMORY_S = 60.0  # for which keys stand out
_RATE_MEMORY_S = 2.0  # for how often one is asked for: about the seconds for which all operations are shown
_MIN_LOOKS = 10  # that make a key stand out
_MIN_PART = 0.01  # of all commands with keys
_SHOWN = 10


class HotKeys:
    """Counts of the keys in a sample of commands, which fade with a memory of a minute, in bounded room.

    Where there are more different keys than there is room for, all are taken off what the last of those that stay has
    (Misra and Gries), so that no count is ever too high, nor too low by more than one part in `CAPACITY` of all. So
    a key that stands out surely does, and one that is asked for by more than two commands in a hundred does.
    """

    def __init__(self, now_s: float) -> None:
        self._counts: dict[bytes, float] = {}  # commands, estimated from looks
        self._shards: dict[bytes, str] = {}
        self._recent: dict[bytes, float] = {}  # the same commands, with a shorter memory
        self._recent_s = 0.0
        self._all = 0.0
        self._now_s = now_s
        # A fixed seed: which commands are looked at must not depend on them, and need not be a secret.
        self._random = Random(1)
        self._gap = self._left = _MIN_GAP
        self._passed = 0

    def passed(self, shard: str, frames: Sequence[bytes]) -> None:
        """These commands are written to the shard's server; looks at one of them now and then."""
        left, count = self._left, len(frames)
        self._passed += count
        while left < count:
            self._look(shard, frames[left])
            left += 1 + self._random.randrange(2 * self._gap - 1)
        self._left = left - count

    def fade(self, now_s: float) -> None:
        """Let time pass; to be called several times a second."""
        passed_s, self._now_s = now_s - self._now_s, now_s
        if passed_s <= 0:
            return
        self._gap = max(_MIN_GAP, round(self._passed / passed_s / _LOOKS_PER_S))
        self._passed = 0
        part = exp(-passed_s / _MEMORY_S)
        self._all *= part
        recent = exp(-passed_s / _RATE_MEMORY_S)
        self._recent_s = self._recent_s * recent + _RATE_MEMORY_S * (1 - recent)
        self._recent = {key: count * recent for key, count in self._recent.items()}
        self._keep({key: count * part for key, count in self._counts.items() if count > 1})

    def hottest(self) -> tuple[HotKeyView, ...]:
        """The keys that stand out and are still asked for, the hottest first."""
        least = max(_MIN_LOOKS * self._gap, _MIN_PART * self._all)
        found = sorted((-self._recent[key], key) for key, count in self._counts.items() if count >= least)
        views = [
            HotKeyView(key.decode(errors="backslashreplace")[:200], self._shards[key], round(-recent / self._recent_s))
            for recent, key in found[:_SHOWN]
            if self._recent_s
        ]
        return tuple(view for view in views if view.ops)

    def _look(self, shard: str, frame: bytes) -> None:
        keys = [key for key in sent_keys(frame).keys if not key.startswith(NOWHERE)]
        if not keys:
            return
        key = keys[self._random.randrange(len(keys))]
        self._all += self._gap
        self._counts[key] = self._counts.get(key, 0.0) + self._gap
        self._recent[key] = self._recent.get(key, 0.0) + self._gap
        self._shards[key] = shard
        if len(self._counts) > 2 * CAPACITY:
            off = sorted(self._counts.values())[-CAPACITY - 1]
            self._keep({key: count - off for key, count in self._counts.items() if count > off})

    def _keep(self, counts: dict[bytes, float]) -> None:
        if len(counts) < len(self._counts):
            self._shards = {key: self._shards[key] for key in counts}
            self._recent = {key: self._recent[key] for key in counts}
        self._counts = counts
