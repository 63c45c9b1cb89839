"""Copies of all shards at one moment, on their way from the servers to whoever has asked for them.

The copies come as fast as they are read, and nothing of them is written here: a few megabytes of each are held, which
whoever reads can ask for again.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from contextlib import aclosing, suppress
from dataclasses import replace

from helios import __version__
from helios.admin.backup_views import BackupView, CopyPartView, ShardCopyView
from helios.admin.requests import Requests
from helios.admin.settings import DEFAULT, SharedSettings
from helios.errors import Conflict, EngineError, NotFound, Refused, Unavailable
from helios.model.backup import ClusterState
from helios.model.codec import decode, encode
from helios.model.migration import Change, ChangeKind, ChangeStatus
from helios.model.topology import Topology
from helios.ports.clock import Clock
from helios.ports.following import updates
from helios.ports.ids import new_id
from helios.ports.records import BACKUPS, USERS, BackupRecord, BackupStage, UsersRecord, put_record, read_record
from helios.ports.snapshots import Snapshot, Snapshots
from helios.ports.store import Compare, Delete, Store
from helios.ports.topologies import read_topology

logger = logging.getLogger(__name__)

KEPT_S = 300.0
"""For so long a backup waits for somebody to read on."""
_WINDOW_BYTES = 4 << 20
_PART_BYTES = 1 << 20
_WAIT_S = 1.0
_SIGN_OF_LIFE_S = 15.0  # a server ends a connection on which nothing was taken for a minute
_ATTEMPTS = 3
_AGAIN_S = 1.0


class ShardCopy:
    """One shard's copy on its way: what has come and may still be asked for, and the digest of all that came."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self._held = bytearray()
        self._start = 0  # where in the copy `_held` begins
        self._size = -1
        self._digest = hashlib.sha256()
        self._error: EngineError | None = None
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Let it come."""
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while data := await self.snapshot.read():
                self._held += data
                self._digest.update(data)
                self._notify()
                if len(self._held) >= _WINDOW_BYTES:
                    self._room.clear()
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_SIGN_OF_LIFE_S):
                            await self._room.wait()
            self._size = self._start + len(self._held)
        except EngineError as error:
            self._error = error
        finally:
            self._notify()
            await self.snapshot.close()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def read(self, offset: int) -> CopyPartView:
        """What there is from `offset` on; waits a second at most. Raises NotFound, or the error that has ended it."""
        if not self._start <= offset <= self._start + len(self._held):
            raise NotFound(f"byte {offset} of the copy is not here any more: take the backup anew")
        del self._held[: offset - self._start]
        self._start = offset
        if len(self._held) < _WINDOW_BYTES:
            self._room.set()
        if not self._held and self._size < 0 and self._error is None:
            changed = self._changed
            with suppress(TimeoutError):
                async with asyncio.timeout(_WAIT_S):
                    await changed.wait()
        if not self._held and self._error is not None:
            raise self._error
        data = bytes(self._held[:_PART_BYTES])
        if self._size == offset + len(data):
            return CopyPartView(data, self._size, self._digest.hexdigest())
        return CopyPartView(data)

    async def close(self) -> None:
        """Let go of it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        await self.snapshot.close()


class Backups:
    """The backups that this process takes."""

    def __init__(
        self, store: Store, snapshots: Snapshots | None, clock: Clock, requests: Requests, shared: SharedSettings
    ) -> None:
        self._store = store
        self._snapshots = snapshots
        self._clock = clock
        self._requests = requests
        self._shared = shared
        self._held: dict[str, dict[str, ShardCopy]] = {}
        self._ends: dict[str, asyncio.TimerHandle] = {}
        self._ending: set[asyncio.Task[bool]] = set()

    async def take(self) -> BackupView:
        """Begin one. Raises Refused, or Unavailable where there was no moment at which all copies could begin."""
        if self._snapshots is None:
            raise Refused("this process takes no backups: ask a node")
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return await self._attempt(self._snapshots, new_id(self._clock))
            except Unavailable as error:
                if attempt == _ATTEMPTS:
                    raise
                logger.info("backup tried again: reason=%s", error)
            await asyncio.sleep(_AGAIN_S)
        raise AssertionError("the last attempt returns or raises")

    async def _attempt(self, snapshots: Snapshots, backup_id: str) -> BackupView:
        key = BACKUPS + backup_id
        await self._store.commit(
            [put_record(key, BackupRecord(backup_id, BackupStage.ASKED))], compares=[Compare(key, 0)]
        )
        copies: dict[str, ShardCopy] = {}
        try:
            await self._requests.submit(Change(backup_id, ChangeKind.BACKUP))
            await self._reached(backup_id, BackupStage.OPENING)
            topology = await read_topology(self._store)
            await self._open(snapshots, topology, copies)
            await self._step(backup_id, BackupStage.OPENING, BackupStage.OPEN)
            await self._reached(backup_id, BackupStage.STILL)
            await asyncio.gather(*(copy.snapshot.begin() for copy in copies.values()))
            await self._step(backup_id, BackupStage.STILL, BackupStage.BEGUN)
            # Servers are read at once, and not when the commands flow: their children write already.
            for copy in copies.values():
                copy.start()
            done = await self._reached(backup_id, BackupStage.DONE)
            view = await self._view(backup_id, done.pause_ms, topology, copies)
        except BaseException as error:
            await asyncio.gather(*(copy.close() for copy in copies.values()))
            if isinstance(error, EngineError):
                raise Unavailable(f"no backup was begun: {error}") from error
            raise
        finally:
            await self._store.commit([Delete(key)])
        self._held[backup_id] = copies
        self._read_now(backup_id)
        return view

    async def _open(self, snapshots: Snapshots, topology: Topology, copies: dict[str, ShardCopy]) -> None:
        async def opened(shard: str) -> None:
            found = topology.shard(shard)
            assert found is not None, "it is one of them"
            copies[shard] = ShardCopy(await snapshots.open(found.leading))

        found = await asyncio.gather(*(opened(shard.id) for shard in topology.shards), return_exceptions=True)
        for error in found:
            if error is not None:
                raise error

    async def _view(
        self, backup_id: str, pause_ms: float, topology: Topology, copies: dict[str, ShardCopy]
    ) -> BackupView:
        users = await read_record(self._store, UsersRecord, USERS)
        settings = {view.name: view.value for view in await self._shared.views() if view.origin != DEFAULT}
        state = ClusterState(topology, settings, () if users is None else users.value.users)
        return BackupView(
            id=backup_id,
            taken_at=self._clock.wall(),
            pause_ms=pause_ms,
            version=__version__,
            cluster=encode(state).decode(),
            shards=tuple(ShardCopyView(shard, copies[shard].snapshot.server) for shard in sorted(copies)),
        )

    # The stages

    async def _step(self, backup_id: str, before: BackupStage, after: BackupStage) -> None:
        """Raises Unavailable where the coordinator has given the moment up."""
        key = BACKUPS + backup_id
        record = await read_record(self._store, BackupRecord, key)
        if record is None or record.value.stage is not before:
            raise Unavailable(await self._why(backup_id))
        try:
            await self._store.commit(
                [put_record(key, replace(record.value, stage=after))], compares=[Compare(key, record.version)]
            )
        except Conflict:
            raise Unavailable(await self._why(backup_id)) from None

    async def _reached(self, backup_id: str, stage: BackupStage) -> BackupRecord:
        """The record when the coordinator has come to a stage. Raises Unavailable where it has given up."""
        key = BACKUPS + backup_id
        async with aclosing(updates(self._store, key)) as following:
            async for update in following:
                values = [event.value for event in update.events if event.key == key] or [None]
                if values[-1] is None:
                    raise Unavailable(await self._why(backup_id))
                record = decode(BackupRecord, values[-1])
                if record.stage is stage:
                    return record
        raise Unavailable("the store was closed while a backup was begun")

    async def _why(self, backup_id: str) -> str:
        with suppress(NotFound):
            change = await self._requests.seen(backup_id, _WAIT_S)
            if change.status is not ChangeStatus.DONE and change.error:
                return change.error
        return "the coordinator has given the backup up: try again"

    # What has begun

    async def read(self, backup_id: str, shard: str, offset: int) -> CopyPartView:
        """What a shard's copy has from `offset` on. Raises NotFound, or the error that has ended the copy."""
        copies = self._held.get(backup_id)
        if copies is None:
            raise NotFound(f"there is no backup {backup_id} here any more: take it anew")
        if shard not in copies:
            raise NotFound(f"the backup {backup_id} has no shard {shard!r}: it has {', '.join(sorted(copies))}")
        self._read_now(backup_id)
        try:
            return await copies[shard].read(offset)
        except EngineError:
            await self.end(backup_id)  # it will never be whole: whoever asks again is to take another
            raise

    async def end(self, backup_id: str) -> bool:
        """Let go of it; whether it was there."""
        timer = self._ends.pop(backup_id, None)
        if timer is not None:
            timer.cancel()
        copies = self._held.pop(backup_id, {})
        await asyncio.gather(*(copy.close() for copy in copies.values()))
        return bool(copies)

    def _read_now(self, backup_id: str) -> None:
        """It is read: from now on it is kept for a while once more."""
        former = self._ends.get(backup_id)
        if former is not None:
            former.cancel()
        self._ends[backup_id] = asyncio.get_running_loop().call_later(KEPT_S, self._forget, backup_id)

    def _forget(self, backup_id: str) -> None:
        logger.info("backup let go, since nobody reads it: backup=%s", backup_id)
        task = asyncio.ensure_future(self.end(backup_id))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
