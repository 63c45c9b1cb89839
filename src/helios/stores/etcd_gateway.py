"""etcd's v3 API over its JSON gateway: one request to whichever endpoint answers, and streams of results.

The gateway writes keys and values in base64 and 64-bit numbers as text, and leaves out what is zero or false.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import ssl
from collections import deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from helios.errors import StoreError, StoreUnreachable
from helios.stores.http_client import SILENCE, HttpClient, NotSent, Response, Unanswered

# Requests that wait for agreement fail at etcd after 7 s at the latest; a client that hears nothing by then is cut off.
REQUEST_TIMEOUT_S = 8.0
REPEATABLE_TIMEOUT_S = 2.5
# What may be asked twice is asked elsewhere, too, after that: a lease lives while one of its etcd's hosts is away.
ELSEWHERE_AFTER_S = 0.5
# Without it a member that has lost its leader leaves a watch open and silent.
_NEEDS_LEADER = {"Grpc-Metadata-hasleader": "true"}
# A token is over after five minutes without use, when its member is started again, and when users are changed.
_TOKEN_OVER = ("invalid auth token", "revision of auth store is old")
# What a request is refused with that waited while there was no leader.
_LEADER_CHANGED = "leader changed"
# Older ones lose data, or answer watches and leases in ways that were mended since.
_OLDEST = {(3, 4): 22, (3, 5): 6}

Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an etcd cluster: addresses such as `http://10.0.0.1:2379`, and who to be there."""

    endpoints: tuple[str, ...]
    user: str = ""
    password: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None


class Refusal(StoreError):
    """etcd answered with an error; `grpc_code` is gRPC's. Nothing was changed."""

    def __init__(self, message: str, grpc_code: int) -> None:
        super().__init__(message)
        self.grpc_code = grpc_code


class LoginOver(StoreError):
    """etcd has forgotten a login. Nothing was changed; try again."""


class Gateway:
    """Sends requests to the first endpoint that answers, and stays with it while it does.

    Names of endpoints are resolved anew for each connection.
    """

    def __init__(self, access: Access) -> None:
        self._access = access
        self._client = HttpClient(access.tls)
        self._endpoints = list(access.endpoints)
        self._token = ""

    async def close(self) -> None:
        """End all connections; streams end with an error."""
        await self._client.close()

    async def call(self, path: str, body: Answer, *, repeatable: bool = False) -> Answer:
        """The answer to one request. Another endpoint is tried where the first cannot have got it.

        What is `repeatable` is asked at another endpoint also where no answer comes soon. Raises Refusal if etcd says
        no, Unanswered if the outcome is unknown, StoreUnreachable if no endpoint is within reach.
        """
        if repeatable:
            return await self._first_answer(path, body)
        reasons: list[str] = []
        for endpoint in tuple(self._endpoints):
            with self._trying(endpoint, reasons):
                return await self._authorised(endpoint, path, body, REQUEST_TIMEOUT_S)
        raise _out_of_reach(reasons)

    async def _first_answer(self, path: str, body: Answer) -> Answer:
        """Of the endpoints that are asked: one more whenever none of those before has answered for a while."""
        left = deque(self._endpoints)
        asked: dict[asyncio.Task[Answer], str] = {}
        reasons: list[str] = []
        try:
            while left or asked:
                if left:
                    endpoint = left.popleft()
                    asking = self._authorised_twice(endpoint, path, body)
                    asked[asyncio.create_task(asking)] = endpoint
                patience_s = ELSEWHERE_AFTER_S if left else None
                ended, _ = await asyncio.wait(asked, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    with self._trying(asked.pop(task), reasons, repeatable=True):
                        answer = task.result()
                        for silent in asked.values():
                            self._pass_over(silent)
                        return answer
            raise _out_of_reach(reasons)
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    async def stream(self, path: str, body: Answer) -> AsyncGenerator[Answer, None]:
        """The results of one long request as they come; ends when the endpoint ends it.

        Raises Refusal if etcd says no, StoreError if the connection breaks or no endpoint is within reach.
        """
        reasons: list[str] = []
        for endpoint in tuple(self._endpoints):
            with self._trying(endpoint, reasons):
                async with aclosing(self._lines(endpoint, path, body)) as lines:
                    async for line in lines:
                        yield line
                return
        raise _out_of_reach(reasons)

    async def check_version(self) -> None:
        """Raise StoreError if etcd is too old to be trusted with a cluster, or no etcd."""
        reasons: list[str] = []
        for endpoint in tuple(self._endpoints):
            with self._trying(endpoint, reasons, repeatable=True):
                version = await self.version(endpoint)
                if too_old(version):
                    raise StoreError(
                        f"etcd at {endpoint} has the version {version}, which is too old to be safe: Helios needs "
                        "3.4.22, 3.5.6 or newer"
                    )
                return
        raise _out_of_reach(reasons)

    async def version(self, endpoint: str) -> str:
        """The version of the etcd behind one endpoint. Raises StoreError, also where it is no etcd."""
        found = _parsed(endpoint, "/version", await self.page(endpoint, "/version"))
        return str(found.get("etcdserver", "0"))

    async def page(self, endpoint: str, path: str) -> Response:
        """A page that an endpoint shows beside its API. Raises NotSent or Unanswered."""
        return await self._client.request(endpoint, path, timeout_s=REPEATABLE_TIMEOUT_S)

    def cancelled(self, path: str, reason: str) -> StoreError:
        """The error for a stream that etcd has ended; LoginOver where the next request makes another login."""
        message = f"etcd ended {path}: {reason or 'it does not say why'}{_advice(reason, self._access.user)}"
        if self._token and _token_over(reason):
            self._token = ""
            return LoginOver(message)
        return StoreError(message)

    @contextmanager
    def _trying(self, endpoint: str, reasons: list[str], *, repeatable: bool = False) -> Iterator[None]:
        """What happens with one endpoint: where another may be tried the block just ends, and the reason is noted."""
        try:
            yield
        except (NotSent, Unanswered) as error:
            self._pass_over(endpoint)
            if not repeatable and isinstance(error, Unanswered):
                raise
            reasons.append(str(error))

    async def _authorised(self, endpoint: str, path: str, body: Answer, timeout_s: float) -> Answer:
        await self._log_in(endpoint)
        response = await self._client.request(endpoint, path, body, self._headers(), timeout_s=timeout_s)
        if response.status != HTTPStatus.OK and _token_over(response.content.decode(errors="replace")):
            self._token = ""
            await self._log_in(endpoint)
            response = await self._client.request(endpoint, path, body, self._headers(), timeout_s=timeout_s)
        return self._answer(endpoint, path, response)

    async def _authorised_twice(self, endpoint: str, path: str, body: Answer) -> Answer:
        """The answer to what may be repeated. All requests that wait for a leader end when there is a new one."""
        try:
            return await self._authorised(endpoint, path, body, REPEATABLE_TIMEOUT_S)
        except Unanswered as error:
            if _LEADER_CHANGED not in str(error):
                raise
        return await self._authorised(endpoint, path, body, REPEATABLE_TIMEOUT_S)

    async def _lines(self, endpoint: str, path: str, body: Answer) -> AsyncGenerator[Answer, None]:
        await self._log_in(endpoint)
        headers = self._headers() | _NEEDS_LEADER
        async with self._client.stream(endpoint, path, body, headers) as (status, parts):
            if status != HTTPStatus.OK:
                content = b"".join([part async for part in parts])
                self._answer(endpoint, path, Response(status, {}, content))
            begun = b""
            async for part in parts:
                *lines, begun = (begun + part).split(b"\n")
                for line in lines:
                    found = json.loads(line)
                    if "error" in found:
                        raise self._refusal(endpoint, path, found)
                    yield found.get("result", {})

    async def _log_in(self, endpoint: str) -> None:
        if not self._access.user or self._token:
            return
        path = "/v3/auth/authenticate"
        body = {"name": self._access.user, "password": self._access.password}
        response = await self._client.request(endpoint, path, body, timeout_s=REQUEST_TIMEOUT_S)
        self._token = str(self._answer(endpoint, path, response)["token"])

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token else {}

    def _pass_over(self, endpoint: str) -> None:
        """Ask the others first from now on."""
        self._endpoints.remove(endpoint)
        self._endpoints.append(endpoint)

    def _answer(self, endpoint: str, path: str, response: Response) -> Answer:
        found = _parsed(endpoint, path, response)
        if response.status == HTTPStatus.OK:
            return found
        raise self._refusal(endpoint, path, found)

    def _refusal(self, endpoint: str, path: str, found: Answer) -> StoreError:
        """The error that an answer tells of."""
        said, code = _message(found), _code(found)
        if _token_over(said):
            self._token = ""
        message = f"etcd at {endpoint} refused {path}: {said}{_advice(said, self._access.user)}"
        return Refusal(message, code) if code in _NOT_CARRIED_OUT else Unanswered(message)


def encoded(data: bytes) -> str:
    """Bytes as the gateway takes them."""
    return base64.b64encode(data).decode("ascii")


def decoded(text: str) -> bytes:
    """Bytes as the gateway gives them."""
    return base64.b64decode(text)


def number(answer: Answer, *path: str) -> int:
    """A number in an answer; 0 where it is left out."""
    for name in path[:-1]:
        answer = answer.get(name, {})
    return int(answer.get(path[-1], 0))


def items(answer: Answer, name: str) -> Sequence[Answer]:
    """A list in an answer; empty where it is left out."""
    found: Sequence[Answer] = answer.get(name, ())
    return found


def too_old(version: str) -> bool:
    """Whether an etcd of that version must not be used."""
    major, minor, patch = (int(part) for part in (*re.findall(r"\d+", version)[:3], "0", "0", "0")[:3])
    return (major, minor) < min(_OLDEST) or patch < _OLDEST.get((major, minor), 0)


# Codes of gRPC by which etcd says that it has not carried the request out. DeadlineExceeded (4), Unavailable (14) and
# Unknown (2), which it also uses for requests that timed out on their way, leave it open.
_NOT_CARRIED_OUT = frozenset({3, 5, 7, 8, 9, 11, 16})

_NO_LEADER = "it may have no leader: see whether more than half of its members run and reach each other"
# What people can do about what etcd says.
_ADVICE = {
    "authentication failed": "no user {user!r} with this password: see store.user and store.password",
    "authentication is not enabled": "it knows no users: leave store.user out, or run etcdctl auth enable",
    "user name is empty": "it wants a login: set store.user and store.password",
    "permission denied": "the user {user!r} may not read and write this prefix: grant it by etcdctl role "
    "grant-permission ROLE readwrite PREFIX/ --prefix",
    "no leader": "fewer than half of its members run and reach each other: start them",
    "timed out": _NO_LEADER,
    "deadline exceeded": _NO_LEADER,
    "database space exceeded": "its quota is used up: see helios doctor --store",
}


def _advice(said: str, user: str) -> str:
    return next((f" ({text.format(user=user)})" for word, text in _ADVICE.items() if word in said), "")


def _token_over(said: str) -> bool:
    return any(word in said for word in _TOKEN_OVER)


def _out_of_reach(reasons: Sequence[str]) -> StoreUnreachable:
    said = "; ".join(reasons)
    if SILENCE in said:
        return StoreUnreachable(f"no endpoint of etcd answers ({said}): {_NO_LEADER}")
    return StoreUnreachable(f"no endpoint of etcd is within reach ({said})")


def _parsed(endpoint: str, path: str, response: Response) -> Answer:
    try:
        found = json.loads(response.content)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Unanswered(f"{endpoint} does not speak etcd's v3 API: HTTP {response.status} to {path}")
    return found


def _message(found: Answer) -> str:
    error = found.get("error")
    return str((error if isinstance(error, dict) else found).get("message", error))


def _code(found: Answer) -> int:
    error = found.get("error")
    where = error if isinstance(error, dict) else found
    return int(where.get("grpc_code") or where.get("code") or 2)
