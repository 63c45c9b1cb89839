"""A change of functions reaches every node, those that join meanwhile included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

from tests.topologies import cluster

from helios.router.commands.scripting import everywhere
from helios.router.context import RouterContext
from helios.router.frontend.caller import Caller

LOAD = [b"FUNCTION", b"LOAD", b"#!lua name=lib"]


class Router:
    """Three shards, of which the last joins while a command is at the first."""

    def __init__(self) -> None:
        self._joined = cluster("a", "b", "c")
        self.topology = replace(self._joined, shards=self._joined.shards[:2])
        self.pool = self
        self.loaded: list[str] = []

    async def ask(self, shard: str, argv: Sequence[bytes], kind: object = None) -> bytes:
        if argv == LOAD:
            self.loaded.append(shard)
            self.topology = self._joined
        return b"+OK\r\n"


async def test_a_node_that_joins_meanwhile_gets_the_function_too() -> None:
    router = Router()
    assert await everywhere(cast(RouterContext, router), cast(Caller, None), LOAD) == b"+OK\r\n"
    assert router.loaded == ["a", "b", "c"]
