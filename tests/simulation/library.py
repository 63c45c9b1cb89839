"""What a library of functions may answer: one client loads it, in ever newer versions, and all clients call it."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.simulation.history import Impossible

ABSENT = 0  # the version of a library that is not there


@dataclass(eq=False)
class Library:
    """Which versions there may be, on whatever shard. Times are Unix milliseconds."""

    last: int = ABSENT
    loaded: bool = False  # whether it ever was, on every shard
    _open: frozenset[int] = frozenset()  # what may still be carried out
    _present: frozenset[int] = frozenset({ABSENT})
    _lost: bool = False  # whether a server has lost its power since the last change was asked for
    _changes: list[tuple[float, frozenset[int]]] = field(default_factory=list)

    def asked(self, version: int, now_ms: float) -> None:
        """From now on this version may be loaded, or the library deleted."""
        self.last = max(self.last, version)
        self._lost = False
        self._become(self._present, self._open | {version}, now_ms)

    def done(self, version: int, now_ms: float, *, before: frozenset[int]) -> None:
        """It has been, on every shard; `before` is what else may still be.

        A server that has lost its power meanwhile may have lost it again.
        """
        self.loaded = True
        self._become(frozenset({version}) | (self._present if self._lost else frozenset()), before, now_ms)

    def not_done(self, now_ms: float, *, before: frozenset[int]) -> None:
        """It has not been, and will not be."""
        self._become(self._present, before, now_ms)

    @property
    def open(self) -> frozenset[int]:
        """What may still be carried out at any time."""
        return self._open

    def power_lost(self, now_ms: float) -> None:
        """A server went back to what it had on its disk."""
        self._lost = True
        self._become(frozenset(range(self.last + 1)), self._open, now_ms)

    def called(self, version: int, begin_ms: float, end_ms: float) -> None:
        """A function of this version answered; raises Impossible where there was none at the time."""
        allowed = self._present | self._open
        for at_ms, earlier in reversed(self._changes):
            if at_ms < begin_ms:
                break
            allowed |= earlier
        if version not in allowed:
            raise Impossible(f"a function of version {version} answered, where it is one of {sorted(allowed)}")

    def _become(self, present: frozenset[int], opened: frozenset[int], now_ms: float) -> None:
        self._changes.append((now_ms, self._present | self._open))
        self._present, self._open = present, opened
