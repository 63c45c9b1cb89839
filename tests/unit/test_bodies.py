"""Bodies of requests: rights before they are read, a bound over all of them, one length each."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest
from starlette.types import ASGIApp, Message
from tests.fake_gateway import FakeAdmin, FakeKeyValue

from helios.access.authenticator import Authenticator
from helios.access.logins import Logins
from helios.api.app import create_app
from helios.model.users import Role, User

MOST = 1000
USERS = [User("reader", Role.READ_ONLY, "reader"), User("narrow", Role.READ_WRITE, "narrow", ("a:*",))]


async def _health() -> list[str]:
    return []


class Request:
    """A PUT that is sent piece by piece, and what was answered."""

    def __init__(self, app: ASGIApp, key: str, user: str = "", **headers: str) -> None:
        self._parts: asyncio.Queue[Message] = asyncio.Queue()
        self.reads = 0
        self.sent: list[Message] = []
        fields = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        if user:
            fields.append((b"authorization", b"Basic " + base64.b64encode(f"{user}:{user}".encode())))
        path = f"/api/v1/kv/{key}"
        scope = {"type": "http", "method": "PUT", "path": path, "raw_path": path.encode(), "query_string": b""}
        scope |= {"headers": fields, "http_version": "1.1", "server": ("localhost", 80), "scheme": "http"}
        self.task = asyncio.create_task(self._run(app, scope))

    async def _run(self, app: ASGIApp, scope: Message) -> None:
        async def receive() -> Message:
            self.reads += 1
            return await self._parts.get()

        async def send(message: Message) -> None:
            self.sent.append(message)

        await app(scope, receive, send)

    async def part(self, size: int, *, last: bool = False) -> None:
        """Send so many bytes, and let the application take them."""
        self._parts.put_nowait({"type": "http.request", "body": b"v" * size, "more_body": not last})
        for _ in range(20):
            await asyncio.sleep(0)

    async def answered(self) -> tuple[int, str]:
        """Status and code of the error; the code is empty for a success."""
        await asyncio.wait_for(self.task, 10)
        body = json.loads(b"".join(message.get("body", b"") for message in self.sent))
        return self.sent[0]["status"], body.get("error", {}).get("code", "")


@pytest.fixture
def app() -> ASGIApp:
    return create_app(FakeAdmin(), FakeKeyValue(), _health, max_value_bytes=MOST, max_bodies_bytes=2 * MOST)


@pytest.mark.parametrize("user", ["reader", "narrow"])
async def test_rights_are_looked_at_before_the_body(user: str) -> None:
    authenticator = Authenticator(logins=Logins(check=lambda password, stored: password.decode() == stored))
    authenticator.apply(USERS)
    request = Request(create_app(FakeAdmin(), FakeKeyValue(), _health, authenticator=authenticator), "b:1", user)
    assert await request.answered() == (403, "NOPERM")
    assert request.reads == 0


async def test_all_bodies_together_are_bounded(app: ASGIApp) -> None:
    slow = [Request(app, f"slow:{number}") for number in range(2)]
    for each in slow:
        await each.part(MOST - 50)
    small = Request(app, "small")
    await small.part(100, last=True)
    assert await small.answered() == (200, "")
    third = Request(app, "third")
    await third.part(101)
    assert await third.answered() == (503, "UNAVAILABLE")
    assert (b"retry-after", b"1") in third.sent[0]["headers"]
    # What was refused, what has ended and what has broken off counts no longer.
    await slow[0].part(50, last=True)
    assert await slow[0].answered() == (200, "")
    slow[1]._parts.put_nowait({"type": "http.disconnect"})
    assert (await slow[1].answered())[0] == 400
    for number in range(5):
        again = Request(app, f"again:{number}")
        await again.part(MOST, last=True)
        assert await again.answered() == (200, "")


@pytest.mark.parametrize("fault", ["none", "unknown host", "no login", "page of others"])
async def test_a_length_that_is_said_in_two_ways_is_refused_and_the_connection_ends(fault: str) -> None:
    authenticator = Authenticator()
    if fault == "no login":
        authenticator.apply(USERS)
    app = create_app(FakeAdmin(), FakeKeyValue(), _health, allowed_hosts=["localhost"], authenticator=authenticator)
    host = "elsewhere" if fault == "unknown host" else "localhost"
    origin = {"origin": "http://elsewhere"} if fault == "page of others" else {}
    request = Request(app, "k", host=host, content_length="5", transfer_encoding="chunked", **origin)
    assert await request.answered() == (400, "INVALID")
    assert (b"connection", b"close") in request.sent[0]["headers"]
    assert request.reads == 0
