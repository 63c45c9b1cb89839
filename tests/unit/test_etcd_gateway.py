"""Which endpoint of etcd is asked: the others where one is silent, all of them before it is said that none answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from helios.errors import StoreUnreachable
from helios.stores import etcd_gateway
from helios.stores.etcd_gateway import Access, Gateway

LONG_S = 30.0


class Endpoint:
    """Something that answers each request of HTTP when it is let, and counts them."""

    def __init__(self, answer: bytes, *, silent: bool) -> None:
        self.address = ""
        self.asked = asyncio.Event()
        self.requests = 0
        self.may_answer = asyncio.Event()
        self._answer = answer
        if not silent:
            self.may_answer.set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Endpoint]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            self.may_answer.set()
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.requests += 1
        self.asked.set()
        await self.may_answer.wait()
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(self._answer)
        writer.write(head + self._answer)
        writer.close()


@asynccontextmanager
async def gateway_of(*endpoints: Endpoint) -> AsyncIterator[Gateway]:
    gateway = Gateway(Access(tuple(endpoint.address for endpoint in endpoints)))
    try:
        async with asyncio.timeout(LONG_S):
            yield gateway
    finally:
        await gateway.close()


async def test_another_endpoint_answers_before_a_silent_one_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a lease that is shorter than that is lost with the host of one etcd."""
    monkeypatch.setattr(etcd_gateway, "REPEATABLE_TIMEOUT_S", 10 * LONG_S)
    silent, other = Endpoint(b"{}", silent=True), Endpoint(b'{"from": "other"}', silent=False)
    async with silent.listening(), other.listening(), gateway_of(silent, other) as gateway:
        assert await gateway.call("/v3/lease/keepalive", {"ID": "1"}, repeatable=True) == {"from": "other"}
        # From now on the one that answers is asked first, also for what must not be asked twice.
        assert await gateway.call("/v3/kv/txn", {}) == {"from": "other"}
        assert (silent.requests, other.requests) == (1, 2)


async def test_a_slow_endpoint_is_waited_for_while_others_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_gateway, "REPEATABLE_TIMEOUT_S", 10 * LONG_S)
    slow, silent = Endpoint(b'{"from": "slow"}', silent=True), Endpoint(b"{}", silent=True)
    async with slow.listening(), silent.listening(), gateway_of(slow, silent) as gateway:
        asking = asyncio.create_task(gateway.call("/v3/kv/range", {}, repeatable=True))
        await silent.asked.wait()
        slow.may_answer.set()
        assert await asking == {"from": "slow"}


async def test_all_are_named_where_none_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(etcd_gateway, "REPEATABLE_TIMEOUT_S", 0.2)
    one, other = Endpoint(b"{}", silent=True), Endpoint(b"{}", silent=True)
    async with one.listening(), other.listening(), gateway_of(one, other) as gateway:
        with pytest.raises(StoreUnreachable, match=r"no endpoint of etcd answers .*: it may have no leader") as said:
            await gateway.call("/v3/kv/range", {}, repeatable=True)
        assert one.address in str(said.value)
        assert other.address in str(said.value)
