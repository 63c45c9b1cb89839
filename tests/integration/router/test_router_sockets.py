"""Routers reach the servers of their own host by unix sockets, and the right one whatever lies at the path."""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.routers import RouterLab
from tests.servers import ADMIN_ONLY, Server, start_valkey

from helios.model.ids import Address, founder_id
from helios.model.topology import Member
from helios.node.files import DataFolder
from helios.node.sockets import socket_of

pytestmark = pytest.mark.processes
SHARD = "shard-1"


@pytest.fixture
def folder() -> Iterator[Path]:
    """One with a short path: those of sockets are bounded."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.fixture
def path(folder: Path) -> Path:
    return folder / "server.sock"


@pytest.fixture
def server(folder: Path, path: Path) -> Iterator[Server]:
    config = {"appendonly": "no", "unixsocket": str(path)}
    with start_valkey(folder / "server", users=ADMIN_ONLY, config=config) as made:
        yield made


async def ways(lab: RouterLab) -> set[str]:
    """Where the server takes the connections of the router's clients."""
    async with lab.direct(SHARD) as direct:
        clients = await direct.client_list()
    # A server puts brackets around a path with a dot.
    return {client["laddr"].lstrip("[").split(":0")[0] for client in clients if client["name"] == "helios"}


async def used(server: Server, path: Path | None) -> set[str]:
    """The same, once a router that was told of `path` has had a command of each kind of client, and a subscriber."""
    lab = RouterLab({SHARD: server})
    lab.router.socket = lambda member: None if path is None else str(path)
    found: set[str] = set()
    async with lab.running():
        for protocol in (2, 3):
            async with lab.client(protocol) as client:
                assert await client.set("key", "value")
                assert await client.get("key") == b"value"
                assert await client.blpop("list", timeout=0.01) is None
                async with client.pubsub() as subscribed:
                    await subscribed.subscribe("channel")
                    assert (await subscribed.get_message(timeout=20))["type"] == "subscribe"
                    found |= await ways(lab)
    return found


async def test_a_router_goes_by_the_socket(server: Server, path: Path) -> None:
    assert await used(server, path) == {str(path)}


async def test_without_one_it_goes_by_the_address(server: Server, path: Path) -> None:
    by_address = {f"127.0.0.1:{server.port}"}
    assert await used(server, None) == by_address
    assert await used(server, path.with_name("nowhere")) == by_address


async def test_one_that_was_left_behind_is_no_obstacle(server: Server, folder: Path) -> None:
    left = folder / "left.sock"
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(left))
    assert await used(server, left) == {f"127.0.0.1:{server.port}"}


async def test_another_server_at_the_path_gets_nothing(server: Server, folder: Path) -> None:
    """One of an earlier life of the node, say, whose administrator has the same password."""
    path = folder / "other.sock"
    config = {"appendonly": "no", "unixsocket": str(path)}
    with start_valkey(folder / "other", users=ADMIN_ONLY, config=config) as other:
        assert await used(server, path) == {f"127.0.0.1:{server.port}"}
        async with RouterLab({SHARD: other}).direct(SHARD) as direct:
            assert await direct.dbsize() == 0


async def test_after_a_restart_of_the_server_it_is_the_socket_again(server: Server, path: Path) -> None:
    lab = RouterLab({SHARD: server})
    lab.router.socket = lambda member: str(path)
    async with lab.running(), lab.client() as client:
        assert await client.ping()
        assert await client.set("before", "value")
        server.kill()
        server.start()
        while await lab.router.execute([b"SET", b"after", b"value"]) != b"+OK\r\n":
            pass
        lab.router.pool.heavy_link(SHARD, 2).connect()
        await lab.router.pool.ask(SHARD, [b"PING"])
        assert str(path) in await ways(lab)


def test_only_ones_own_socket_counts(folder: Path) -> None:
    data = DataFolder(folder)
    member = Member(founder_id("shard-1"), "shard-1", Address("127.0.0.1", 1))
    path = data.node("shard-1").founder.socket
    assert socket_of(data, member) is None
    path.parent.mkdir(parents=True)
    path.touch()
    assert socket_of(data, member) is None, "a file is no socket"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
    assert socket_of(data, member) == str(path)
    link = data.node("shard-2").founder.socket
    link.parent.mkdir(parents=True)
    link.symlink_to(path)
    assert socket_of(data, Member(founder_id("shard-2"), "shard-2", Address("127.0.0.1", 1))) is None, (
        "a link leads elsewhere"
    )
