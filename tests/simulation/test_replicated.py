"""Lives of clusters whose shards have several members: `make sim REPLICATED=1 N=1000` runs more of them."""

from __future__ import annotations

import pytest
from tests.simulation.running import simulate

_LIVES = 60


@pytest.mark.timeout(1200)
def test_every_replicated_life_holds_its_promises() -> None:
    run = simulate("--replicated", "--count", _LIVES)
    assert run.held, run.said


def test_a_seed_lives_the_same_replicated_life_again() -> None:
    assert simulate("--replicated", "--seed", 7).digest == simulate("--replicated", "--seed", 7).digest
