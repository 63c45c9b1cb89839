"""What is told of many lives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a life went. Equal digests mean equal lives."""

    seed: int
    failure: str | None
    digest: str
    virtual_s: float
    steps: int
    acknowledged: int
    faults: int
    switches: int
    fences: int
    longest_fence_s: float
    trace: Sequence[str] = field(repr=False, default=())


def to_line(outcome: Outcome) -> str:
    """An outcome as a line for another program."""
    return json.dumps(asdict(outcome))


class Tally:
    """Adds outcomes up, and tells of each failure as it comes."""

    def __init__(self, plant: str = "", *, replicated: bool = False) -> None:
        self.failed: list[Outcome] = []
        self._plant = f"{' REPLICATED=1' if replicated else ''}{f' PLANT={plant}' if plant else ''}"
        self._lives = 0
        self._virtual_s = 0.0
        self._counts = {"acknowledged": 0, "faults": 0, "fences": 0, "switches": 0}
        self._longest_fence_s = 0.0

    def add(self, outcome: Outcome) -> None:
        """One more life."""
        self._lives += 1
        self._virtual_s += outcome.virtual_s
        for name in self._counts:
            self._counts[name] += getattr(outcome, name)
        self._longest_fence_s = max(self._longest_fence_s, outcome.longest_fence_s)
        if outcome.failure is not None:
            self.failed.append(outcome)
            print(f"seed {outcome.seed} failed: {outcome.failure}", flush=True)
            print(f"    replay: make sim SEED={outcome.seed}{self._plant}", flush=True)

    def summary(self, seconds: float) -> str:
        """All of it in a sentence."""
        counts = ", ".join(f"{count} {name}" for name, count in self._counts.items())
        return (
            f"{self._lives} lives ({self._virtual_s / 3600:.1f} virtual hours) in {seconds:.0f} s, "
            f"{len(self.failed)} failed; {counts}; longest fence {self._longest_fence_s:.1f} s"
        )
