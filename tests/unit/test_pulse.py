"""When what is done regularly in one process is due."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from tests.simulation.loop import SimLoop

from helios.ports.pulse import BEAT_S, offset_s, rest, rest_s


def play(test: Callable[[SimLoop], Awaitable[None]]) -> None:
    """Run a test by the virtual clock."""
    loop = SimLoop()
    try:
        loop.run_until_complete(test(loop))
    finally:
        loop.close()


def test_whoever_rests_wakes_up_with_the_others() -> None:
    woken: set[float] = set()

    async def work(loop: SimLoop, begins_s: float, every_s: float, takes_s: float) -> None:
        await asyncio.sleep(begins_s)
        while True:
            await rest(every_s)
            woken.add(round(loop.time(), 3))
            await asyncio.sleep(takes_s)

    async def test(loop: SimLoop) -> None:
        jobs = [work(loop, 0.1, 1.0, 0.0), work(loop, 0.7, 2.0, 0.3), work(loop, 1.3, 10 / 3, 0.01)]
        tasks = [asyncio.create_task(job) for job in jobs]
        await asyncio.sleep(60.5)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)

    play(test)
    assert woken == {float(second) for second in range(1, 61)}


@pytest.mark.parametrize("longest_s", [1.0, 2.0, 10 / 3, 60.0])
@pytest.mark.parametrize("now_s", [0.0, 0.4, 7.9, 1234.5])
def test_a_rest_is_as_long_as_may_be(now_s: float, longest_s: float) -> None:
    assert longest_s - BEAT_S < rest_s(now_s, longest_s) <= longest_s


@pytest.mark.parametrize("early_s", [0.0, 0.0005])
def test_a_timer_that_is_a_hair_early_does_not_ring_twice(early_s: float) -> None:
    assert rest_s(5.0 - early_s, 1.0) == pytest.approx(1.0 + early_s)


def test_what_is_done_more_often_than_the_pulse_beats_keeps_its_time() -> None:
    assert rest_s(0.3, 0.25) == 0.25


def test_processes_have_pulses_of_their_own() -> None:
    token = offset_s.set(0.25)
    try:
        assert rest_s(7.0, 2.0) == 1.25
    finally:
        offset_s.reset(token)
