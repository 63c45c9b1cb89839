"""The scripts that clients may call by their SHA1, and which servers have them."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import aclosing, suppress
from hashlib import sha1
from weakref import WeakKeyDictionary

from helios.errors import Conflict
from helios.ports.following import lasting_updates
from helios.ports.records import SCRIPTS, SCRIPTS_FLUSHED
from helios.ports.store import MAX_OPERATIONS, Compare, Delete, Entry, Event, Put, Store
from helios.resp.wire import encode_command
from helios.router.frontend.caller import Waiter
from helios.router.upstream.link import ServerConnection

logger = logging.getLogger(__name__)
_RETRY_S = 0.2
# Of what SCRIPT LOAD was given: beyond these the oldest are forgotten. Of what EVAL was given, in this router alone.
MAX_SCRIPTS = 1000
MAX_BYTES = 8 * 1024 * 1024
LONGEST_BYTES = 512 * 1024  # longer ones are not remembered


def sha_of(body: bytes) -> bytes:
    """The name by which EVALSHA calls a script."""
    return sha1(body, usedforsecurity=False).hexdigest().encode()


class ScriptCache:
    """Remembers scripts so that a server which does not know one is told it right before the call.

    What SCRIPT LOAD was given is kept in the store, for all routers and for shards that join later; what EVAL was
    given is kept here, as long as there is room.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._loaded: dict[bytes, bytes] = {}
        self._seen: OrderedDict[bytes, bytes] = OrderedDict()
        self._seen_bytes = 0
        # What each connection has told its server, and which run of the server that was.
        self._told: WeakKeyDictionary[ServerConnection, tuple[bytes, set[bytes]]] = WeakKeyDictionary()
        self.ready = asyncio.Event()

    def body(self, sha: bytes) -> bytes | None:
        """The script of that name, if it is remembered."""
        return self._loaded.get(sha) or self._seen.get(sha)

    # --- calls ---

    def before(self, link: ServerConnection, argv: Sequence[bytes], waiter: Waiter) -> Waiter:
        """To be called before a script is called over a link; gives who is to take the reply.

        What EVAL brings is kept; an EVALSHA finds its script, which is loaded ahead of it on the same connection.
        """
        word = argv[0].lower()
        if word in (b"eval", b"eval_ro"):
            self._see(argv[1])
        elif word in (b"evalsha", b"evalsha_ro"):
            return self._tell(link, argv[1].lower(), waiter)
        return waiter

    def _see(self, body: bytes) -> None:
        if len(body) > LONGEST_BYTES:
            return
        sha = sha_of(body)
        if sha in self._seen:
            self._seen.move_to_end(sha)
            return
        self._seen[sha] = body
        self._seen_bytes += len(body)
        while len(self._seen) > MAX_SCRIPTS or self._seen_bytes > MAX_BYTES:
            self._seen_bytes -= len(self._seen.popitem(last=False)[1])

    def _tell(self, link: ServerConnection, sha: bytes, waiter: Waiter) -> Waiter:
        body = self.body(sha)
        if body is None:
            return waiter
        run_id, told = self._told.get(link, (b"", set()))
        if run_id != link.run_id or not run_id:
            run_id, told = self._told[link] = link.run_id, set()
        if sha not in told:
            told.add(sha)
            link.send(encode_command([b"SCRIPT", b"LOAD", body]), _Told(told, sha))
        return _Told(told, sha, waiter)

    # --- what SCRIPT LOAD and SCRIPT FLUSH do ---

    async def remember(self, body: bytes) -> bool:
        """Keep a script for good, in place of the oldest if there is no room; False if it is too long for that."""
        sha = sha_of(body)
        if len(body) > LONGEST_BYTES:
            return False
        if self._loaded.get(sha) is None:
            key = SCRIPTS + sha.decode()
            await self._store.commit([Put(key, body)])
            self._loaded[sha] = body
            await self._make_room()
        return True

    async def flush(self) -> None:
        """Forget every script, in all routers: from this very commit on earlier ones no longer count."""
        flushed = await self._store.commit([Put(SCRIPTS_FLUSHED, b"1")])
        self._forget()
        await self._delete([entry for entry in await self._entries() if entry.version < flushed])

    async def _make_room(self) -> None:
        """Delete the oldest scripts beyond what may be kept."""
        entries = sorted(await self._entries(), key=lambda entry: entry.version)
        size = sum(len(entry.value) for entry in entries)
        oldest: list[Entry] = []
        while len(entries) - len(oldest) > MAX_SCRIPTS or size > MAX_BYTES:
            size -= len(entries[len(oldest)].value)
            oldest.append(entries[len(oldest)])
        await self._delete(oldest)

    async def _entries(self) -> Sequence[Entry]:
        return (await self._store.list(SCRIPTS)).entries

    async def _delete(self, entries: Sequence[Entry]) -> None:
        """Delete these, but none that was loaded again meanwhile; whoever dies on the way leaves it to the next."""
        at_once = MAX_OPERATIONS // 2
        for start in range(0, len(entries), at_once):
            some = entries[start : start + at_once]
            with suppress(Conflict):
                await self._store.commit(
                    [Delete(entry.key) for entry in some],
                    compares=[Compare(entry.key, entry.version) for entry in some],
                )

    def _forget(self) -> None:
        self._loaded.clear()
        self._seen.clear()
        self._seen_bytes = 0
        self._told.clear()

    # --- the store ---

    async def follow(self) -> None:
        """Know what other routers remember and forget, until cancelled."""
        async with aclosing(lasting_updates(self._store, SCRIPTS.rstrip("/"), _RETRY_S)) as following:
            async for update in following:
                if update.complete:
                    self._forget()  # A flush may have been missed; a script too few is loaded again.
                self._learn(update.events)
                if update.complete:
                    self.ready.set()

    def _learn(self, events: Sequence[Event]) -> None:
        flushed = next((event.version for event in events if event.key == SCRIPTS_FLUSHED), 0)
        if flushed:
            self._forget()
        for event in events:
            if not event.key.startswith(SCRIPTS):
                continue
            if event.value is None:
                self._loaded.pop(_sha(event.key), None)
            elif event.version > flushed:
                self._loaded[_sha(event.key)] = event.value


def _sha(key: str) -> bytes:
    return key.removeprefix(SCRIPTS).encode()


class _Told:
    """Takes a server's reply to SCRIPT LOAD or EVALSHA: after an error it is not sure that it has the script."""

    __slots__ = ("_sha", "_told", "_waiter")

    def __init__(self, told: set[bytes], sha: bytes, waiter: Waiter | None = None) -> None:
        self._told = told
        self._sha = sha
        self._waiter = waiter

    def fill(self, reply: bytes) -> None:
        """Take the reply, and pass it on to who waits for it."""
        if self._waiter is None:
            if reply[:1] == b"-":
                self._told.discard(self._sha)
            return
        if reply.startswith(b"-NOSCRIPT"):
            self._told.discard(self._sha)
        self._waiter.fill(reply)
