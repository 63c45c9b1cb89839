"""Copies compared with their sources: what is mended, what is left to later, and what stops a move."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

import pytest

from helios.coordinator import verification
from helios.coordinator.verification import Pair, verify
from helios.engines.memory import MemoryConnector, MemoryEngine, MemoryServer
from helios.errors import CopyDiffers
from helios.model.ids import Address
from helios.model.topology import Member
from helios.ports.engine import ChangeStream

KEYS = [b"user:%d" % n for n in range(1200)]


async def nothing() -> None:
    """What happens between two steps, if that is nothing."""


class Bench:
    """A source and a target in memory, their pair's keys those that begin with `user:`, and what was asked of it."""

    def __init__(self) -> None:
        self.target_ahead_s = 0.0
        self.source_server = MemoryServer("source", wall=time.time)
        self.target_server = MemoryServer("target", wall=lambda: time.time() + self.target_ahead_s, version=2)
        self.after_copy: Callable[[], Awaitable[None]] = nothing
        self.equal = 0
        self.taken = 0
        self.copied: list[set[bytes]] = []
        self.source: MemoryEngine
        self.target: MemoryEngine
        self.stream: ChangeStream

    async def open(self) -> None:
        """Fill the source and copy everything."""
        addresses = [Address("memory", port) for port in (1, 2)]
        connector = MemoryConnector(dict(zip(addresses, (self.source_server, self.target_server), strict=True)))
        self.source, self.target = [await connector.open(Member("m.0", "m", address)) for address in addresses]
        for key in KEYS:
            self.source_server.set(key, b"value of " + key)
        self.source_server.set(b"other", b"which does not move")
        await self.copy(KEYS)
        self.stream = await self.source.changes()

    async def copy(self, keys: Collection[bytes]) -> None:
        """Make the target's copies equal."""
        ordered = sorted(keys)
        values = await self.source.dump(ordered)
        await self.target.restore([(key, value) for key, value in zip(ordered, values, strict=True) if value])
        await self.target.delete([key for key, value in zip(ordered, values, strict=True) if value is None])

    async def run(self) -> None:
        """Verify."""

        async def take(keys: int, size: int) -> None:
            self.taken += keys
            assert size >= 0

        async def copy_again(keys: Collection[bytes]) -> None:
            self.copied.append(set(keys))
            await self.copy(keys)
            await self.after_copy()

        def count(number: int) -> None:
            self.equal += number

        await verify(
            Pair(
                self.source,
                self.target,
                "the target",
                lambda key: key.startswith(b"user:"),
                take,
                copy_again,
                self.stream.barrier,
                count,
            )
        )


@pytest.fixture
async def bench(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    monkeypatch.setattr(verification, "_BETWEEN_LOOKS_S", (0.0, 0.0, 0.0, 0.0, 0.3))
    made = Bench()
    await made.open()
    yield made


async def test_equal_copies_are_counted_and_nothing_is_copied_again(bench: Bench) -> None:
    await bench.run()
    assert bench.equal == bench.taken == len(KEYS)
    assert bench.copied == []


async def test_what_differs_is_copied_again_and_compared_again(bench: Bench) -> None:
    bench.target_server.set(b"user:1", b"wrong")
    bench.target_server.set(b"user:2", b"value of user:2", int(time.time() * 1000) + 1_000_000)
    bench.target_server.delete([b"user:3"])
    bench.target_server.set(b"user:gone", b"deleted on the source long ago")
    bench.target_server.set(b"other", b"not of this pair")
    await bench.run()
    assert bench.copied == [{b"user:1", b"user:2", b"user:3", b"user:gone"}]
    # A key that is on neither server is equal on both.
    assert bench.equal == len(KEYS) + 1
    assert await bench.source.digests(KEYS) == await bench.target.digests(KEYS)
    assert bench.target_server.get(b"user:gone") is None
    assert bench.target_server.get(b"other") == b"not of this pair"


async def test_a_key_that_changes_all_the_time_does_not_stop_the_move(bench: Bench) -> None:
    bench.target_server.set(b"user:7", b"wrong")

    async def write() -> None:
        bench.source_server.append(b"user:7", b"!")

    bench.after_copy = write
    await bench.run()
    assert len(bench.copied) == verification._ROUNDS_MAX
    assert bench.equal == len(KEYS) - 1


async def test_a_key_that_differs_although_nobody_changes_it_is_named(bench: Bench) -> None:
    async def spoil() -> None:
        bench.target_server.set(b"user:9", b"the server's own idea")

    await spoil()
    bench.after_copy = spoil
    with pytest.raises(CopyDiffers, match=r"the copy of b'user:9' on the target differs .*1 such keys"):
        await bench.run()


async def test_clocks_that_differ_by_a_little_are_waited_for(bench: Bench) -> None:
    bench.target_ahead_s = 0.2
    end_ms = int(time.time() * 1000) + 150
    bench.source_server.set(b"user:5", b"ends soon", end_ms)
    await bench.run()
    assert not bench.source_server.get(b"user:5") or time.time() * 1000 < end_ms
    assert bench.target_server.get(b"user:5") is None


async def test_big_values_are_compared_by_digest(bench: Bench) -> None:
    big = b"x" * 100_000
    for server in (bench.source_server, bench.target_server):
        server.set(b"user:big", big)
    bench.target_server.set(b"user:0", big)
    await bench.run()
    assert bench.copied == [{b"user:0"}]
    assert bench.target_server.get(b"user:0") == b"value of user:0"
