"""Servers of each kind that follow each other."""

from __future__ import annotations

from tests.engine_lab import Lab, Three
from tests.servers import ADMIN_PASSWORD, ADMIN_USER
from tests.waiting import until

from helios.ports.engine import Engine, Replication

LONG_S = 60.0  # no round of a test that succeeds waits for so long


async def follow(follower: Engine, leader: Lab) -> None:
    """Follow, and be in sync."""
    await follower.follow(leader.member, ADMIN_USER, ADMIN_PASSWORD)
    await in_sync(follower)


async def in_sync(follower: Engine) -> Replication:
    """Wait until it follows its leader: what it says then."""
    said: list[Replication] = []

    async def synced() -> bool:
        said[:] = [await follower.replication()]
        return said[0].in_sync

    await until(synced)
    return said[0]


async def led(labs: Three) -> tuple[Engine, Engine, Engine]:
    """Their engines, when the second and the third follow the first."""
    a, b, c = [await lab.open() for lab in labs]
    await follow(b, labs[0])
    await follow(c, labs[0])
    return a, b, c


async def everybody_has_all(leader: Engine, followers: int) -> None:
    """Wait until all followers have what the leader has."""
    assert await leader.round(followers, LONG_S) == followers


async def write(lab: Lab, engine: Engine, count: int, value: bytes = b"v") -> None:
    """Write some keys."""
    for number in range(count):
        await lab.set(engine, b"key:%d" % number, value)
