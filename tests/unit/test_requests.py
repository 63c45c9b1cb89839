"""Waiting for a request: its end is told at once, and what it is meanwhile after the time that was given."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.simulation.loop import SimClock, SimLoop

from helios.admin.requests import Requests
from helios.errors import InvalidInput, NotFound
from helios.model.migration import Change, ChangeKind, ChangeStatus
from helios.model.verbs import VERBS
from helios.ports.records import CHANGES, put_record
from helios.stores.memory import MemoryStore

SUBMITTED = Change("c-1", ChangeKind.REBALANCE)
HOUR_S = 3600.0


def waited(wait_s: float, *steps: tuple[float, ChangeStatus]) -> tuple[ChangeStatus, float]:
    """What is told of a request that takes these steps, one after so many seconds each, and how late."""
    loop = SimLoop()
    clock = SimClock(loop)
    store = MemoryStore(clock)

    async def step() -> None:
        for after_s, status in steps:
            await asyncio.sleep(after_s)
            await store.commit([put_record(CHANGES + "c-1", replace(SUBMITTED, status=status))])

    async def run() -> tuple[ChangeStatus, float]:
        other = replace(SUBMITTED, id="c-10", status=ChangeStatus.FAILED)
        await store.commit([put_record(CHANGES + one.id, one) for one in (SUBMITTED, other)])
        stepping = asyncio.create_task(step())
        began_s = loop.time()
        change = await Requests(store, clock).seen("c-1", wait_s)
        took_s = loop.time() - began_s
        stepping.cancel()
        await asyncio.wait([stepping])
        await store.close()
        assert change.id == "c-1"
        return change.status, took_s

    try:
        return loop.run_until_complete(run())
    finally:
        loop.close()


def test_who_waits_for_a_request_is_told_the_moment_it_ends() -> None:
    status, took_s = waited(HOUR_S, (1.0, ChangeStatus.RUNNING), (2.0, ChangeStatus.DONE), (5.0, ChangeStatus.FAILED))
    assert status is ChangeStatus.DONE
    assert took_s == pytest.approx(3.0, abs=0.01)


def test_who_has_waited_long_enough_is_told_how_it_stands() -> None:
    status, took_s = waited(2.0, (1.0, ChangeStatus.RUNNING), (60.0, ChangeStatus.DONE))
    assert status is ChangeStatus.RUNNING
    assert took_s == pytest.approx(2.0, abs=0.01)
    assert waited(0.0, (1.0, ChangeStatus.DONE))[0] is ChangeStatus.SUBMITTED


async def test_a_request_that_nobody_knows_is_not_waited_for() -> None:
    store = MemoryStore()
    with pytest.raises(NotFound, match="no request 'c-9'"):
        await Requests(store, SimClock(SimLoop())).seen("c-9", HOUR_S)
    await store.close()


@pytest.mark.parametrize("text", ["-1", "30.1", "nan", "inf", "soon"])
def test_a_wait_has_bounds(text: str) -> None:
    with pytest.raises(InvalidInput):
        VERBS["changestatus"].parse(["c-1", "WAIT", text])
