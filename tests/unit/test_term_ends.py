"""A term that ends says why, in the words of the errors themselves."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from tests.shards import FAST
from tests.waiting import until

from helios.coordinator.departures import Departures
from helios.coordinator.service import Coordinator
from helios.engines.memory import MemoryConnector
from helios.errors import Conflict, StoreError, causes
from helios.model.migration import Change, ChangeKind
from helios.ports.records import CHANGES, COORDINATOR, TERM, put_record
from helios.ports.store import Put
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore


def test_the_causes_of_a_group_are_those_of_the_groups_in_it() -> None:
    inner = ExceptionGroup("inner", [Conflict("a"), ExceptionGroup("innermost", [StoreError("b")])])
    assert [str(error) for error in causes(ExceptionGroup("outer", [inner, StoreError("c")]))] == ["a", "b", "c"]
    assert [str(error) for error in causes(StoreError("alone"))] == ["alone"]


async def test_a_term_that_ends_names_its_reason_once(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    coordinator = Coordinator(store, MemoryConnector({}), SystemClock(), node_id="a", settings=FAST)
    running = asyncio.create_task(coordinator.run())

    async def elected() -> bool:
        return "elected: node=a term=1" in caplog.text

    async def told() -> bool:
        return "term ended" in caplog.text

    caplog.set_level("INFO")
    await until(elected, "it is elected")
    asked = Change("asked", ChangeKind.DRAIN, node="nobody")
    await store.commit([Put(TERM, b"7"), put_record(CHANGES + asked.id, asked)])  # and so it finds out
    await until(told, "its term ends")
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    (message,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("term ended")]
    assert message == "term ended: node=a reason=coordinator of term 1 has been replaced"


async def test_a_coordinator_that_is_cancelled_as_its_term_ends_ends_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task group of a term that ends by an error forgets that it was cancelled as well."""
    ending, over = asyncio.Event(), asyncio.Event()

    async def linger(_: Departures) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ending.set()
            await over.wait()

    monkeypatch.setattr(Departures, "run", linger)
    store = MemoryStore()
    coordinator = Coordinator(store, MemoryConnector({}), SystemClock(), node_id="a", settings=FAST)
    running = asyncio.create_task(coordinator.run())

    async def elected() -> bool:
        return await store.get(COORDINATOR) is not None

    await until(elected, "it is elected")
    await store.commit([Put(TERM, b"7"), put_record(CHANGES + "asked", Change("asked", ChangeKind.DRAIN, node="n"))])
    await ending.wait()
    running.cancel()
    over.set()
    await until(running.done, "it ends")
    assert running.cancelled()
