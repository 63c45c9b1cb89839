"""Checking passwords without holding anybody up: in threads, few at a time, and slower for who fails."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from helios.errors import Unavailable
from helios.model.passwords import hashed, matches

_AT_ONCE = 2
_MAX_WAITING = 256
_ALWAYS_OF_USER = 4  # may wait for a user, however many wait for others
_MAX_WAITING_IN_BUCKET = {True: 64, False: 16}  # connections' first attempts, and others
_ROWS = 64
_MAX_BUCKETS = 4096
_LONGEST_PASSWORD_BYTES = 1024
_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 2.0
_MAX_FIRST_DELAY_S = 0.1
_FORGIVEN_AFTER_S = 60.0


@dataclass(slots=True)
class _Bucket:
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


class _Turns:
    """A few places, given to users by turns: however many wait for one user, another's attempt is the next but one."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._waiting: OrderedDict[int, deque[asyncio.Future[None]]] = OrderedDict()  # by user; the next one first

    @asynccontextmanager
    async def place(self, user: int) -> AsyncIterator[None]:
        """Wait for a place, and have it."""
        if self._free:
            self._free -= 1
        else:
            called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(user, deque()).append(called)
            try:
                await called
            except asyncio.CancelledError:
                if not called.cancelled():
                    self._call_next()
                raise
        try:
            yield
        finally:
            self._call_next()

    def _call_next(self) -> None:
        while self._waiting:
            user, row = self._waiting.popitem(last=False)
            called = row.popleft()
            if row:
                self._waiting[user] = row
            if not called.done():
                called.set_result(None)
                return
        self._free += 1


class Logins:
    """Compares passwords with hashes. Of one source, one at a time; a failure delays the source's next attempt.

    Users take turns, and none is refused an attempt because of how many wait for others.

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
        self._turns = _Turns(_AT_ONCE)
        self._waiting_for: Counter[tuple[int, bool]] = Counter()
        self._waiting = {True: 0, False: 0}  # connections' first attempts, and others
        self._buckets: OrderedDict[tuple[str, int, bool], _Bucket] = OrderedDict()
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
        right = await self._in_turn(password, stored, source, self._row_of(name), first=first)
        if right and token:
            self._known[name] = token
        return right

    def forget(self, names: set[str]) -> None:
        """Remember the passwords of these users only."""
        self._known = {name: known for name, known in self._known.items() if name in names}

    def _digest(self, password: bytes) -> bytes:
        return hashlib.blake2b(password, key=self._key).digest()

    def _row_of(self, name: str) -> int:
        """Which row a user's attempts wait in. Names share a few, so that many made-up ones cost no more than a few.

        Whether there is such a user makes no difference, which would tell.
        """
        return self._digest(name.encode("utf-8", "replace"))[0] % _ROWS

    async def _in_turn(self, password: bytes, stored: str | None, source: str, row: int, *, first: bool) -> bool:
        bucket = self._bucket(source, row, first=first)
        crowded = self._waiting[first] >= _MAX_WAITING and self._waiting_for[row, first] >= _ALWAYS_OF_USER
        if crowded or bucket.waiting >= _MAX_WAITING_IN_BUCKET[first]:
            raise Unavailable("too many logins wait to be checked: try again in a moment")
        bucket.waiting += 1
        self._waiting[first] += 1
        self._waiting_for[row, first] += 1
        loop = asyncio.get_running_loop()
        try:
            async with bucket.turn:
                delay_s = bucket.delay_s(loop.time(), _MAX_FIRST_DELAY_S if first else _MAX_DELAY_S)
                if delay_s:
                    await self._sleep(delay_s)
                async with self._turns.place(row):
                    right = await asyncio.to_thread(self._compare, password, stored)
                bucket.failures = 0 if right else bucket.failures + 1
                bucket.failed_at = loop.time()
        finally:
            bucket.waiting -= 1
            self._waiting[first] -= 1
            self._waiting_for[row, first] -= 1
        self.failed += not right
        return right

    def _compare(self, password: bytes, stored: str | None) -> bool:
        if stored is None or len(password) > _LONGEST_PASSWORD_BYTES:
            # A user that does not exist must not be told from one that does by the time of the answer.
            self._decoy = self._decoy or hashed(b"", secrets.token_bytes(16))
            self._check(b"-", self._decoy)
            return False
        return self._check(password, stored)

    def _bucket(self, source: str, row: int, *, first: bool) -> _Bucket:
        """Where attempts from a source for a row of users wait for each other."""
        key = source, row, first
        found = self._buckets.get(key)
        if found is None:
            found = self._buckets[key] = _Bucket()
            while len(self._buckets) > _MAX_BUCKETS:
                oldest = next(
                    (each for each, bucket in self._buckets.items() if not bucket.waiting and bucket is not found), None
                )
                if oldest is None:
                    break
                del self._buckets[oldest]
        self._buckets.move_to_end(key)
        return found
