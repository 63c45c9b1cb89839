"""Requests over connections that stay open, and what is said where no answer comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
from tests.ports import free_ports

from helios.stores.http_client import HttpClient, NotSent, Unanswered

TIMEOUT_S = 30.0


class Far:
    """A server that answers each request with the next of the `answers`: bytes as they are, None by silence."""

    def __init__(self, *answers: bytes | None) -> None:
        self.answers = list(answers)
        self.requests: list[bytes] = []
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def up(self) -> AsyncIterator[str]:
        async def joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

        server = await asyncio.start_server(joined, "127.0.0.1", 0)
        try:
            yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, OSError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    (int(line[16:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length: ")), 0
                )
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0)
                if answer is None:
                    await asyncio.Event().wait()
                    return
                # Byte by byte: no part of a message may be taken to come in one piece.
                for byte in answer:
                    writer.write(bytes([byte]))
                    await asyncio.sleep(0)
                if b"close" in answer:
                    break
        writer.close()


def plain(body: bytes, *, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s" % (len(body), more, body)


def chunked(*parts: bytes) -> bytes:
    body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n"


@asynccontextmanager
async def client_of(far: Far) -> AsyncIterator[tuple[HttpClient, str]]:
    async with far.up() as address:
        client = HttpClient()
        try:
            yield client, address
        finally:
            await client.close()


async def test_requests_follow_each_other_on_one_connection() -> None:
    far = Far(
        plain(b"one", more=b"Date: today\r\n"),
        chunked(b"t", b"w", b"o"),
        b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
    )
    async with client_of(far) as (client, address):
        first = await client.request(address, "/a", timeout_s=TIMEOUT_S)
        assert (first.status, first.headers["date"], first.content) == (200, "today", b"one")
        second = await client.request(address, "/b", {"key": "värde"}, {"Authorization": "t"}, timeout_s=TIMEOUT_S)
        assert second.content == b"two"
        assert (await client.request(address, "/c", timeout_s=TIMEOUT_S)).status == 404
    assert far.connections == 1
    assert far.requests[0].startswith(b"GET /a HTTP/1.1\r\nHost: " + address.removeprefix("http://").encode() + b"\r\n")
    head, _, body = far.requests[1].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /b HTTP/1.1\r\n")
    assert b"Authorization: t" in head
    assert json.loads(body) == {"key": "värde"}


async def test_requests_at_once_have_connections_of_their_own() -> None:
    far = Far(plain(b"a"), plain(b"b"), plain(b"c"))
    async with client_of(far) as (client, address):
        both = [client.request(address, "/", timeout_s=TIMEOUT_S) for _ in range(2)]
        assert {answer.content for answer in await asyncio.gather(*both)} == {b"a", b"b"}
        await client.request(address, "/", timeout_s=TIMEOUT_S)
    assert far.connections == 2


async def test_a_connection_that_the_server_has_closed_is_not_used_again() -> None:
    far = Far(plain(b"a", more=b"Connection: close\r\n"), plain(b"b"))
    async with client_of(far) as (client, address):
        await client.request(address, "/", timeout_s=TIMEOUT_S)
        assert (await client.request(address, "/", timeout_s=TIMEOUT_S)).content == b"b"
    assert far.connections == 2


async def test_a_request_that_is_given_up_leaves_nothing_to_the_next() -> None:
    far = Far(None, plain(b"mine"))
    async with client_of(far) as (client, address):
        with pytest.raises(Unanswered, match=r"did not answer /slow \(nothing within 0.05 s\)"):
            await client.request(address, "/slow", {}, timeout_s=0.05)
        assert (await client.request(address, "/", timeout_s=TIMEOUT_S)).content == b"mine"
    assert far.connections == 2


@pytest.mark.parametrize(
    "answer",
    [b"-ERR close\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nclose", b"HTTP/1.1 200 OK\r\nclose"],
)
async def test_what_is_no_answer_leaves_the_outcome_open(answer: bytes) -> None:
    async with client_of(Far(answer)) as (client, address):
        with pytest.raises(Unanswered, match=f"{address} did not answer /"):
            await client.request(address, "/", {"a": 1}, timeout_s=TIMEOUT_S)


async def test_what_was_not_sent_is_told_from_what_was_not_answered() -> None:
    client, address = HttpClient(), f"http://127.0.0.1:{free_ports(1)}"
    with pytest.raises(NotSent, match=f"{address}: no connection"):
        await client.request(address, "/", {}, timeout_s=TIMEOUT_S)
    await client.close()
    with pytest.raises(NotSent, match="closed"):
        await client.request(address, "/", {}, timeout_s=TIMEOUT_S)


@pytest.mark.parametrize("by_client", [False, True])
async def test_a_stream_ends_with_its_client_or_its_server(by_client: bool) -> None:
    begun = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
    far = Far(begun if by_client else begun + b"5\r\nclose\r\n")
    async with client_of(far) as (client, address), client.stream(address, "/", {}, {}) as (status, parts):
        assert status == 200
        got = b""
        with pytest.raises(Unanswered):
            async for part in parts:
                got += part
                if by_client and got == b"one":
                    await client.close()
        assert got == (b"one" if by_client else b"oneclose")
