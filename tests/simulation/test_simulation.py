"""Thousands of lives with faults: `make sim N=100000` runs more of them, `make sim SEED=n` replays one."""

from __future__ import annotations

import gc

import pytest
from tests.simulation.life import live
from tests.simulation.running import simulate

_LIVES = 2000


@pytest.mark.timeout(1200)
def test_every_life_holds_its_promises() -> None:
    run = simulate("--count", _LIVES)
    assert run.held, run.said


def test_a_seed_lives_the_same_life_again() -> None:
    assert simulate("--seed", 43).digest == simulate("--seed", 43).digest


def test_what_a_process_lived_before_does_not_matter() -> None:
    run = simulate("--first", 41, "--count", 3, "--jobs", 1, "--lines")
    assert f'"digest": "{simulate("--seed", 43).digest}"' in run.said


def test_seeds_differ() -> None:
    assert simulate("--seed", 43).digest != simulate("--seed", 44).digest


def test_a_life_leaves_no_garbage_behind() -> None:
    """Else thousands of them in a process fill the memory of a machine."""
    gc.unfreeze()
    gc.collect()
    live(43)
    gc.unfreeze()
    assert gc.collect() == 0
