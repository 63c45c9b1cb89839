"""Checking passwords without holding anybody up: in threads, few at a time, and slower for who fails."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from helios.errors import Unavailable
from helios.model.passwords import hashed, matches

_AT_ONCE = 2
_MAX_WAITING = 256
_MAX_WAITING_IN_LANE = {True: 64, False: 16}  # connections' first attempts, and others
_LANES_OF_SOURCE = 64
_MAX_LANES = 4096
_LONGEST_PASSWORD_BYTES = 1024
_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 2.0
_MAX_FIRST_DELAY_S = 0.1
_FORGIVEN_AFTER_S = 60.0


@dataclass(slots=True)
class _Lane:
    """Logins from one source for some names, with their failures in a row."""

    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    waiting: int = 0
    failures: int = 0
    failed_at: float = 0.0

    def delay_s(self, now: float, max_s: float) -> float:
        """How long the next attempt has to wait."""
        if now - self.failed_at > _FORGIVEN_AFTER_S:
            self.failures = 0
        return min(_FIRST_DELAY_S * 2.0 ** (self.failures - 1), max_s) if self.failures else 0.0


class Logins:
    """Compares passwords with hashes. Of one source, one at a time; a failure delays the source's next attempt.

    A password that was right is remembered, as a digest under a key of this process, for as long as its hash stays,
    so that only a user's first login costs more than a look. `sleep` and `check` can be replaced in tests.
    """

    def __init__(
        self,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        check: Callable[[bytes, str], bool] = matches,
    ) -> None:
        self.failed = 0  # logins refused since the start
        self._sleep = sleep
        self._check = check
        self._key = secrets.token_bytes(32)
        self._known: dict[str, tuple[str, bytes]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)
        self._waiting = {True: 0, False: 0}  # connections' first attempts, and others
        self._lanes: OrderedDict[tuple[str, int, bool], _Lane] = OrderedDict()
        self._decoy = ""

    async def right(self, name: str, password: bytes, stored: str | None, source: str, *, first: bool = False) -> bool:
        """Whether the password is the user's whose hash is `stored` (None: there is no such user; as slow).

        Who fails keeps nobody waiting but those that come from the same source for the same user; and of these, a
        connection's first attempt does not wait behind the further ones of others.

        Raises Unavailable where too many wait already, here or from this source.
        """
        token = stored is not None and (stored, self._digest(password))
        known = self._known.get(name)
        if known and token and known[0] == token[0] and hmac.compare_digest(known[1], token[1]):
            return True
        right = await self._in_turn(password, stored, self._lane(source, name, first=first), first=first)
        if right and token:
            self._known[name] = token
        return right

    def forget(self, names: set[str]) -> None:
        """Remember the passwords of these users only."""
        self._known = {name: known for name, known in self._known.items() if name in names}

    def _digest(self, password: bytes) -> bytes:
        return hashlib.blake2b(password, key=self._key).digest()

    async def _in_turn(self, password: bytes, stored: str | None, lane: _Lane, *, first: bool) -> bool:
        if lane.waiting >= _MAX_WAITING_IN_LANE[first] or self._waiting[first] >= _MAX_WAITING:
            raise Unavailable("too many logins wait to be checked: try again in a moment")
        lane.waiting += 1
        self._waiting[first] += 1
        loop = asyncio.get_running_loop()
        try:
            async with lane.turn:
                delay_s = lane.delay_s(loop.time(), _MAX_FIRST_DELAY_S if first else _MAX_DELAY_S)
                if delay_s:
                    await self._sleep(delay_s)
                async with self._places:
                    right = await asyncio.to_thread(self._compare, password, stored)
                lane.failures = 0 if right else lane.failures + 1
                lane.failed_at = loop.time()
        finally:
            lane.waiting -= 1
            self._waiting[first] -= 1
        self.failed += not right
        return right

    def _compare(self, password: bytes, stored: str | None) -> bool:
        if stored is None or len(password) > _LONGEST_PASSWORD_BYTES:
            # A user that does not exist must not be told from one that does by the time of the answer.
            self._decoy = self._decoy or hashed(b"", secrets.token_bytes(16))
            self._check(b"-", self._decoy)
            return False
        return self._check(password, stored)

    def _lane(self, source: str, name: str, *, first: bool) -> _Lane:
        """Where an attempt waits. Names share a few lanes, so that many made-up ones cost no more than a few.

        Whether there is such a user makes no difference, which would tell.
        """
        key = source, self._digest(name.encode("utf-8", "replace"))[0] % _LANES_OF_SOURCE, first
        found = self._lanes.get(key)
        if found is None:
            found = self._lanes[key] = _Lane()
            while len(self._lanes) > _MAX_LANES:
                oldest = next(
                    (each for each, lane in self._lanes.items() if not lane.waiting and lane is not found), None
                )
                if oldest is None:
                    break
                del self._lanes[oldest]
        self._lanes.move_to_end(key)
        return found
