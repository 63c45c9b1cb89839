"""A client that caches: what it is told by CLIENT TRACKING, and when."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import hiredis
import redis
from tests.routers import RawClient


class Cacher:
    """A connection whose replies and pushes are told apart, in the order in which they come."""

    def __init__(self, raw: RawClient) -> None:
        self.raw = raw
        self._reader = hiredis.Reader(replyError=redis.ResponseError)
        self.came: deque[Any] = deque()

    @classmethod
    async def connect(cls, port: int, protocol: int = 3) -> Cacher:
        made = cls(await RawClient.connect(port))
        await made.ask("HELLO", str(protocol))
        return made

    async def next(self) -> Any:
        """Whatever comes next."""
        async with asyncio.timeout(20):
            while (found := self._reader.gets()) is False:
                self._reader.feed(await self.raw.reader.read(65536))
        return list(found) if isinstance(found, hiredis.PushNotification) else found

    async def reply(self) -> Any:
        """The next reply; pushes that come before it are kept in `came`."""
        while isinstance(found := await self.next(), list) and found[:1] in (
            [b"invalidate"],
            [b"tracking-redir-broken"],
            [b"message"],
        ):
            self.came.append(found)
        return found

    async def ask(self, *words: str) -> Any:
        self.raw.send(*words)
        return await self.reply()

    async def told(self) -> Any:
        """The next push."""
        return self.came.popleft() if self.came else await self.next()

    async def told_nothing(self) -> None:
        """Nothing that servers have said so far concerns it."""
        assert await self.ask("PING") == b"PONG"
        assert not self.came
