"""Handing requests to the coordinator and waiting for its answers."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import replace

from helios.errors import (
    Conflict,
    HeliosError,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    Refused,
    StoreError,
    Unavailable,
)
from helios.model.codec import decode
from helios.model.migration import Change, ChangeStatus
from helios.ports.clock import Clock
from helios.ports.records import CHANGES, put_record, read_record
from helios.ports.store import Compare, Delete, Store

_ANSWER_TIMEOUT_S = 8.0
_REPAIR_TIMEOUT_S = 300.0
_REFUSALS: dict[str, type[HeliosError]] = {
    error.code: error for error in (InvalidInput, NotFound, Refused, Unavailable)
}


class Requests:
    """Changes on their way to the coordinator, by the store."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def submit(self, change: Change) -> Change:
        """Hand a request to the coordinator and wait until it has been admitted.

        Raises what it was refused for, Unavailable where nobody answers, OutcomeUnknown where an answer is under way.
        """
        change = replace(change, requested_at=self._clock.wall())
        key = CHANGES + change.id
        revision = await self._store.commit([put_record(key, change)], compares=[Compare(key, 0)])
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                answered = await self._answered(key, revision)
        except TimeoutError:
            answered = await self._withdraw(key, revision)
        if answered.status is ChangeStatus.REFUSED:
            code, _, sentence = (answered.error or "").partition(" ")
            raise _REFUSALS.get(code, Refused)(sentence)
        return answered

    async def _answered(self, key: str, revision: int) -> Change:
        async with aclosing(self._store.watch(key, revision)) as watch:
            async for events in watch:
                for event in events:
                    if event.key == key and event.value is not None:
                        change = decode(Change, event.value)
                        if change.status is not ChangeStatus.SUBMITTED:
                            return change
        raise StoreError("the store was closed while a request was waiting for its answer")

    async def _withdraw(self, key: str, version: int) -> Change:
        """Take an unanswered request back, unless it is being answered just now."""
        try:
            await self._store.commit([Delete(key)], compares=[Compare(key, version)])
        except Conflict:
            record = await read_record(self._store, Change, key)
            if record is None:
                raise Unavailable("the request was lost") from None
            if record.value.status is ChangeStatus.SUBMITTED:
                raise OutcomeUnknown(
                    f"the request {record.value.id} is being carried out and has no answer yet: changestatus tells "
                    "what becomes of it"
                ) from None
            return record.value
        raise Unavailable(
            "no coordinator answered: the request was withdrawn and nothing was changed; "
            "see whether the nodes' agents run, then try again"
        )

    async def outcome(self, change_id: str) -> str:
        """What a change has done, when it has ended."""
        snapshot = await self._store.list(CHANGES + change_id)
        try:
            async with asyncio.timeout(_REPAIR_TIMEOUT_S):
                for entry in snapshot.entries:
                    change = decode(Change, entry.value)
                    if change.id == change_id and not change.status.ended:
                        change = await self._change_ended(change_id, snapshot.revision)
                    return change.error or change.outcome
        except TimeoutError:
            raise Unavailable(f"the repair waits for {_REPAIR_TIMEOUT_S:g} s already; it will still be done") from None
        raise NotFound(f"the request {change_id} is gone")

    async def _change_ended(self, change_id: str, revision: int) -> Change:
        async with aclosing(self._store.watch(CHANGES + change_id, revision)) as watch:
            async for events in watch:
                for event in events:
                    if event.value is not None and decode(Change, event.value).status.ended:
                        return decode(Change, event.value)
        raise StoreError("the store was closed while a request was waiting for its end")
