"""What time connections have to be opened in, when there are many."""

from __future__ import annotations

import asyncio

import pytest
from tests.simulation.loop import SimLoop

from helios.router.options import RouterOptions
from helios.router.upstream.opening import Opening

OPTIONS = RouterOptions("shard-1", connect_timeout_s=1.0)


def opened(at_once: int, each_s: float) -> int:
    """How many of them are opened where a busy machine does one thing after the other."""
    loop = SimLoop()

    async def one(opening: Opening, processor: asyncio.Semaphore) -> None:
        async with opening.in_time(OPTIONS), processor:
            await asyncio.sleep(each_s)

    async def all_of_them() -> int:
        opening, processor = Opening(), asyncio.Semaphore(1)
        tried = await asyncio.gather(*(one(opening, processor) for _ in range(at_once)), return_exceptions=True)
        assert all(result is None or isinstance(result, ConnectionError) for result in tried)
        return sum(result is None for result in tried)

    try:
        return loop.run_until_complete(all_of_them())
    finally:
        loop.close()


def test_each_of_many_has_time_for_the_others() -> None:
    assert opened(at_once=100, each_s=0.1) == 100


@pytest.mark.parametrize("at_once", [1, 8])
def test_few_have_the_usual_time(at_once: int) -> None:
    assert opened(at_once, each_s=1.5) == 0
