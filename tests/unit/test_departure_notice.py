"""A node that has left the cluster is told of where it runs."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from tests.topologies import cluster
from tests.waiting import until

from helios.model.topology import NodeKind
from helios.ports.records import TOPOLOGY, put_record
from helios.runtime.departure_notice import tell_of_departure
from helios.stores.memory import MemoryStore


async def test_a_node_that_leaves_is_told_of_once_and_one_that_was_never_there_is_not() -> None:
    store, told, back = MemoryStore(), list[str](), list[str]()

    def tell(node: str, alone: bool) -> None:
        assert not alone, "there are supervised nodes"
        told.append(node)

    telling = asyncio.create_task(tell_of_departure(store, tell, back.append, before=("a", "z")))
    # Of epochs that follow each other closely some are not seen, so each step waits until it was.
    for nodes, expected in ((("a", "b", "c"), (1, 0)), (("b",), (3, 0)), (("b", "c"), (3, 1)), (("c",), (4, 1))):
        await store.commit([put_record(TOPOLOGY, cluster(*nodes))])
        await until(lambda expected=expected: (len(told), len(back)) == expected)  # type: ignore[misc]
    assert told == ["z", "a", "c", "b"]
    assert back == ["c"]
    await store.commit([put_record(TOPOLOGY, cluster("a", "b", "c"))])
    await until(lambda: back == ["c", "a", "b"])
    telling.cancel()


async def test_a_node_that_left_before_it_was_looked_is_told_of_too() -> None:
    store, told = MemoryStore(), list[str]()
    await store.commit([put_record(TOPOLOGY, cluster("b"))])
    telling = asyncio.create_task(tell_of_departure(store, lambda node, _alone: told.append(node), before=("a", "b")))
    await until(lambda: told == ["a"])
    telling.cancel()


async def test_the_last_supervised_node_hears_that_only_external_ones_are_left() -> None:
    store, told = MemoryStore(), list[tuple[str, bool]]()
    telling = asyncio.create_task(
        tell_of_departure(store, lambda node, alone: told.append((node, alone)), before=("a", "b", "c"))
    )
    external = tuple(replace(node, kind=NodeKind.EXTERNAL) for node in cluster("b").nodes)
    for topology, expected in ((cluster("a", "b"), 1), (replace(cluster("b"), nodes=external), 2)):
        await store.commit([put_record(TOPOLOGY, topology)])
        await until(lambda expected=expected: len(told) == expected)  # type: ignore[misc]
    assert told == [("c", False), ("a", True)]
    telling.cancel()
