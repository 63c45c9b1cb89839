"""Bugs planted in lives whose shards have several members are found, and without them the same lives go well."""

from __future__ import annotations

import pytest
from tests.simulation.planted_replicated import REPLICATED
from tests.simulation.running import simulate

_LIVES = 60


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", REPLICATED)
def test_a_planted_bug_is_found(plant: str) -> None:
    run = simulate("--replicated", "--count", _LIVES, "--plant", plant, "--stop-at-first")
    assert run.failures, f"not found in {_LIVES} lives: {run.said}"
    seed, what = next(iter(run.failures.items()))
    again = simulate("--replicated", "--seed", seed, "--plant", plant)
    assert not again.held
    assert what in again.said
    without = simulate("--replicated", "--seed", seed)
    assert without.held, without.said
