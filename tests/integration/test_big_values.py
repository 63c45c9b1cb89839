"""Big values of every type move in steps, at rest and while they are written through a router."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from tests.engine_lab import raw
from tests.servers import start_valkey
from tests.shards import Shards, running_shards
from tests.values import MAKERS, look
from tests.waiting import until

from helios.coordinator import transition_work
from helios.coordinator.copying import CopyLimits
from helios.engines.valkey import ValkeyConnector
from helios.engines.valkey.connection import Command, Connection, Endpoint, ErrorReply, connect
from helios.model.ids import Address
from helios.model.topology import Member
from helios.placement.routing import Routes
from helios.ports.engine import Engine
from helios.router.core import Router
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes


@pytest.fixture(autouse=True)
def _everything_is_big(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transition_work, "CopyLimits", partial(CopyLimits, big_bytes=1000, step_bytes=500))


@asynccontextmanager
async def reference(folder: Path) -> AsyncIterator[Engine]:
    """A server that stays what it is, to hear of everything that the cluster hears."""
    with start_valkey(folder) as server:
        engine = await ValkeyConnector().open(Member("r.0", "r", Address("127.0.0.1", server.port)))
        try:
            yield engine
        finally:
            await engine.close()


@asynccontextmanager
async def routed(shards: Shards) -> AsyncIterator[Connection]:
    """A client's connection to a router over the shards."""
    router = Router(shards.store, shards.connector, shards.admin, shards.clock, RouterOptions(node="shard-1"))
    await router.start()
    try:
        port = await router.serve("127.0.0.1", 0)
        connection = await connect(Endpoint("router", Address("127.0.0.1", port)))
        yield connection
        await connection.close()
    finally:
        await router.stop()


async def at_owner(shards: Shards, key: bytes) -> Engine:
    """The server that owns the key."""
    owner = Routes(await shards.topology()).owner(key)
    return await shards.connector.open(Member(f"{owner}.0", owner, Address("127.0.0.1", shards.servers[owner].port)))


def repeatable(command: Command, number: int) -> Command:
    """The command with nothing in it that a server would choose by itself."""
    if command[0] == "XADD" and command[2] == "*":
        return (*command[:2], f"{10_000 + number}-1", *command[3:])
    return command


KEYS = {f"{kind}:{number}".encode(): kind for kind in MAKERS for number in range(4)}


async def both(cluster: Connection, other: Engine, commands: list[Command]) -> None:
    """Carry out the same at both and see that both say the same of whether it is possible."""
    mine = await cluster.execute_many(commands, timeout_s=30)
    theirs = await raw(other).execute_many(commands)
    for command, one, two in zip(commands, mine, theirs, strict=True):
        assert isinstance(one, ErrorReply) == isinstance(two, ErrorReply), (command, one, two)


async def assert_same(shards: Shards, other: Engine) -> None:
    """Every key is at its owner what it is at the other server, and nowhere else."""
    for key in KEYS:
        engine = await at_owner(shards, key)
        assert await look(engine, key) == await look(other, key), key
        await engine.close()
    counts = [cast(int, await shards.execute(node, "DBSIZE")) for node in shards.servers]
    assert sum(counts) == await raw(other).execute("DBSIZE")


async def fill(cluster: Connection, other: Engine, chance: random.Random) -> None:
    for key, kind in KEYS.items():
        commands = [command for _ in range(3) for command in MAKERS[kind](chance, key, True)]
        commands += [repeatable(c, i) for i in range(9) for c in MAKERS[kind](chance, key, False)]
        if chance.random() < 0.5:
            commands.append(("PEXPIREAT", key, int(time.time() * 1000) + 3_600_000 + chance.randrange(1000)))
        await both(cluster, other, commands)


async def test_big_values_of_every_type_move_with_their_ends(tmp_path: Path) -> None:
    async with (
        running_shards(tmp_path, 2) as shards,
        routed(shards) as cluster,
        reference(tmp_path / "reference") as other,
    ):
        await fill(cluster, other, random.Random(1))
        for source, target in (("shard-1", "shard-2"), ("shard-2", "shard-1")):
            await shards.admin.migrate(source, target)
            await shards.settled()
            await assert_same(shards, other)


@pytest.mark.parametrize("seed", range(2))
async def test_big_values_move_exactly_while_they_are_written(tmp_path: Path, seed: int) -> None:
    async with (
        running_shards(tmp_path, 2) as shards,
        routed(shards) as cluster,
        reference(tmp_path / "reference") as other,
    ):
        chance = random.Random(seed)
        await fill(cluster, other, chance)
        over = False
        written = 0

        async def write() -> None:
            nonlocal written
            number = 1000
            while not over:
                number += 100
                key, kind = chance.choice(list(KEYS.items()))
                again = chance.random() < 0.02
                commands: list[Command] = [("UNLINK", key)] if again else []
                changes = MAKERS[kind](chance, key, again)
                commands += [repeatable(c, number + i) for i, c in enumerate(changes)]
                await both(cluster, other, commands)
                written += len(commands)

        writing = asyncio.create_task(write())
        for source, target in (("shard-1", "shard-2"), ("shard-2", "shard-1")):
            before = written

            async def busy(before: int = before) -> bool:
                return written > before + 50 or writing.done()

            await until(busy, "the writer writes")
            await shards.admin.migrate(source, target)
            await shards.settled()
        over = True
        await writing
        await assert_same(shards, other)


@pytest.mark.parametrize(("keys", "size"), [(2000, 50), (5, 20_000)])
async def test_a_limit_of_bytes_holds_a_move_until_it_is_lifted(tmp_path: Path, keys: int, size: int) -> None:
    pairs = {b"%d" % number: b"v" * size for number in range(keys)}
    async with running_shards(tmp_path, 2) as shards:
        await shards.fill(pairs)
        await shards.admin.change_setting("sharding.migration_bandwidth", "1")
        view = await shards.admin.migrate("shard-1", "shard-2")

        async def begun() -> bool:
            return (await shards.admin.migration(view.id)).status == "in_progress"

        await until(begun, "the move begins")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await shards.settled()
        assert (await shards.admin.migration(view.id)).status == "in_progress"
        await shards.admin.change_setting("sharding.migration_bandwidth", "0")
        await shards.settled()
        assert (await shards.admin.migration(view.id)).status == "completed"
        await shards.assert_whole(pairs)
