"""Bodies of requests, as far as they concern the gateway as a whole: their framing, and what they take in all."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from helios.api.problems import problem
from helios.errors import Unavailable

_GIVE_BACK_BYTES = 16 << 20


class OneLength:
    """ASGI middleware: a request whose length is said in two ways is refused, and its connection ends.

    A proxy in front may have read it the other way, and what follows would be taken for another request. So it
    stands before everything that answers.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and _ambiguous(Headers(scope=scope)):
            refused = problem(
                400,
                "INVALID",
                "the request has both Content-Length and Transfer-Encoding: send one of them",
                {"Connection": "close"},
            )
            await refused(scope, receive, send)
            return
        await self._app(scope, receive, send)


class BodyLimit:
    """ASGI middleware: all requests together hold at most `max_bytes` of bodies; one more is refused with 503."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.held_bytes = 0
        self._app = app
        self._max_bytes = max_bytes
        self._max_held_bytes = 0  # since memory was given back last

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        taken_bytes = 0

        async def counted() -> Message:
            nonlocal taken_bytes
            message = await receive()
            size = len(message.get("body", b""))
            taken_bytes += size
            self._take(size)
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._give_back(taken_bytes)

    def _take(self, size: int) -> None:
        self.held_bytes += size
        self._max_held_bytes = max(self._max_held_bytes, self.held_bytes)
        if self.held_bytes > self._max_bytes:
            raise Unavailable(
                f"all requests together hold more than {self._max_bytes} bytes of bodies, which is the most that is "
                "taken here: try again in a moment"
            )

    def _give_back(self, size: int) -> None:
        self.held_bytes -= size
        if self._max_held_bytes - self.held_bytes > _GIVE_BACK_BYTES:
            self._max_held_bytes = self.held_bytes
            _trim(0)


def _ambiguous(headers: Headers) -> bool:
    return "transfer-encoding" in headers and "content-length" in headers


def _c_library_trim() -> Callable[[int], int]:
    """What gives free memory back to the system; nothing where the C library does so by itself or cannot."""
    try:
        trim = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError):
        return lambda _: 0
    trim.argtypes, trim.restype = [ctypes.c_size_t], ctypes.c_int
    return lambda pad: int(trim(pad))


_trim = _c_library_trim()
