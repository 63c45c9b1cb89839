"""The store in etcd where the network or etcd lets it down."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import pytest
from tests.cables import Cable
from tests.etcd_servers import has_etcd
from tests.ports import free_ports

from helios.errors import Conflict, StoreError
from helios.ports.following import updates
from helios.ports.store import Compare, Entry, Event, Put
from helios.stores.etcd import EtcdStore
from helios.stores.etcd_gateway import Access, Gateway
from helios.stores.http_client import Unanswered

pytestmark = pytest.mark.skipif(not has_etcd(), reason="no etcd on PATH")


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


async def test_a_commit_that_was_lost_on_its_way_has_an_unknown_outcome_and_can_be_made_again(etcd: str) -> None:
    cable = Cable(etcd)
    async with cable.laid() as address:
        store = EtcdStore(Gateway(Access((address,))), a_prefix())
        first = await store.commit([Put("/a", b"1")])
        cable.loses_requests = True
        with pytest.raises(Unanswered, match="did not answer"):
            await store.commit([Put("/a", b"2")], compares=[Compare("/a", first)])
        cable.loses_requests = False
        assert await store.get("/a") == Entry("/a", b"1", first)
        await store.commit([Put("/a", b"2")], compares=[Compare("/a", first)])
        await store.close()


class Late(Gateway):
    """Keeps a commit back, and says that no answer came."""

    kept: tuple[str, Mapping[str, Any]] | None = None
    keeps = False

    async def call(self, path: str, body: Mapping[str, Any], *, repeatable: bool = False) -> Mapping[str, Any]:
        if self.keeps and body.get("compare"):
            self.kept = path, body
            raise Unanswered("the answer was lost")
        return await super().call(path, body, repeatable=repeatable)


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


async def test_a_watch_goes_on_where_its_connection_broke_and_says_so_where_it_cannot(etcd: str) -> None:
    cable, prefix = Cable(etcd), a_prefix()
    other = EtcdStore(Gateway(Access((etcd,))), prefix)
    async with asyncio.timeout(20):
        async with cable.laid() as address:
            store = EtcdStore(Gateway(Access((address,))), prefix)
            version = await store.commit([Put("/a", b"1")])
            watch = store.watch("/a", version - 1)
            assert await anext(watch) == (Event("/a", b"1", version),)
            for value in (b"2", b"3"):
                coming = asyncio.ensure_future(anext(watch))
                await asyncio.sleep(0)
                cable.cut()
                version = await other.commit([Put("/a", value)])
                assert await coming == (Event("/a", value, version),)
            coming = asyncio.ensure_future(anext(watch))
            await asyncio.sleep(0)
        with pytest.raises(StoreError, match="within reach"):
            await coming
        with pytest.raises(StoreError):
            await anext(updates(store, "/a"))
        await store.close()
        await other.close()


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
