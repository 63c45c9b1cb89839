"""How keys are divided into batches, what is done behind one's back, and when big values are given up."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.waiting import until

from helios.coordinator import copying
from helios.coordinator.copying import BATCH_BYTES, BigValues, CopyLimits, WriteBehind, sort_by_size
from helios.errors import EngineError, TooHot
from helios.ports.engine import Engine, Notes, Pace, StepCopy, at_once

LIMITS = CopyLimits(batch_keys=5, fence_budget_keys=10, big_bytes=1000, step_bytes=100)


@given(st.lists(st.integers(0, 1200), max_size=60), st.integers(1, 7), st.sampled_from([1000, 300_000]))
def test_batches_are_small_and_leave_nothing_out(sizes: list[int], batch_keys: int, big_bytes: int) -> None:
    scale = big_bytes // 1000
    sizes = [size * scale for size in sizes]
    keys = [b"%d" % number for number in range(len(sizes))]
    size_of = dict(zip(keys, sizes, strict=True))
    found = sort_by_size(keys, sizes, CopyLimits(batch_keys, 10, big_bytes))
    assert found.big == [key for key in keys if size_of[key] > big_bytes]
    assert [key for batch in found.batches for key in batch] == [key for key in keys if size_of[key] <= big_bytes]
    for batch in found.batches:
        assert 0 < len(batch) <= batch_keys
        assert sum(size_of[key] for key in batch) <= BATCH_BYTES


async def test_work_behind_the_back_is_done_one_after_the_other() -> None:
    done: list[int] = []
    running = 0

    async def work(number: int) -> None:
        nonlocal running
        assert running == 0
        running += 1
        await asyncio.sleep(0)
        running -= 1
        done.append(number)

    async with WriteBehind() as behind:
        for number in range(5):
            await behind.put(work(number))
        assert len(done) < 5
    assert done == [0, 1, 2, 3, 4]


async def test_a_failure_behind_the_back_is_told_with_the_next_work_or_at_the_end() -> None:
    async def fail() -> None:
        raise EngineError("it failed")

    done: list[int] = []

    async def work() -> None:
        done.append(1)

    with pytest.raises(EngineError, match="it failed"):
        async with WriteBehind() as behind:
            await behind.put(fail())
            await behind.put(work())
    with pytest.raises(EngineError, match="it failed"):
        async with WriteBehind() as behind:
            await behind.put(fail())
    assert done == []


async def test_work_behind_the_back_ends_with_who_gave_it() -> None:
    ended: list[str] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    with pytest.raises(EngineError):
        async with WriteBehind() as behind:
            await behind.put(work())
            await asyncio.sleep(0)
            raise EngineError("something else")
    assert ended == ["ended"]


class Steps:
    """A source whose copies in steps do what a test wants."""

    def __init__(self, copy: Callable[[bytes], StepCopy] = lambda key: StepCopy.COPIED) -> None:
        self.copied: list[bytes] = []
        self.authenticator = asyncio.Event()
        self.authenticator.set()
        self.begun = asyncio.Event()
        self._copy = copy

    async def copy_in_steps(
        self, key: bytes, target: Engine, *, patch: bool, notes: Notes, pace: Pace, step_bytes: int
    ) -> StepCopy:
        assert patch
        assert step_bytes == LIMITS.step_bytes
        await pace(step_bytes)
        self.begun.set()
        await self.authenticator.wait()
        self.copied.append(key)
        return self._copy(key)


async def unmarked(_keys: Collection[bytes]) -> None:
    """They are no streams."""


def big_values(source: Steps) -> BigValues:
    return BigValues(cast(Engine, source), cast(Engine, None), LIMITS, at_once, unmarked)


async def test_what_was_never_copied_is_copied_before_the_fence() -> None:
    source = Steps()
    big = big_values(source)
    assert await big.ready()
    big.changed |= {b"a", b"b"}
    await until(big.ready)
    assert source.copied == [b"a", b"b"]
    assert big.changed == set()


async def test_what_is_quick_to_copy_waits_for_the_fence_and_is_copied_there() -> None:
    source = Steps()
    big = big_values(source)
    big.changed.add(b"a")
    await until(big.ready)
    big.changed.add(b"a")
    assert await big.ready()
    assert source.copied == [b"a"]
    await big.finish()
    assert source.copied == [b"a", b"a"]
    assert big.changed == set()


async def test_what_changes_while_it_is_copied_stays_in_these_hands() -> None:
    source = Steps()
    big = big_values(source)
    big.changed.add(b"a")
    source.authenticator.clear()
    assert not await big.ready()
    await source.begun.wait()
    assert big.take_over({b"a", b"other"}) == {b"a"}
    source.authenticator.set()
    await until(big.ready)
    assert big.changed == {b"a"}
    await big.finish()
    assert big.changed == set()


async def test_a_copy_that_is_stopped_is_made_again() -> None:
    source = Steps()
    big = big_values(source)
    big.changed.add(b"a")
    source.authenticator.clear()
    assert not await big.ready()
    await source.begun.wait()
    await big.stop()
    assert big.changed == {b"a"}
    source.authenticator.set()
    await big.finish()
    assert source.copied == [b"a"]


async def test_what_became_another_thing_is_copied_again() -> None:
    outcomes = iter([StepCopy.CHANGED, StepCopy.ABSENT])
    big = big_values(Steps(lambda key: next(outcomes)))
    big.changed.add(b"a")
    await big.copy_all()
    assert big.changed == {b"a"}
    await big.copy_all()
    assert big.changed == set()


async def test_a_failed_copy_is_told() -> None:
    def fail(key: bytes) -> StepCopy:
        raise EngineError("no memory")

    big = big_values(Steps(fail))
    big.changed.add(b"a")
    with pytest.raises(EngineError, match="no memory"):
        await until(big.ready)
    assert big.changed == {b"a"}


async def test_what_never_fits_behind_a_fence_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "FENCED_BIG_S", -1.0)
    monkeypatch.setattr(copying, "_BETWEEN_PASSES_S", 0.0)
    big: BigValues

    def change_again(key: bytes) -> StepCopy:
        big.changed.add(key)
        return StepCopy.COPIED

    big = big_values(Steps(change_again))
    big.changed.add(b"busy")
    with pytest.raises(TooHot, match="b'busy'"):
        await until(big.ready)
