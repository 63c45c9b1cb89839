"""Bugs planted in lives whose shards have several members are found, and without them the same lives go well."""

from __future__ import annotations

import pytest
from tests.simulation.planted_replicated import ACCEPTED
from tests.simulation.running import simulate

_LIVES = 120  # of which a third have traps, and a sixth accepted losses; the search ends with the first failure
# Where it begins, so that it is short.
FIRST = {
    "promote-the-first": 51,
    "learner-counted": 36,
    "restarted-leader-leads": 8,
    "offsets-across-terms": 52,
    "reads-without-round": 29,
    "writes-without-round": 43,
    "alone-unasked": 5,
    "loss-untold": 891,
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("plant", FIRST)
def test_a_planted_bug_is_found(plant: str) -> None:
    where: list[str | int] = [
        "--replicated",
        "--only",
        "accepted" if plant in ACCEPTED else "traps",
        "--first",
        FIRST[plant],
        "--count",
        _LIVES,
        "--jobs",
        1,
    ]
    run = simulate(*where, "--plant", plant, "--stop-at-first")
    assert run.failures, f"not found in {_LIVES} lives: {run.said}"
    seed, what = next(iter(run.failures.items()))
    again = simulate("--replicated", "--seed", seed, "--plant", plant)
    assert not again.held
    assert what in again.said
    without = simulate("--replicated", "--seed", seed)
    assert without.held, without.said
