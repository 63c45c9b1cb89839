"""Keys end by the clock of their server: none moves between servers whose clocks differ."""

from __future__ import annotations

import pytest
from tests.memory_shards import MemoryShards, memory_shards
from tests.shards import Latch, rests
from tests.waiting import until

from helios.coordinator.clocks import MAX_SKEW_S, Reading, skew_s
from helios.errors import Refused
from helios.ports.failpoints import Point

FAR_S = MAX_SKEW_S + 4


@pytest.mark.parametrize(
    ("one", "other", "apart_s"),
    [
        (Reading(0, 5.0, 5.1), Reading(0, 1.0, 1.1), 3.9),
        (Reading(0, 1.0, 1.1), Reading(0, 5.0, 5.1), -3.9),
        # Answers that were long under way say little of the clock.
        (Reading(0, -3.0, 3.0), Reading(0, 1.0, 1.1), 0.0),
        (Reading(0, 5.0, 9.0), Reading(0, -3.0, 3.0), 2.0),
    ],
)
def test_a_difference_is_what_is_certain_of_it(one: Reading, other: Reading, apart_s: float) -> None:
    assert skew_s(one, other) == pytest.approx(apart_s)


async def moved(cluster: MemoryShards) -> str | None:
    view = await cluster.admin.migrate("a", "b", "*")
    return await cluster.ended(view.id)


@pytest.mark.parametrize(("apart_s", "sooner"), [(FAR_S, "too early on b"), (-FAR_S, "too late on b")])
async def test_a_move_is_refused_with_both_clocks(apart_s: float, sooner: str) -> None:
    async with memory_shards(["a", "b"], a=9, b=9) as cluster:
        before = {name: server.keys() for name, server in cluster.servers.items()}
        cluster.skews_s["b"] = apart_s
        error = await moved(cluster)
        assert error is not None
        assert "the clocks of a and b differ by 5.0 s" in error
        assert sooner in error
        assert "a's says 20" in error
        assert "b's says 20" in error
        assert "NTP" in error
        assert {name: server.keys() for name, server in cluster.servers.items()} == before
        cluster.skews_s["b"] = MAX_SKEW_S / 2
        assert await moved(cluster) is None
        assert not cluster.servers["a"].keys()


@pytest.mark.parametrize("wish", ["", "import", "flush"])
async def test_a_server_with_another_clock_does_not_join(wish: str) -> None:
    async with memory_shards(["a"], a=9, b=9) as cluster:
        if wish:
            cluster.servers["b"].set(b"own", b"value", 4_102_444_800_000)
        cluster.skews_s["b"] = -FAR_S
        address = str(cluster.addresses["b"])
        with pytest.raises(Refused, match=r"the clocks of a and b differ by 5\.0 s"):
            await cluster.admin.add_node("b", address, import_keys=wish == "import", flush=wish == "flush")
        assert bool(cluster.servers["b"].keys()) == bool(wish)
        assert cluster.servers["b"].users() == ["default"]


async def test_an_import_that_has_waited_for_its_turn_looks_again() -> None:
    """Its server's clock was right when it was asked for."""
    latch = Latch()
    async with memory_shards(["a", "c"], latch, a=9, b=9, c=9) as cluster:
        cluster.servers["b"].set(b"own", b"value")
        latch.arm(Point.COPYING)
        before = await cluster.admin.migrate("a", "c", "*")
        await latch.reached.wait()
        view = await cluster.admin.add_node("b", str(cluster.addresses["b"]), import_keys=True)
        cluster.skews_s["b"] = FAR_S
        latch.open()
        assert await cluster.ended(before.id) is None
        await until(lambda: rests(cluster.store), "the request has ended")
        said = (await cluster.admin.change(view.change)).message
        assert "the clocks of b and a differ by 5.0 s" in said
        assert "too late on a" in said
        assert cluster.servers["b"].get(b"own") == b"value"
