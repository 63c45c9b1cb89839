"""Which sessions there were: what ends only with a lease is over a while after its session is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing

from helios.coordinator.publisher import Publisher
from helios.model.codec import decode
from helios.ports.clock import Clock
from helios.ports.following import Update, updates
from helios.ports.records import SESSIONS, Record, SessionRecord
from helios.ports.store import Event

# For clocks that run apart a little, and what is under way. A router stops earlier by as much again.
MARGIN_S = 0.5


class Sessions:
    """Follows the sessions, to know until when one that is over may act where nobody can force it off.

    A session that has expired is over for its router, too, which stops before the store does. One that was revoked may
    not know it as long as its lease would have lasted; and what was revoked before this coordinator is not known.
    """

    def __init__(self, publisher: Publisher, clock: Clock, ttl_s: Callable[[], float]) -> None:
        self._publisher = publisher
        self._clock = clock
        self._began_s = clock.monotonic()
        self._ttl_s = ttl_s  # of earlier sessions
        self._known: dict[str, Record[SessionRecord]] = {}  # by key
        self._revision = 0
        self._changed = asyncio.Event()
        self._revoked: set[str] = set()
        self._over_s: dict[str, float] = {}  # by member: nothing of an ended session acts there after that
        self._revoked_over_s = 0.0  # nothing of a revoked session acts anywhere after that

    @property
    def present(self) -> dict[str, Record[SessionRecord]]:
        """The records of the sessions as far as they are known, by the sessions' ids."""
        return {record.value.id: record for record in self._known.values()}

    @property
    def revision(self) -> int:
        """Up to which revision of the store all is known of them."""
        return self._revision

    async def follow(self) -> None:
        """For ever. Raises StoreError."""
        async with aclosing(updates(self._publisher.store, SESSIONS)) as following:
            async for update in following:
                self._take(update)

    async def look(self) -> None:
        """Know what the store has now. Raises StoreError."""
        snapshot = await self._publisher.store.list(SESSIONS)
        events = tuple(Event(entry.key, entry.value, entry.version) for entry in snapshot.entries)
        self._take(Update(events, complete=True, revision=snapshot.revision))

    async def changed(self, timeout_s: float) -> bool:
        """Wait until something is different; False if nothing is in that time."""
        try:
            async with asyncio.timeout(timeout_s):
                return await self._changed.wait()
        except TimeoutError:
            return False

    def _take(self, update: Update) -> None:
        if update.revision <= self._revision and not (update.complete and update.revision == self._revision):
            return  # Who looked has come by before who follows.
        self._revision = update.revision
        if update.complete:
            for key in self._known.keys() - {event.key for event in update.events}:
                self._ended(key)
        for event in update.events:
            if event.value is None:
                self._ended(event.key)
            else:
                self._known[event.key] = Record(event.key, decode(SessionRecord, event.value), event.version)
        self._changed.set()
        self._changed = asyncio.Event()

    def revoking(self, session: str) -> None:
        """A session is about to be deleted by this coordinator, and not by its lease."""
        self._revoked.add(SESSIONS + session)

    def _ended(self, key: str) -> None:
        known = self._known.pop(key, None)
        if known is None:
            return
        record = known.value
        left_s = record.ttl_s if key in self._revoked else 0.0
        over_s = self._clock.monotonic() + left_s + MARGIN_S
        if key in self._revoked:
            self._revoked.discard(key)
            self._revoked_over_s = max(over_s, self._revoked_over_s)
        for member in record.as_default:
            self._over_s[member] = max(over_s, self._over_s.get(member, 0.0))

    def left_s(self, member_id: str, *, unknown: bool) -> float:
        """How long an ended session may still act on a member as its default user; 0 where none can.

        `unknown`: sessions that ended before this coordinator may have been there.
        """
        before_s = self._before_s if unknown else 0.0
        return max(0.0, max(before_s, self._over_s.get(member_id, 0.0)) - self._clock.monotonic())

    def revoked_left_s(self) -> float:
        """How long a session that was revoked may still act, by its lease, where its users have not been ended."""
        return max(0.0, max(self._before_s, self._revoked_over_s) - self._clock.monotonic())

    @property
    def _before_s(self) -> float:
        """Until when sessions may act that ended before this coordinator."""
        return self._began_s + self._ttl_s() + MARGIN_S
