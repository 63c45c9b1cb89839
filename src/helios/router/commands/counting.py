"""How many keys of its own each shard's server holds, where scripts may have left others there.

A server says how many keys it has. Keys that it does not own come from scripts and functions that make up names; the
server counts its calls of these, so nothing needs to be looked at as long as none is called. When some have been, its
keys are looked through by name, in steps, and what is not its own is taken off. A big server's look is not waited for
to the end, nor begun again at once: until the next one the keys found by the last are taken off.
"""

from __future__ import annotations

import asyncio
import math
import re
from dataclasses import dataclass

from helios.placement.routing import Routes
from helios.router.commands.keyspace import MAX_REMEMBERED, STEP, decoded, still
from helios.router.context import RouterContext

_CALLS = re.compile(rb"^cmdstat_(?:eval|evalsha|fcall):calls=(\d+)", re.MULTILINE)
_WAIT_S = 0.5
_FEW_KEYS = 50_000  # a server with no more is looked through to the end for every count
_REST = 10  # the look through any other is followed by a rest of so many times as long as it took


def script_calls(info: bytes) -> int:
    """How often a server has run scripts and functions that may write, by INFO's commandstats."""
    return sum(int(calls) for calls in _CALLS.findall(info))


@dataclass(frozen=True, slots=True)
class Look:
    """What a look through a server's keys has found; `held` and `calls` of scripts are from before it began."""

    run: bytes
    held: int
    calls: int
    strays: int
    began_s: float
    took_s: float

    def tells(self, run: bytes, calls: int, asked_s: float) -> bool:
        """Whether it is good enough for a count that was asked for then, when the server had run so many scripts."""
        if self.run != run:
            return False
        if self.began_s >= asked_s or (not self.strays and self.calls == calls >= 0):
            return True
        return self.held > _FEW_KEYS and asked_s - self.began_s < _REST * self.took_s


class OwnKeys:
    """Counts each shard's own keys, and remembers what was found of others for as long as that tells something."""

    def __init__(self, router: RouterContext) -> None:
        self._router = router
        self._looks: dict[str, Look] = {}
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def count(self, routes: Routes, shard: str) -> int:
        """The keys that the shard owns and its server has. Raises ErrorReply or Unavailable."""
        asked_s = self._router.clock.monotonic()
        held, calls = await self._asked(shard)
        wait_s = _WAIT_S if held > _FEW_KEYS else math.inf
        strays = await self._strays(routes, shard, calls, asked_s, wait_s)
        return max(held - strays, 0)

    async def _asked(self, shard: str) -> tuple[int, int]:
        pool = self._router.pool
        held, info = await asyncio.gather(pool.ask(shard, [b"DBSIZE"]), pool.ask(shard, [b"INFO", b"commandstats"]))
        # A server that refuses INFO does not tell of scripts: it is looked through.
        return decoded(held), -1 if info[:1] == b"-" else script_calls(info)

    async def _strays(self, routes: Routes, shard: str, calls: int, asked_s: float, wait_s: float) -> int:
        """How many of the server's keys are not the shard's own, as far as that could be found out in this time."""
        clock, deadline = self._router.clock, asked_s + wait_s
        run = self._router.pool.link(shard, 2).run_id
        while True:
            look = self._looks.get(shard)
            left_s = deadline - clock.monotonic()
            if look is not None and (left_s <= 0 or look.tells(run, calls, asked_s)):
                return look.strays
            if left_s <= 0 or not still(self._router, routes):
                return 0
            task = self._under_way.get(shard)
            if task is None:
                task = self._under_way[shard] = asyncio.create_task(self._look(routes, shard), name=f"keys of {shard}")
                task.add_done_callback(_seen)
            await asyncio.wait({task}, timeout=None if wait_s == math.inf else left_s)
            if task.done() and not task.cancelled():
                task.result()

    async def _look(self, routes: Routes, shard: str) -> None:
        """Look through all keys, as long as none changes its owner."""
        router = self._router
        began_s, strays, cursor = router.clock.monotonic(), set[bytes](), b"0"
        more = 0
        try:
            held, calls = await self._asked(shard)
            while True:
                reply = await router.pool.ask(shard, [b"SCAN", cursor, b"COUNT", b"%d" % STEP])
                if not still(router, routes):
                    return
                cursor, found = decoded(reply)
                others = {key for key in found if routes.owner(key) != shard} - strays
                if len(strays) < MAX_REMEMBERED:
                    strays |= others
                else:
                    more += len(others)
                if cursor == b"0":
                    break
            took_s = router.clock.monotonic() - began_s
            run = router.pool.link(shard, 2).run_id
            self._looks[shard] = Look(run, held, calls, len(strays) + more, began_s, took_s)
        finally:
            del self._under_way[shard]


def _seen(task: asyncio.Task[None]) -> None:
    """Whoever still waits for a look gets its error; it is none that nobody does."""
    if not task.cancelled():
        task.exception()
