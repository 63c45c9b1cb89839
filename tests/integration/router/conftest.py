"""What the tests of routers share: the loops that they run on, servers, and clients of the module's `lab`.

The loops are uvloop, as in production, and for the heart of the matter asyncio's own too.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack

import pytest
import uvloop
from tests.routers import Client, RawClient, RouterLab
from tests.servers import ADMIN_ONLY, Server, start_valkey

from helios.router.options import RouterOptions

NO_LOG = {"appendonly": "no"}


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """The loops for one test."""
    if item.path.name == "test_router_moves.py":
        return {"uvloop": uvloop.new_event_loop, "asyncio": asyncio.new_event_loop}
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(scope="module")
def servers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Server]]:
    """A server without a log for each of the module's SHARDS; what differs is in its CONFIG, if it has one."""
    folder = tmp_path_factory.mktemp("servers")
    config = NO_LOG | getattr(request.module, "CONFIG", {})
    with ExitStack() as stack:
        yield {
            shard: stack.enter_context(start_valkey(folder / shard, users=ADMIN_ONLY, config=config))
            for shard in request.module.SHARDS
        }


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server to compare with."""
    with start_valkey(tmp_path_factory.mktemp("plain"), config=NO_LOG) as server:
        yield server


@pytest.fixture
async def lab(request: pytest.FixtureRequest, servers: dict[str, Server]) -> AsyncIterator[RouterLab]:
    """A router by the module's OPTIONS, if it has some, over the servers, which are empty when it starts."""
    made = RouterLab(servers, options=getattr(request.module, "OPTIONS", RouterOptions(node="shard-1")))
    await made.empty()
    async with made.running():
        yield made


@pytest.fixture
def resp_version() -> int:
    """What `client` speaks. A module whose tests run in both versions of RESP has a fixture of this name with both."""
    return 2


@pytest.fixture
async def client(lab: RouterLab, resp_version: int) -> AsyncIterator[Client]:
    """A client of the lab's router."""
    async with lab.client(resp_version) as made:
        yield made


@pytest.fixture
async def raw(lab: RouterLab) -> AsyncIterator[RawClient]:
    """A connection, byte by byte."""
    made = await RawClient.connect(lab.port)
    yield made
    made.close()
