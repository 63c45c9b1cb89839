"""What time connections have to be opened in, when there are many."""

from __future__ import annotations

import asyncio

import pytest
from tests.simulation.loop import SimLoop

from helios.router.options import RouterOptions
from helios.router.upstream.opening import Opening

OPTIONS = RouterOptions("shard-1", connect_timeout_s=1.0)


def opened(at_once: int, each_s: float, parts: int = 1) -> int:
    """How many of them are opened where a busy machine does a part of the work for each in turn."""
    loop = SimLoop()

    async def one(opening: Opening, processor: asyncio.Semaphore) -> None:
        async with opening.in_time(OPTIONS):
            for _ in range(parts):
                async with processor:
                    await asyncio.sleep(each_s / parts)

    async def all_of_them() -> int:
        opening, processor = Opening(), asyncio.Semaphore(1)
        tried = await asyncio.gather(*(one(opening, processor) for _ in range(at_once)), return_exceptions=True)
        assert all(result is None or isinstance(result, ConnectionError) for result in tried)
        return sum(result is None for result in tried)

    try:
        return loop.run_until_complete(all_of_them())
    finally:
        loop.close()


@pytest.mark.parametrize("parts", [1, 10])
def test_each_of_many_has_time_for_the_others(parts: int) -> None:
    """Also the first of them, where the last are served as soon."""
    assert opened(at_once=100, each_s=0.1, parts=parts) == 100


@pytest.mark.parametrize("at_once", [1, 8])
def test_few_have_the_usual_time(at_once: int) -> None:
    assert opened(at_once, each_s=1.5) == 0


def test_it_is_said_what_time_a_connection_had() -> None:
    assert refusals(1) == {"no answer within 1 s"}
    assert refusals(20) == {"no answer within 3 s"}


def refusals(at_once: int) -> set[str]:
    """What is said of so many of which none is ever opened."""
    loop, opening = SimLoop(), Opening()

    async def one() -> None:
        async with opening.in_time(OPTIONS):
            await asyncio.Event().wait()

    async def all_of_them() -> set[str]:
        return set(map(str, await asyncio.gather(*(one() for _ in range(at_once)), return_exceptions=True)))

    try:
        return loop.run_until_complete(all_of_them())
    finally:
        loop.close()
