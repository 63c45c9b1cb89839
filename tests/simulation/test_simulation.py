"""Thousands of lives with faults: `make sim N=100000` runs more of them, `make sim SEED=n` replays one."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest
from tests.simulation.life import live
from tests.simulation.loop import SimLoop
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


@pytest.fixture
def _nothing_logged() -> Iterator[None]:
    """What pytest keeps of a log holds what it is about."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


# What lives that were ended halfway have left is collected here, too, and says so.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize(("seed", "replicated"), [(43, False), (31300500, True)])
@pytest.mark.usefixtures("_nothing_logged")
def test_a_life_leaves_nothing_behind(seed: int, replicated: bool) -> None:
    """Else thousands of them in a process fill the memory of a machine."""
    before = worlds()
    live(seed, replicated=replicated)
    gc.unfreeze()
    assert gc.collect() == 0
    assert worlds() == before


def worlds() -> int:
    """How many there are whose loops are still kept."""
    gc.unfreeze()
    gc.collect()
    return sum(isinstance(one, SimLoop) for one in gc.get_objects())
