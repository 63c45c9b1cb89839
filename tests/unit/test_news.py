"""What agents report is told once, by whoever runs them."""

from __future__ import annotations

import asyncio

from tests.waiting import until

from helios.model.ids import Address
from helios.model.topology import NodeKind
from helios.ports.records import AGENTS, AgentRecord, put_record
from helios.runtime.departure_notice import tell_news
from helios.stores.memory import MemoryStore


async def report(store: MemoryStore, node: str, pid: int, count: int, *news: str) -> None:
    record = AgentRecord(node, Address("h", 1), NodeKind.SUPERVISED, 1.0, True, pid, "1", news, count)
    await store.commit([put_record(AGENTS + node, record)])


async def test_news_are_told_once_and_what_was_before_is_not() -> None:
    store = MemoryStore()
    told: list[str] = []
    await report(store, "a", 1, 2, "old", "older")
    following = asyncio.create_task(tell_news(store, told.append))
    await asyncio.sleep(0)
    await report(store, "a", 1, 2, "old", "older")
    await report(store, "b", 7, 1, "first")
    await until(lambda: told == ["b: first"])
    await report(store, "a", 1, 3, "old", "older", "died")
    await report(store, "a", 1, 3, "old", "older", "died")
    await report(store, "a", 1, 5, "older", "died", "back", "died again")
    await until(lambda: told[1:] == ["a: died", "a: back", "a: died again"])
    await report(store, "a", 2, 0)  # another agent begins anew
    await report(store, "a", 2, 1, "hangs")
    await until(lambda: told[4:] == ["a: hangs"])
    following.cancel()
    await asyncio.wait([following])
