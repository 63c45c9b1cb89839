"""etcd's v3 API over its JSON gateway: one request to whichever endpoint answers, and streams of results.

The gateway writes keys and values in base64 and 64-bit numbers as text, and leaves out what is zero or false.
"""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import httpx

from helios.errors import StoreError

# Requests that wait for agreement fail at etcd after 7 s at the latest; a client that hears nothing by then is cut off.
REQUEST_TIMEOUT_S = 8.0
_CONNECT_TIMEOUT_S = 2.0
# Without it a member that has lost its leader leaves a watch open and silent.
_NEEDS_LEADER = {"Grpc-Metadata-hasleader": "true"}
_INVALID_TOKEN = "invalid auth token"

Answer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Access:
    """How to reach an etcd cluster: addresses such as `http://10.0.0.1:2379`, and who to be there."""

    endpoints: tuple[str, ...]
    user: str = ""
    password: str = ""
    tls: ssl.SSLContext | None = None


class Refusal(StoreError):
    """etcd answered with an error; `code` is gRPC's. Nothing was changed."""

    def __init__(self, message: str, grpc_code: int) -> None:
        super().__init__(message)
        self.grpc_code = grpc_code


class Unanswered(StoreError):
    """The request was sent and no answer came: it may have been carried out, or may be later."""


class Gateway:
    """Sends requests to the first endpoint that answers, and stays with it while it does."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._client = httpx.AsyncClient(
            verify=True if access.tls is None else access.tls,
            timeout=httpx.Timeout(REQUEST_TIMEOUT_S, connect=_CONNECT_TIMEOUT_S),
            trust_env=False,
        )
        self._endpoints = list(access.endpoints)
        self._token = ""

    async def close(self) -> None:
        """End all connections; streams end with an error."""
        await self._client.aclose()

    async def call(self, path: str, body: Answer) -> Answer:
        """The answer to one request. Another endpoint is tried only where the first cannot have got it.

        Raises Refusal if etcd says no, Unanswered if the outcome is unknown, StoreError if no endpoint is within reach.
        """
        reasons: list[str] = []
        for endpoint in tuple(self._endpoints):
            try:
                return await self._authorised(endpoint, path, body)
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                reasons.append(f"{endpoint}: {_explained(error)}")
                self._pass_over(endpoint)
            except httpx.HTTPError as error:
                self._pass_over(endpoint)
                raise Unanswered(f"etcd at {endpoint} did not answer {path} ({_explained(error)})") from error
        raise StoreError(f"no endpoint of etcd is within reach ({'; '.join(reasons)})")

    async def stream(self, path: str, body: Answer) -> AsyncGenerator[Answer, None]:
        """The results of one long request as they come; ends when the endpoint ends it.

        Raises Refusal if etcd says no, StoreError if the connection breaks or no endpoint is within reach.
        """
        reasons: list[str] = []
        for endpoint in tuple(self._endpoints):
            try:
                async with aclosing(self._lines(endpoint, path, body)) as lines:
                    async for line in lines:
                        yield line
                return
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
                reasons.append(f"{endpoint}: {_explained(error)}")
                self._pass_over(endpoint)
            except httpx.HTTPError as error:
                self._pass_over(endpoint)
                raise StoreError(f"the stream {path} of etcd at {endpoint} broke ({_explained(error)})") from error
        raise StoreError(f"no endpoint of etcd is within reach ({'; '.join(reasons)})")

    async def _authorised(self, endpoint: str, path: str, body: Answer) -> Answer:
        await self._log_in(endpoint)
        response = await self._client.post(endpoint + path, json=body, headers=self._headers())
        if response.status_code != httpx.codes.OK and _INVALID_TOKEN in response.text:
            self._token = ""
            await self._log_in(endpoint)
            response = await self._client.post(endpoint + path, json=body, headers=self._headers())
        return _answer(endpoint, path, response.status_code, response.content)

    async def _lines(self, endpoint: str, path: str, body: Answer) -> AsyncGenerator[Answer, None]:
        await self._log_in(endpoint)
        timeout = httpx.Timeout(_CONNECT_TIMEOUT_S, read=None)
        headers = self._headers() | _NEEDS_LEADER
        async with self._client.stream(
            "POST", endpoint + path, json=body, headers=headers, timeout=timeout
        ) as response:
            if response.status_code != httpx.codes.OK:
                _answer(endpoint, path, response.status_code, await response.aread())
            async for line in response.aiter_lines():
                found = json.loads(line)
                if "error" in found:
                    raise Refusal(f"etcd at {endpoint} ended {path}: {_message(found)}", _code(found))
                yield found.get("result", {})

    async def _log_in(self, endpoint: str) -> None:
        if not self._access.user or self._token:
            return
        path = "/v3/auth/authenticate"
        body = {"name": self._access.user, "password": self._access.password}
        response = await self._client.post(endpoint + path, json=body)
        self._token = str(_answer(endpoint, path, response.status_code, response.content)["token"])

    def _headers(self) -> dict[str, str]:
        return {"Authorization": self._token} if self._token else {}

    def _pass_over(self, endpoint: str) -> None:
        """Ask the others first from now on."""
        self._endpoints.remove(endpoint)
        self._endpoints.append(endpoint)


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


# Codes of gRPC by which etcd says that it has not carried the request out. DeadlineExceeded (4), Unavailable (14) and
# Unknown (2), which it also uses for requests that timed out on their way, leave it open.
_NOT_CARRIED_OUT = frozenset({3, 5, 7, 8, 9, 11, 16})


def _answer(endpoint: str, path: str, status: int, content: bytes) -> Answer:
    try:
        found = json.loads(content)
    except ValueError as error:
        raise Unanswered(f"{endpoint} does not speak etcd's v3 API: HTTP {status} to {path}") from error
    if not isinstance(found, dict):
        raise Unanswered(f"{endpoint} does not speak etcd's v3 API: HTTP {status} to {path}")
    if status == httpx.codes.OK:
        return found
    message, code = f"etcd at {endpoint} refused {path}: {_message(found)}", _code(found)
    if code in _NOT_CARRIED_OUT:
        raise Refusal(message, code)
    raise Unanswered(message)


def _message(found: Answer) -> str:
    error = found.get("error")
    return str((error if isinstance(error, dict) else found).get("message", error))


def _code(found: Answer) -> int:
    error = found.get("error")
    where = error if isinstance(error, dict) else found
    return int(where.get("grpc_code") or where.get("code") or 2)


def _explained(error: httpx.HTTPError) -> str:
    return str(error) or type(error).__name__
