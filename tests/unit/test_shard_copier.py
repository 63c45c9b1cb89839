"""What a copy makes of servers that fail on the way."""

from __future__ import annotations

from tests.memory_shards import memory_shards
from tests.shards import Authenticator, eventually

from helios.placement.routing import Routes
from helios.ports.failpoints import Point


async def test_a_target_that_lost_the_last_copies_with_its_power_is_not_switched_to() -> None:
    """The first pass is on its disk by then; what was copied since is not, and nothing more is to be copied."""
    authenticator = Authenticator()
    async with memory_shards(["a", "b"], authenticator, a=9, b=9) as cluster:
        a, b = cluster.servers["a"], cluster.servers["b"]
        keys = {*a.keys(), *b.keys()}
        routes = Routes(await cluster.topology())
        late = next(key for key in (b"late %d" % n for n in range(100)) if routes.owner(key) == "a")
        authenticator.arm(Point.CATCHING_UP)
        migration = await cluster.admin.migrate("a", "b", "*")
        await authenticator.reached.wait()
        a.set(late, b"value")
        authenticator.open()
        authenticator.arm(Point.ACKNOWLEDGED)
        await authenticator.reached.wait()

        async def copied() -> bool:
            return b.get(late) is not None

        await eventually(copied, "it is copied")
        b.crash(lose_unsynced=True)
        assert b.get(late) is None
        b.restart()
        authenticator.open()
        assert await cluster.ended(migration.id) is None
        assert {*b.keys()} == keys | {late}
        assert a.keys() == []
