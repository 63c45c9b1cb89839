"""Finding the scripts that write keys of other shards.

Which keys a script will write nobody can tell before it runs, and a server answers nothing of them. So a server on
which scripts run is listened to for a moment, by the stream of changed keys that moves use, again and again. A changed
key that the shard does not own was written by a script of that moment: by one in whose text a part of its name stands,
or else by any that this router has sent. What scripts have left before is looked for where the server has few keys,
and by their text alone. Commands never wait for any of this.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from hashlib import sha1
from itertools import compress
from typing import Protocol

from helios.errors import HeliosError
from helios.model.topology import Member, Topology
from helios.placement.routing import Routes
from helios.ports.clock import Clock
from helios.ports.engine import Engine
from helios.ports.records import STRAY_SCRIPTS, StrayScript, list_records, put_record
from helios.ports.store import Delete, Put, Store
from helios.router.options import RouterOptions
from helios.router.script_cache import ScriptCache, sha_of

logger = logging.getLogger(__name__)

WRITING_CALLS = frozenset((b"eval", b"evalsha", b"fcall"))
_MOMENT_S = 0.1
_REST_S, _LONGEST_REST_S = 2.0, 60.0
_FEW_KEYS = 20_000
_STEP = 500
_REMEMBERED = 200  # scripts, by shard and in all
_KEPT = 100  # in the store
_LITERAL = re.compile(rb"'([^'\n]{2,})'|\"([^\"\n]{2,})\"")


class Host(Protocol):
    """What is to be known of the router around."""

    clock: Clock
    options: RouterOptions
    topology: Topology
    routes: Routes | None
    unclean: frozenset[str]
    script_cache: ScriptCache

    async def administer(self, member: Member) -> Engine:
        """A connection to a member with the rights of an administrator; the caller closes it. Raises HeliosError."""


def name_of(argv: Sequence[bytes]) -> str:
    """How people call the script or function that a command runs."""
    word = argv[0].lower()
    if word == b"fcall":
        return "function " + argv[1].decode(errors="backslashreplace")[:200]
    return (sha_of(argv[1]) if word == b"eval" else argv[1].lower()).decode(errors="backslashreplace")[:200]


def suspects(key: bytes, scripts: Collection[str], body: Callable[[str], bytes | None]) -> list[str]:
    """Those of the scripts in whose text a part of the key's name stands."""
    bodies = ((script, body(script) or b"") for script in scripts)
    return [script for script, text in bodies if any(part in key for part in _literals(text))]


def _literals(text: bytes) -> Iterable[bytes]:
    # Names of commands are no parts of keys.
    return (one or other for one, other in _LITERAL.findall(text) if not (one or other).isupper())


class StrayScripts:
    """The scripts that this router has sent, and those of them that were found to write keys of other shards."""

    def __init__(self, router: Host, store: Store) -> None:
        self._router = router
        self._store = store
        self._ran: dict[str, dict[str, None]] = {}  # by shard, since it was last listened to
        self._known: dict[tuple[str, str], None] = {}  # scripts by shard that were listened to before
        self.found: dict[str, float] = {}  # when each was last written down
        self._wake = asyncio.Event()

    def ran(self, shard: str, argv: Sequence[bytes]) -> None:
        """A shard is sent a command that calls a script or function."""
        if argv[0].lower() in WRITING_CALLS:
            scripts = self._ran.setdefault(shard, {})
            if len(scripts) < _REMEMBERED:
                scripts[name_of(argv)] = None
            self._wake.set()

    async def run(self) -> None:
        """Listen to the servers on which scripts run, until cancelled."""
        rest_s = _REST_S
        while self._router.options.watches_scripts:
            await self._wake.wait()
            self._wake.clear()
            news = False
            for shard in list(self._ran):
                try:
                    news = await self._listen(shard) or news
                except HeliosError as error:
                    logger.info("scripts not watched: shard=%s error=%s", shard, error)
            rest_s = _REST_S if news else min(2 * rest_s, _LONGEST_REST_S)
            await asyncio.sleep(rest_s)

    async def _listen(self, shard: str) -> bool:
        """Listen to one server for a moment; whether there was anything new."""
        earlier = self._ran.pop(shard, {})
        routes, place = self._router.routes, self._router.topology.shard(shard)
        if routes is None or place is None or shard in self._router.unclean:
            return True  # what a move has left there is no script's
        engine = await self._router.administer(place.leading)
        try:
            stream = await engine.changes()
            try:
                fresh = [script for script in earlier if (script, shard) not in self._known]
                left = await _strays_among_few(engine, routes, shard) if fresh else []
                await asyncio.sleep(_MOMENT_S)
                changed = await stream.barrier()
                written = [key async for key in _strays(changed, routes, shard)]
                # Copies that a command borrows are named too, and gone by now.
                there = await engine.exists(written)
            finally:
                await stream.close()
        finally:
            await engine.close()
        if self._router.routes is not routes:
            return True
        during = list(self._ran.get(shard, {}))
        self._remember(shard, earlier)
        found: dict[str, bytes] = {}
        for key in left:  # Who knows how long it has been there?
            found |= dict.fromkeys(suspects(key, earlier, self._body), key)
        for key in compress(written, there):
            found |= dict.fromkeys(suspects(key, [*during, *earlier], self._body) or during, key)
        for script, key in found.items():
            await self._found(script, shard, key, routes.owner(key))
        return bool(fresh or found)

    def _remember(self, shard: str, scripts: Iterable[str]) -> None:
        for script in scripts:
            self._known[script, shard] = None
        while len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]

    def _body(self, script: str) -> bytes | None:
        return self._router.script_cache.body(script.encode())

    async def _found(self, script: str, shard: str, key: bytes, owner: str) -> None:
        """Say so once, and write it down for all to read, from time to time."""
        now = self._router.clock.wall()
        written = self.found.get(script)
        if written is not None and now - written < _LONGEST_REST_S:
            return
        if written is None:
            if len(self.found) >= _REMEMBERED:
                del self.found[next(iter(self.found))]
            logger.warning(
                "a script seems to write keys of another node: script=%s node=%s owner=%s; nobody can read them, "
                "declare them in KEYS; `helios-cli check` names one",
                script,
                shard,
                owner,
            )
        self.found[script] = now
        record = StrayScript(script, shard, key.decode(errors="backslashreplace")[:200], owner, now)
        others = sorted(await list_records(self._store, StrayScript, STRAY_SCRIPTS), key=lambda one: one.value.seen_at)
        operations: list[Put | Delete] = [put_record(record_key(script), record)]
        operations += [
            Delete(one.key) for one in others[: max(len(others) + 1 - _KEPT, 0)] if one.value.script != script
        ]
        await self._store.commit(operations)


def record_key(script: str) -> str:
    """Where the store keeps what is known of a script."""
    return STRAY_SCRIPTS + sha1(script.encode(), usedforsecurity=False).hexdigest()


async def _strays_among_few(engine: Engine, routes: Routes, shard: str) -> list[bytes]:
    """The keys of a server with few of them that its shard does not own."""
    if await engine.count() > _FEW_KEYS:
        return []
    found: list[bytes] = []
    cursor = 0
    while True:
        cursor, keys = await engine.scan(cursor, _STEP)
        found += [key for key in keys if routes.owner(key) != shard]
        if cursor == 0:
            return found


async def _strays(keys: Iterable[bytes], routes: Routes, shard: str) -> AsyncIterator[bytes]:
    for number, key in enumerate(keys):
        if number % _STEP == 0:
            await asyncio.sleep(0)
        if routes.owner(key) != shard:
            yield key
