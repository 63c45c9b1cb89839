"""The simulation finds bugs: some are planted, and without them the same lives go well."""

from __future__ import annotations

import pytest
from tests.simulation.running import simulate


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("plant", "first", "step", "lives", "edge"),
    [
        ("switch-unacknowledged", 0, 1, 300, ""),
        # Each fifth life is about power cuts, about coordinators that wake too late, about servers that stall.
        ("sweep-before-durable", 1, 5, 300, ""),
        ("late-restore-of-zombie", 2, 5, 200, ""),
        ("external-as-default", 4, 5, 400, ""),
        ("target-unwatched", 0, 1, 2000, "losing"),
        ("imports-unregistered", 0, 1, 2000, "imports"),
    ],
)
def test_a_planted_bug_is_found(plant: str, first: int, step: int, lives: int, edge: str) -> None:
    which: list[str | int] = ["--first", first, "--step", step, "--count", lives, *(["--only", edge] if edge else [])]
    run = simulate(*which, "--plant", plant, "--stop-at-first")
    assert run.failures, f"not found in {lives} lives: {run.said}"
    seed, what = next(iter(run.failures.items()))
    again = simulate("--seed", seed, "--plant", plant)
    assert not again.held
    assert what in again.said
    without = simulate("--seed", seed)
    assert without.held, without.said
