"""What the in-memory home of the store promises beyond the interface: it lives on a virtual clock."""

from __future__ import annotations

import asyncio
import contextlib
import selectors
from collections.abc import Callable
from typing import Any

from helios.ports.following import updates
from helios.ports.store import Delete, Put
from helios.stores.memory import MemoryStore

KEPT_COMMITS = 50


class _JumpingSelector(selectors.DefaultSelector):
    """Instead of waiting for time to pass, puts it forward."""

    def __init__(self, advance: Callable[[float], None]) -> None:
        super().__init__()
        self._advance = advance

    def select(self, timeout: float | None = None) -> list[Any]:
        assert timeout is not None, "the loop has nothing left to wait for"
        self._advance(max(timeout, 0.0))
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time."""

    def __init__(self) -> None:
        self._now = 0.0
        super().__init__(_JumpingSelector(self._advance))

    def time(self) -> float:
        return self._now

    def _advance(self, seconds: float) -> None:
        self._now += seconds


def test_leases_expire_in_virtual_time_and_waiting_watches_are_told_at_their_moment() -> None:
    async def live() -> None:
        loop = asyncio.get_running_loop()
        store = MemoryStore()
        other = store.open()
        long, short = await store.grant(7200.0), await store.grant(3600.0)
        version = await store.commit([Put("/long", b"", long), Put("/short", b"", short)])
        watch = other.watch("/", version)
        for key, at in (("/short", 3600.0), ("/long", 7200.0)):
            (event,) = await anext(watch)
            assert (event.key, event.value) == (key, None)
            assert abs(loop.time() - at) < 0.01
        # A lease that was extended moves the timer; a shorter one that comes later gets its own.
        kept = await store.grant(10.0)
        version = await store.commit([Put("/kept", b"", kept)])
        began = loop.time()
        for _ in range(20):
            await asyncio.sleep(5.0)
            await other.keep_alive(kept)
        brief = await store.grant(2.0)
        await store.commit([Put("/brief", b"", brief)])
        watch = other.watch("/", version)
        seen = [(event.key, event.value) for (event,) in [await anext(watch) for _ in range(3)]]
        assert seen == [("/brief", b""), ("/brief", None), ("/kept", None)]
        assert abs(loop.time() - began - 110.0) < 0.01
        await other.close()

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(live())


async def test_who_follows_lists_again_where_changes_were_lost() -> None:
    store = MemoryStore(keep_commits=KEPT_COMMITS)
    await store.commit([Put("/a/1", b"1"), Put("/a/2", b"2")])
    async with contextlib.aclosing(updates(store, "/a")) as following:
        first = await anext(following)
        assert first.complete
        assert [(event.key, event.value) for event in first.events] == [("/a/1", b"1"), ("/a/2", b"2")]
        await store.commit([Put("/a/1", b"one"), Delete("/a/2")])
        second = await anext(following)
        assert not second.complete
        assert {(event.key, event.value) for event in second.events} == {("/a/1", b"one"), ("/a/2", None)}
        for n in range(KEPT_COMMITS + 1):
            await store.commit([Put("/a/3", str(n).encode())])
        third = await anext(following)
        assert third.complete
        assert [(event.key, event.value) for event in third.events] == [
            ("/a/1", b"one"),
            ("/a/3", str(KEPT_COMMITS).encode()),
        ]
