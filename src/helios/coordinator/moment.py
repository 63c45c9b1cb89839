"""One moment for a copy of all shards: every command is held until each shard's copy has begun."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

from helios.coordinator.publisher import Publisher
from helios.coordinator.term_context import TermContext
from helios.errors import Conflict, EngineError, Unavailable
from helios.model.codec import decode
from helios.model.migration import Change, ChangeStatus
from helios.model.topology import Topology
from helios.ports.engine import Engine
from helios.ports.following import updates
from helios.ports.records import BACKUPS, CHANGES, BackupRecord, BackupStage, Record, put_record, read_record
from helios.ports.store import Compare, Delete

_OPEN_S = 60.0  # servers that save just now are waited for
_HELD_S = 3.0
_ANSWER_S = 0.5  # held commands are to be let go before they fail

_GIVEN_UP = "the router that was asked for the backup has given it up: nothing was copied, try again"

logger = logging.getLogger(__name__)


class Moment:
    """Goes with a router through the stages of a BackupRecord.

    A copy is of the moment if it began while nothing ran: the router says so by a compare-and-set of the record, and
    commands flow again only in a commit that compares it, too. So what is late counts for nothing.
    """

    def __init__(self, context: TermContext, change: Change) -> None:
        self._context = context
        self._publisher = context.publisher
        self._change = change
        self._key = BACKUPS + change.id
        self._fencing = context.fencing

    async def run(self) -> None:
        """Perform the change to its end. Raises EngineError, or Unavailable where there was no such moment."""
        try:
            leaders = _leaders(self._publisher.topology)  # before the router reads them
            await self._step(BackupStage.ASKED, BackupStage.OPENING)
            await self._reached(BackupStage.OPEN, _OPEN_S)
            pause_ms = await self._hold(leaders)
        except (EngineError, Unavailable):
            await self._publisher.write_apart([Delete(self._key)])
            raise
        logger.info("all shards held for a backup: change=%s pause_ms=%.0f", self._change.id, pause_ms)
        done = BackupRecord(self._change.id, BackupStage.DONE, pause_ms)
        ended = replace(self._change, status=ChangeStatus.DONE)
        await self._publisher.write([put_record(self._key, done), put_record(CHANGES + ended.id, ended)])

    async def _hold(self, leaders: list[tuple[object, ...]]) -> float:
        """Hold all commands until the copies have begun; for how many milliseconds that was."""
        clock = self._context.clock
        async with self._administrators() as administrators:
            began_s = clock.monotonic()
            held = await self._publisher.publish(lambda topology: replace(topology, still=self._change.id))
            try:
                async with asyncio.timeout(min(_HELD_S, self._context.settings.router.hold_timeout - _ANSWER_S)):
                    if not await self._fencing.acknowledged():
                        raise Unavailable(
                            "a router has commands that run for long, or does not answer: nothing was copied, try again"
                        )
                    await asyncio.gather(
                        *(self._fencing.settle(shard.leading, administrators[shard.id]) for shard in held.shards)
                    )
                    await self._step(BackupStage.OPEN, BackupStage.STILL)
                    await self._reached(BackupStage.BEGUN, _HELD_S)
            except TimeoutError:
                raise Unavailable(
                    "the copies of all shards did not begin within the time for which commands can be held: try again"
                ) from None
            finally:
                released = await release(self._publisher)
            pause_ms = (clock.monotonic() - began_s) * 1000
        if _leaders(released) != leaders or held.fenced_shards or released.fenced_shards:
            raise Unavailable("a shard changed its leader meanwhile: nothing was copied, try again")
        return pause_ms

    @asynccontextmanager
    async def _administrators(self) -> AsyncIterator[Mapping[str, asyncio.Future[Engine]]]:
        """Connections to every leader, opened before anybody waits for it."""
        shards = self._publisher.topology.shards
        opening = {shard.id: asyncio.ensure_future(self._context.access.administer(shard.leading)) for shard in shards}
        try:
            await asyncio.gather(*opening.values())
            yield opening
        finally:
            for task in opening.values():
                task.cancel()
            for engine in await asyncio.gather(*opening.values(), return_exceptions=True):
                if not isinstance(engine, BaseException):
                    await engine.close()

    async def _step(self, before: BackupStage, after: BackupStage) -> None:
        """Take the record from one stage to the next. Raises Unavailable where whoever asked has gone."""
        record = await read_record(self._publisher.store, BackupRecord, self._key)
        if record is None or record.value.stage is not before:
            raise Unavailable(_GIVEN_UP)
        step = put_record(self._key, replace(record.value, stage=after))
        try:
            await self._publisher.write([step], [Compare(self._key, record.version)])
        except Conflict:
            raise Unavailable(_GIVEN_UP) from None

    async def _reached(self, stage: BackupStage, timeout_s: float) -> None:
        """Return when the router has come to a stage. Raises Unavailable."""
        try:
            async with asyncio.timeout(timeout_s), aclosing(updates(self._publisher.store, self._key)) as following:
                async for update in following:
                    values = [event.value for event in update.events if event.key == self._key] or [None]
                    if values[-1] is None:
                        raise Unavailable(_GIVEN_UP)
                    if decode(BackupRecord, values[-1]).stage is stage:
                        return
        except TimeoutError:
            raise Unavailable(f"the router that takes the backup did not come so far within {timeout_s:g} s") from None


async def release(publisher: Publisher) -> Topology:
    """Let commands flow again, if they are held for a backup; the topology after that.

    What has not begun by now is not of the moment: its record goes in the same commit.
    """
    while publisher.topology.still:
        key = BACKUPS + publisher.topology.still
        record: Record[BackupRecord] | None = await read_record(publisher.store, BackupRecord, key)
        has_begun = record is not None and record.value.stage is BackupStage.BEGUN
        try:
            return await publisher.publish(
                lambda topology: replace(topology, still=""),
                [] if record is None or has_begun else [Delete(key)],
                [Compare(key, 0 if record is None else record.version)],
            )
        except Conflict:
            continue  # it has just begun
    return publisher.topology


def _leaders(topology: Topology) -> list[tuple[object, ...]]:
    return [(shard.id, shard.leading, shard.lineage) for shard in topology.shards]
