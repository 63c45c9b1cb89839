"""How requests travel to a server in memory, and get lost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

from helios.errors import EngineError, EngineUnreachable

T = TypeVar("T")


@dataclass(slots=True)
class Request:
    """Something that the server is to do, and who waits for it."""

    run: Callable[[], Any]
    done: asyncio.Future[Any]
    administers: bool


class Server(Protocol):
    """What a connection asks of its server."""

    def submit(self, connection: MemoryConnection, request: Request) -> None:
        """Take a request on its way."""

    def end(self, connection: MemoryConnection) -> None:
        """Forget the connection and what it sent and was not carried out."""


@dataclass(eq=False, slots=True)
class MemoryConnection:
    """One client's connection. What was sent may be carried out although the client has given up."""

    server: Server
    endpoint: str
    origin: str
    user: str
    timeout_s: float
    inbox: deque[Request] = field(default_factory=deque)  # on the way, or arrived and not carried out
    joined: bool = False
    lost: str | None = None
    on_lost: Callable[[], None] = lambda: None
    _waiting: list[Request] = field(default_factory=list)

    def send(self, run: Callable[[], T | asyncio.Future[T]], *, administers: bool = False) -> asyncio.Future[T]:
        """Ask the server for something without waiting. Raises EngineUnreachable if the connection is lost already."""
        if self.lost is not None:
            raise EngineUnreachable(f"{self.endpoint} cannot be reached: {self.lost}")
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        request = Request(run, future, administers)
        self._waiting.append(request)
        self.server.submit(self, request)
        return future

    async def call(
        self, run: Callable[[], T | asyncio.Future[T]], *, administers: bool = False, also_s: float = 0.0
    ) -> T:
        """Have the server do something, which may take `also_s` longer than usual.

        Raises EngineUnreachable (outcome unknown) or EngineDenied.
        """
        future = self.send(run, administers=administers)
        timer = asyncio.get_running_loop().call_later(self.timeout_s + also_s, self._give_up, future)
        try:
            return await future
        finally:
            timer.cancel()

    def _give_up(self, future: asyncio.Future[Any]) -> None:
        if not future.done():
            future.set_exception(EngineUnreachable(f"{self.endpoint} did not answer within {self.timeout_s:g} s"))

    def deliver(self, request: Request, outcome: object, error: EngineError | None) -> None:
        """Give a reply to its caller, unless the connection broke meanwhile or the caller has gone."""
        if self.lost is not None:
            return
        self._waiting.remove(request)
        if request.done.done():
            return
        if error is not None:
            request.done.set_exception(error)
        else:
            request.done.set_result(outcome)

    def lose(self, reason: str) -> None:
        """The connection broke, as the client sees it."""
        if self.lost is not None:
            return
        self.lost = reason
        for request in self._waiting:
            if not request.done.done():
                request.done.set_exception(
                    EngineUnreachable(f"{self.endpoint} was lost: {reason}; what was asked may have been carried out")
                )
        self.on_lost()
