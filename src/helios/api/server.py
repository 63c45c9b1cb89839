"""uvicorn's server, for a process of Helios: it is ended by its owner, and does nothing between two requests."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from email.utils import formatdate

import uvicorn
from uvicorn.server import ServerState


class RestServer(uvicorn.Server):
    """uvicorn's own looks ten times a second whether it is to end, and makes the Date of its replies ahead."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.server_state = _State(config)
        self._ended = asyncio.Event()

    def end(self) -> None:
        """Take no further requests, answer those that have come, and return from `serve`."""
        self.should_exit = True
        self._ended.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signals over: `end` is what ends this server."""
        yield

    async def main_loop(self) -> None:
        """Return when the server is to end."""
        await self._ended.wait()


class _State(ServerState):
    """What connections share; the headers of a reply are made when they are asked for."""

    def __init__(self, config: uvicorn.Config) -> None:
        self._config = config
        super().__init__()

    @property
    def default_headers(self) -> list[tuple[bytes, bytes]]:
        """What each reply begins with: the time, and who answers."""
        return [(b"date", formatdate(time.time(), usegmt=True).encode()), *self._config.encoded_headers]

    @default_headers.setter
    def default_headers(self, headers: list[tuple[bytes, bytes]]) -> None:
        """uvicorn begins with an empty list; there is nothing to keep of it."""
