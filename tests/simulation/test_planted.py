"""The simulation finds bugs: some are planted, and without them the same lives go well."""

from __future__ import annotations

import pytest
from tests.simulation.running import simulate


@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("plant", "first", "step", "lives"),
    [
        ("switch-unacknowledged", 0, 1, 300),
        # Every fifth life is about power cuts, every fifth about coordinators that wake too late.
        ("sweep-before-durable", 1, 5, 300),
        ("late-restore-of-zombie", 2, 5, 200),
    ],
)
def test_a_planted_bug_is_found(plant: str, first: int, step: int, lives: int) -> None:
    run = simulate("--first", first, "--step", step, "--count", lives, "--plant", plant, "--stop-at-first")
    assert run.failures, f"not found in {lives} lives: {run.said}"
    seed, what = next(iter(run.failures.items()))
    again = simulate("--seed", seed, "--plant", plant)
    assert not again.held
    assert what in again.said
    without = simulate("--seed", seed)
    assert without.held, without.said
