"""The store in one SQLite file, shared by all processes of one machine."""

from __future__ import annotations

import asyncio
import math
import sqlite3
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

from helios.errors import StoreError
from helios.ports.clock import Clock
from helios.ports.store import Compare, Delete, Entry, Event, Put, Snapshot
from helios.stores.change_notifier import ChangeNotifier
from helios.stores.sqlite_file import SqliteFile
from helios.stores.watching import check_commit, check_ttl

P = ParamSpec("P")
T = TypeVar("T")

# Beside the notifier, which tells of all commits but those of a process that died just then. Who commits more often
# than that looks then, and need not wake up for it.
_LOOK_EVERY_S = 2.5
_LOOK_WITHOUT_BELL_EVERY_S = 0.02
_EXPIRE_EVERY_S = 0.25  # at most: several processes may try at once, and a disk may be full
_SOON_S = 0.005
_SLEPT_OVER = 8  # the part of the kept commits that a watch may sleep over: one that reads later loses some


class SqliteStore:
    """A `ports.store.Store` for the processes of one machine. Make it with `open`; it belongs to one event loop.

    A commit is on the disk when it returns. SQL runs in one thread per handle, in the order of the calls, and the
    renewal of leases in another, so that it waits for nothing that is read; a call that is cancelled may still be
    carried out, wholly. While there are watches, other processes' commits are noticed at once (after 20 ms where there
    is no inotify, and after 2.5 s where the process died right behind its commit), and a lease that was
    there at the last look ends in time.
    """

    def __init__(
        self, file: SqliteFile, eye: sqlite3.Connection, thread: ThreadPoolExecutor, *, expires: bool = True
    ) -> None:
        self._file = file
        self._eye = eye  # The loop's own connection; it looks at a number in shared memory and never waits.
        self._change_notifier = _listen(file.path)
        self._loop = asyncio.get_running_loop()
        if self._change_notifier is not None:
            self._loop.add_reader(self._change_notifier.fd, self._on_bell, self._change_notifier)
        self._thread = thread
        self._renewing = ThreadPoolExecutor(1, thread_name_prefix="leases")
        self._waiting: dict[
            asyncio.Future[None], tuple[str, int]
        ] = {}  # watches: their prefix, and what they have read
        self._known = 0  # the revision at the last glance
        self._due_s = math.inf  # in how long the first lease ended then
        self._timer: asyncio.TimerHandle | None = None
        self._expires = expires
        self._expire_at = 0.0
        self._expiring: asyncio.Future[None] | None = None
        self._closing: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock | None = None,
        keep_commits: int = 2_000,
        busy_timeout_s: float = 5.0,
        expires: bool = True,
        before_commit: Callable[[], None] | None = None,
    ) -> SqliteStore:
        """Open the file, making it (mode 0600) where it does not exist; its folder must.

        Watches can begin up to `keep_commits` commits back. A commit that does not get the write lock in
        `busy_timeout_s` fails. Without `expires` this handle leaves it to others to end expired leases, and so writes
        only what it is told to. For tests: `clock`, as all processes must see the same time; `before_commit` is called
        inside each transaction that writes, when everything but its end is done.
        """
        monotonic = time.monotonic if clock is None else clock.monotonic
        thread = ThreadPoolExecutor(1, thread_name_prefix="store")

        def opened() -> tuple[SqliteFile, sqlite3.Connection]:
            file = SqliteFile(
                path,
                monotonic=monotonic,
                keep_commits=keep_commits,
                busy_timeout_s=busy_timeout_s,
                before_commit=before_commit,
            )
            try:
                return file, file.watcher()
            except BaseException:
                file.close()
                raise

        opening = thread.submit(opened)
        try:
            file, eye = await asyncio.wrap_future(opening)
        except BaseException:
            thread.submit(_close_unwanted, opening)
            # Whoever has cancelled this may delete the folder next, and would find the file made again behind its back.
            await asyncio.to_thread(thread.shutdown)
            raise
        return cls(file, eye, thread, expires=expires)

    async def get(self, key: str) -> Entry | None:
        """The entry of `key`, or None."""
        return await self._run(self._file.get, key)

    async def list(self, prefix: str) -> Snapshot:
        """All entries whose keys begin with `prefix`."""
        return await self._run(self._file.snapshot, prefix)

    async def commit(self, operations: Sequence[Put | Delete], *, compares: Sequence[Compare] = ()) -> int:
        """Do all operations as one, durably, and give the revision they got, or the present one if nothing changed."""
        check_commit(operations, compares)
        revision = await self._run(self._file.commit, tuple(operations), tuple(compares))
        self._glance()
        return revision

    def watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Event, ...], None]:
        """Every change under `prefix` with a revision greater than `after`, in order, as they come.

        Holds nothing while its reader is busy with what it was given.
        """
        self._check_open()
        return self._watch(prefix, after)

    async def _watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Event, ...], None]:
        with self._following(prefix):
            while not self._ended():
                commits, after = await self._run(self._file.events_after, prefix, after)
                for events in commits:
                    if self._ended():
                        return
                    yield events
                if not self._ended() and after >= self._known:
                    self._keep_looking()
                    await self._change(prefix, after)

    @contextmanager
    def _following(self, prefix: str) -> Iterator[None]:
        """Inside, commits that change something under the prefix are heard of."""
        notifier = self._change_notifier
        if notifier is None or self._ended():
            yield
            return
        try:
            notifier.follow(prefix)
        except OSError as error:
            raise StoreError(f"changes in the store file {self._file.path} cannot be followed: {error}") from error
        try:
            yield
        finally:
            notifier.unfollow(prefix)

    async def _change(self, prefix: str, after: int) -> None:
        """Return when something under the prefix may have changed since the revision `after`."""
        changed = self._loop.create_future()
        self._waiting[changed] = prefix, after
        try:
            await changed
        finally:
            del self._waiting[changed]

    def _wake(self, changed: Collection[str] | None = None) -> None:
        """Wake the watches whom these keys concern, or all; and those who have slept over many commits."""
        for watch, (prefix, after) in self._waiting.items():
            concerned = changed is None or any(key.startswith(prefix) for key in changed)
            if not watch.done() and (concerned or self._known - after > self._file.keep_commits // _SLEPT_OVER):
                watch.set_result(None)

    async def grant(self, ttl_s: float) -> str:
        """A new lease that lives for `ttl_s` seconds unless kept alive."""
        check_ttl(ttl_s)
        return await self._run(self._file.grant, ttl_s)

    async def keep_alive(self, lease: str) -> None:
        """Extend the lease to its full time from now; raises LeaseLost if it is gone."""
        self._check_open()
        await asyncio.wrap_future(self._renewing.submit(self._file.keep_alive, lease))

    async def revoke(self, lease: str) -> None:
        """End the lease and delete what is bound to it; nothing happens if it is gone."""
        await self._run(self._file.revoke, lease)
        self._glance()

    async def compact(self, revision: int) -> None:
        """Does nothing: of what was changed the last commits are kept in any case, and none before."""
        self._check_open()

    async def close(self) -> None:
        """Let go of the file once the calls that were made are done; running watches end."""
        if self._closing is None:
            if self._timer is not None:
                self._timer.cancel()
            if self._change_notifier is not None:
                self._loop.remove_reader(self._change_notifier.fd)
                self._change_notifier.close()
            self._closing = asyncio.wrap_future(self._thread.submit(self._close_all))
            self._thread.shutdown(wait=False)
            self._wake()
        await asyncio.shield(self._closing)

    def _close_all(self) -> None:
        self._renewing.shutdown()
        _close_both(self._file, self._eye)

    async def _run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        self._check_open()
        return await asyncio.wrap_future(self._thread.submit(job, *args, **kwargs))

    def _ended(self) -> bool:
        return self._closing is not None

    def _check_open(self) -> None:
        if self._closing is not None:
            raise StoreError(f"this handle of the store file {self._file.path} is closed; open another")

    def _keep_looking(self) -> None:
        if self._timer is None:
            wait_s = _LOOK_WITHOUT_BELL_EVERY_S if self._change_notifier is None else _LOOK_EVERY_S
            if self._expires:
                # A lease that has ended already is being seen to, perhaps in vain.
                wait_s = min(wait_s, max(self._due_s, _SOON_S) if self._due_s > 0 else _EXPIRE_EVERY_S)
            self._timer = self._loop.call_later(wait_s, self._look)

    def _on_bell(self, change_notifier: ChangeNotifier) -> None:
        change_notifier.heard()
        self._glance()

    def _glance(self) -> None:
        """Wake the watches whom new commits concern, and note when the first lease ends."""
        if self._ended():
            return
        self._due_s = math.inf
        try:
            seen = self._file.glance(self._eye, self._known)
        except StoreError:
            # Whatever it is (a moment's lock, a lost file), those who watch find out when they read.
            self._wake()
            return
        self._due_s = seen.due_s
        if self._timer is not None and self._due_s > 0:
            self._timer.cancel()
            self._timer = None
            self._keep_looking()
        if seen.revision != self._known:
            self._known = seen.revision
            self._wake(seen.changed)

    def _look(self) -> None:
        """Wake the watches if any process has committed; see to expired leases; stop when nobody waits."""
        self._timer = None
        if self._ended() or not self._waiting:
            return
        self._glance()
        if self._due_s <= 0 and self._expires and self._loop.time() >= self._expire_at and self._expiring is None:
            self._expire_at = self._loop.time() + _EXPIRE_EVERY_S
            self._expiring = asyncio.wrap_future(self._thread.submit(self._file.expire))
            self._expiring.add_done_callback(self._expired)
        self._keep_looking()

    def _expired(self, done: asyncio.Future[None]) -> None:
        self._expiring = None
        if not done.cancelled() and done.exception() is not None:
            # Those who watch read again and so find out themselves whether the file is in order.
            self._wake()


def _listen(path: Path) -> ChangeNotifier | None:
    try:
        return ChangeNotifier(path)
    except OSError:
        return None


def _close_both(file: SqliteFile, eye: sqlite3.Connection) -> None:
    try:
        eye.close()
    finally:
        file.close()


def _close_unwanted(opening: Future[tuple[SqliteFile, sqlite3.Connection]]) -> None:
    """Close what was opened for a caller who has gone."""
    if not opening.cancelled() and opening.exception() is None:
        _close_both(*opening.result())
