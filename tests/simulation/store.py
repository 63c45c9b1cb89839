"""A process's handle of the store: it takes time, fails, and answers are lost. See `etcd` for its other kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from random import Random
from typing import Any, TypeVar

from tests.simulation.loop import SimLoop

from helios.errors import HeliosError, StoreError, WatchLost
from helios.ports.store import Compare, Delete, Entry, Event, Put, Snapshot
from helios.stores.memory import MemoryStore

T = TypeVar("T")
_SILENT_S = 1.0
_LOOK_AGAIN_S = 0.05

OnCommit = Callable[[Sequence[Put | Delete], int], None]


class SimStore:
    """A `ports.store.Store` over a MemoryStore. While `cut` is set nothing passes: neither requests nor answers.

    What was asked is carried out by the world outside: also for a process that is frozen or killed meanwhile.
    """

    timeout_s = 1.0

    def __init__(self, inner: MemoryStore, loop: SimLoop, random: Random, late: float, on_commit: OnCommit) -> None:
        self.cut = False
        self.loss = 0.0  # how often a request or its answer is lost
        self.late = late  # how often it takes long
        self.very_late = 0.0  # how often it takes longer than anybody waits
        self.forgets = False  # whether watches learn of no change but that they have missed some
        self._inner = inner
        self._loop = loop
        self._random = random
        self._on_commit = on_commit

    async def get(self, key: str) -> Entry | None:
        return await self._ask(lambda: self._inner.get(key))

    async def list(self, prefix: str) -> Snapshot:
        return await self._ask(lambda: self._inner.list(prefix))

    async def commit(self, operations: Sequence[Put | Delete], *, compares: Sequence[Compare] = ()) -> int:
        return await self._ask(lambda: self._commit(operations, compares))

    async def grant(self, ttl_s: float) -> str:
        return await self._ask(lambda: self._inner.grant(ttl_s))

    async def keep_alive(self, lease: str) -> None:
        await self._ask(lambda: self._inner.keep_alive(lease))

    async def revoke(self, lease: str) -> None:
        await self._ask(lambda: self._inner.revoke(lease))

    async def compact(self, revision: int) -> None:
        await self._ask(lambda: self._inner.compact(revision))

    def watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Event, ...], None]:
        return self._watch(prefix, after)

    async def close(self) -> None:
        await self._inner.close()

    async def _watch(self, prefix: str, after: int) -> AsyncGenerator[tuple[Event, ...], None]:
        async with aclosing(self._inner.watch(prefix, after)) as watch:
            async for events in watch:
                await asyncio.sleep(self._delay_s())
                silent_s = 0.0
                while self.cut:
                    await asyncio.sleep(_LOOK_AGAIN_S)
                    silent_s += _LOOK_AGAIN_S
                    if silent_s > _SILENT_S and self._random.random() < 0.05:
                        raise StoreError("a watch was lost: the store does not answer")
                if self.forgets:
                    raise WatchLost(f"the changes since {after} are no longer known")
                yield events

    async def _commit(self, operations: Sequence[Put | Delete], compares: Sequence[Compare]) -> int:
        revision = await self._inner.commit(operations, compares=compares)
        self._on_commit(operations, revision)
        return revision

    def _delay_s(self) -> float:
        if self.very_late and self._random.random() < self.very_late:
            return self._random.uniform(0.7, 3.0)
        if self.late and self._random.random() < self.late:
            return self._random.uniform(0.01, 0.7)
        return self._random.expovariate(2000)

    async def _ask(self, act: Callable[[], Coroutine[Any, Any, T]]) -> T:
        answer: asyncio.Future[T] = self._loop.create_future()
        self._loop.send_later(self._delay_s(), self._arrive, act, answer)
        late = StoreError("the store does not answer; the outcome is unknown")
        timer = self._loop.call_later(self.timeout_s, _settle, answer, None, late)
        try:
            return await answer
        finally:
            timer.cancel()

    def _lost(self) -> bool:
        return self.cut or (self.loss > 0 and self._random.random() < self.loss)

    def _arrive(self, act: Callable[[], Coroutine[Any, Any, T]], answer: asyncio.Future[T]) -> None:
        if not self._lost():
            self._loop.create_task(self._carry_out(act(), answer), context=self._loop.outside)

    async def _carry_out(self, work: Coroutine[Any, Any, T], answer: asyncio.Future[T]) -> None:
        try:
            result = await work
        except HeliosError as error:
            self._answer(_settle, answer, None, error)
        else:
            self._answer(_settle, answer, result, None)

    def _answer(self, settle: Callable[..., None], *args: object) -> None:
        if not self._lost():
            self._loop.send_later(self._delay_s(), settle, *args)


def _settle(answer: asyncio.Future[Any], result: object, error: HeliosError | None) -> None:
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(result)
