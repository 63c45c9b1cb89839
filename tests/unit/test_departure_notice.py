"""A node that has left the cluster is told of where it runs."""

from __future__ import annotations

import asyncio

from tests.topologies import cluster
from tests.waiting import until

from helios.ports.records import TOPOLOGY, put_record
from helios.runtime.departure_notice import tell_of_departure
from helios.stores.memory import MemoryStore


async def test_a_node_that_leaves_is_told_of_once_and_one_that_was_never_there_is_not() -> None:
    store, told, back = MemoryStore(), list[str](), list[str]()
    telling = asyncio.create_task(tell_of_departure(store, told.append, back.append))
    for nodes, expected in ((("a", "b"), 0), (("a", "b", "c"), 0), (("b",), 2), (("b", "c"), 2), (("c",), 3)):
        await store.commit([put_record(TOPOLOGY, cluster(*nodes))])
        await until(lambda expected=expected: len(told) == expected)  # type: ignore[misc]
        await asyncio.sleep(0)
    assert told == ["a", "c", "b"]
    assert back == ["c"]
    await store.commit([put_record(TOPOLOGY, cluster("a", "b", "c"))])
    await until(lambda: back == ["c", "a", "b"])
    telling.cancel()
