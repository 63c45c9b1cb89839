"""The store in etcd where the network or etcd lets it down."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from tests.cluster import free_ports
from tests.etcd_servers import has_etcd, started_etcd

from helios.errors import Conflict, StoreError
from helios.ports.following import updates
from helios.ports.store import Compare, Entry, Event, Put
from helios.stores.etcd import EtcdStore
from helios.stores.etcd_gateway import Access, Gateway, Refusal, Unanswered

pytestmark = pytest.mark.skipif(not has_etcd(), reason="no etcd on PATH")


class Cable:
    """A way to etcd that a test can cut; what etcd answers meanwhile is lost."""

    def __init__(self, address: str) -> None:
        self._host, port = address.removeprefix("http://").split(":")
        self._port = int(port)
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.loses_answers = False

    @asynccontextmanager
    async def laid(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._joined, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            self.cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Break every connection."""
        for writer in self._writers:
            writer.transport.abort()

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        self._writers += [writer, far_writer]
        for source, target, answers in ((reader, far_writer, False), (far_reader, writer, True)):
            self._tasks.add(asyncio.create_task(self._carry(source, target, answers)))

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, answers: bool) -> None:
        try:
            while data := await source.read(65536):
                if answers and self.loses_answers:
                    self.cut()
                    return
                target.write(data)
        except OSError:
            pass
        finally:
            target.close()


def a_prefix() -> str:
    return f"/tests/{uuid4().hex}/"


async def test_a_commit_whose_answer_is_lost_has_an_unknown_outcome_that_a_read_tells(etcd: str) -> None:
    cable, prefix = Cable(etcd), a_prefix()
    async with cable.laid() as address:
        store, other = EtcdStore(Gateway(Access((address,))), prefix), EtcdStore(Gateway(Access((etcd,))), prefix)
        first = await store.commit([Put("/a", b"1")])
        cable.loses_answers = True
        with pytest.raises(Unanswered, match="did not answer"):
            await store.commit([Put("/a", b"2")], compares=[Compare("/a", first)])
        cable.loses_answers = False
        found = await store.get("/a")
        assert found is not None
        assert found.value == b"2"
        assert await other.get("/a") == found
        with pytest.raises(Conflict):
            await store.commit([Put("/a", b"3")], compares=[Compare("/a", first)])
        await store.close()
        await other.close()


class Late(Gateway):
    """Keeps a commit back, and says that no answer came."""

    kept: tuple[str, Mapping[str, Any]] | None = None
    keeps = False

    async def call(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        if self.keeps and body.get("compare"):
            self.kept = path, body
            raise Unanswered("the answer was lost")
        return await super().call(path, body)


async def test_a_write_that_comes_late_overwrites_nothing_also_without_a_compare(etcd: str) -> None:
    gateway = Late(Access((etcd,)))
    store = EtcdStore(gateway, a_prefix())
    gateway.keeps = True
    with pytest.raises(StoreError):
        await store.commit([Put("/a", b"late")])
    gateway.keeps = False
    version = await store.commit([Put("/a", b"in time")])
    assert gateway.kept is not None
    answer = await gateway.call(*gateway.kept)
    assert not answer.get("succeeded")
    assert await store.get("/a") == Entry("/a", b"in time", version)
    await store.close()


async def test_another_endpoint_is_asked_where_the_first_is_out_of_reach(etcd: str) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)}"
    store = await EtcdStore.open(Access((nobody, etcd)), a_prefix())
    version = await store.commit([Put("/a", b"1")])
    assert await store.get("/a") == Entry("/a", b"1", version)
    await store.close()
    with pytest.raises(StoreError, match="no endpoint of etcd is within reach"):
        await EtcdStore.open(Access((nobody,)), a_prefix())


async def test_a_watch_whose_connection_breaks_says_so_and_what_follows_it_can_begin_again(etcd: str) -> None:
    cable, prefix = Cable(etcd), a_prefix()
    async with cable.laid() as address, asyncio.timeout(20):
        store = EtcdStore(Gateway(Access((address,))), prefix)
        version = await store.commit([Put("/a", b"1")])
        watch = store.watch("/a", version - 1)
        assert await anext(watch) == (Event("/a", b"1", version),)
        coming = asyncio.ensure_future(anext(watch))
        await asyncio.sleep(0)
        cable.cut()
        with pytest.raises(StoreError):
            await coming
        following = updates(store, "/a")
        assert (await anext(following)).events == (Event("/a", b"1", version),)
        await following.aclose()
        await store.close()


async def test_clusters_with_prefixes_that_begin_alike_see_nothing_of_each_other(etcd: str) -> None:
    name = f"tests/{uuid4().hex}"
    one, two = await EtcdStore.open(Access((etcd,)), name), await EtcdStore.open(Access((etcd,)), name + "2")
    await two.commit([Put("a", b"two")])
    assert (await one.list("")).entries == ()
    assert [entry.key for entry in (await two.list("")).entries] == ["a"]
    await one.close()
    await two.close()


async def test_many_entries_are_listed_as_they_stood_together(etcd: str) -> None:
    store = await EtcdStore.open(Access((etcd,)), a_prefix())
    for start in range(0, 1_200, 100):
        await store.commit([Put(f"/{n:05}", b"") for n in range(start, start + 100)])
    snapshot = await store.list("")
    assert [entry.key for entry in snapshot.entries] == [f"/{n:05}" for n in range(1_200)]
    await store.close()


async def test_a_user_and_password_are_asked_for_where_etcd_has_users(tmp_path: Path) -> None:
    with started_etcd(tmp_path) as address:
        async with httpx.AsyncClient(base_url=address, trust_env=False) as client:
            for path, body in [
                ("/v3/auth/user/add", {"name": "root", "password": "secret"}),
                ("/v3/auth/role/add", {"name": "root"}),
                ("/v3/auth/user/grant", {"user": "root", "role": "root"}),
                ("/v3/auth/enable", {}),
            ]:
                (await client.post(path, json=body)).raise_for_status()
        store = await EtcdStore.open(Access((address,), "root", "secret"), "x")
        version = await store.commit([Put("/a", b"1")])
        assert await anext(store.watch("", 0)) == (Event("/a", b"1", version),)
        await store.close()
        with pytest.raises(StoreError, match="authentication failed"):
            await EtcdStore.open(Access((address,), "root", "wrong"), "x")
        with pytest.raises(Refusal):
            await EtcdStore.open(Access((address,)), "x")


async def test_what_does_not_speak_as_etcd_does_is_named() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 9\r\nConnection: close\r\n\r\nnot here\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    with pytest.raises(StoreError, match=f"{address} does not speak etcd's v3 API: HTTP 404"):
        await EtcdStore.open(Access((address,)), "x")
    server.close()
