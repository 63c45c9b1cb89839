"""Handing requests to the coordinator and waiting for its answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
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
        async with aclosing(self._states(key, revision)) as states:
            async for change in states:
                if change.status is not ChangeStatus.SUBMITTED:
                    return change
        raise AssertionError("states end by an error")

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

    async def seen(self, change_id: str, wait_s: float) -> Change:
        """The request as soon as it has ended, or as it stands after `wait_s`. Raises NotFound."""
        key = CHANGES + change_id
        snapshot = await self._store.list(key)
        values = [entry.value for entry in snapshot.entries if entry.key == key]
        if not values:
            raise NotFound(f"there is no request {change_id!r}, or it has ended and was cleaned up")
        change = decode(Change, values[0])
        if wait_s and not change.status.ended:
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s), aclosing(self._states(key, snapshot.revision)) as states:
                    async for change in states:
                        if change.status.ended:
                            break
        return change

    async def outcome(self, change_id: str) -> str:
        """What a change has done, when it has ended."""
        change = await self.seen(change_id, _REPAIR_TIMEOUT_S)
        if not change.status.ended:
            raise Unavailable(f"the repair waits for {_REPAIR_TIMEOUT_S:g} s already; it will still be done")
        return change.error or change.outcome

    async def _states(self, key: str, revision: int) -> AsyncGenerator[Change, None]:
        """What a request becomes after that revision, state by state. Raises StoreError."""
        async with aclosing(self._store.watch(key, revision)) as watch:
            async for events in watch:
                for event in events:
                    if event.key == key and event.value is not None:
                        yield decode(Change, event.value)
        raise StoreError("the store was closed while a request was waited for")
