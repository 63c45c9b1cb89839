"""One connection to a shard's leader on which the server names every key that changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from helios.model.topology import Member
from helios.ports.engine import QUIET_CHANNEL
from helios.resp.wire import elements
from helios.router.options import RouterOptions
from helios.router.upstream.connection import Identities, Wire, greeted, in_time
from helios.router.upstream.listening import ListeningLink, bulk_of
from helios.router.upstream.state import ConnectionState

_INVALIDATE = b">2\r\n$10\r\ninvalidate\r\n"
# Names that take longer to read than others should wait: then everything counts as changed.
_MAX_NAMES_BYTES = 256 * 1024


class Told(Protocol):
    """The router's side of the connections: who is told of changes."""

    def changed(self, shard: str, keys: Sequence[bytes]) -> None:
        """A server has changed these keys."""

    def anything_changed(self) -> None:
        """A server may have changed any key."""


class InvalidationLink(ListeningLink):
    """Hears of every change at one server. Where it may have missed one, anything counts as changed."""

    def __init__(self, shard: str, member: Member, host: Told, identities: Identities, options: RouterOptions) -> None:
        self._host = host
        self.decided = asyncio.Event()  # set when the first attempt to connect has ended
        super().__init__(shard, member, identities, options, "changes")

    @property
    def hears(self) -> bool:
        """Whether no change goes unheard."""
        return self.state is ConnectionState.READY

    async def _open(self) -> Wire:
        # A server bounds what waits for a subscriber, and for others it does not: a router that is stopped must not
        # fill its memory with names.
        async with in_time(self._options):
            wire, _ = await greeted(
                self.member,
                self._identities,
                self._options,
                3,
                [b"SUBSCRIBE", QUIET_CHANNEL],
                [b"CLIENT", b"TRACKING", b"ON", b"BCAST"],
            )
        return wire

    async def _begin(self, wire: Wire) -> None:
        self.decided.set()
        self._host.anything_changed()

    def _failed(self) -> None:
        self.decided.set()

    def _lost(self) -> None:
        self.decided.set()
        self._host.anything_changed()

    def _pushed(self, frame: bytes) -> None:
        if not frame.startswith(_INVALIDATE):
            return
        names = elements(frame)[1]
        if names[:1] == b"_" or len(names) > _MAX_NAMES_BYTES:
            self._host.anything_changed()
        else:
            self._host.changed(self.shard, [bulk_of(name) for name in elements(names)])
