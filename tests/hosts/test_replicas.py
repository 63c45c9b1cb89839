"""Three copies of each key on four hosts, of which three run etcd, while hosts and the lines between them break.

Clients reach the hosts that are cut off from each other, and note what they see on either side: no acknowledged write
may be missing, and all answers must fit one order.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial

import pytest
from redis.exceptions import RedisError
from tests.hosts.cluster import FAILOVER_S, LOGIN, PORT, HostsCluster, broken, running_hosts
from tests.hosts.network import Host, has_network
from tests.ledger import Ledger
from tests.noting_clients import connected
from tests.waiting import until
from tests.witnesses import Witnesses

from helios.model.ids import Address

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not has_network(), reason="hosts need root and iproute2"),
]

_HOSTS = 4
_COPIES = 3
_CLIENTS = 4
_PATIENCE_S = 3.0
_LONG_S = 120.0
_DEFAULT_S = 5.0  # replication.failover_timeout, unless it is changed


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostsCluster]:
    with running_hosts(tmp_path_factory.mktemp("replicas"), _HOSTS, copies=_COPIES) as made:
        made.wait_clean()
        yield made


def witnesses_of(cluster: HostsCluster, label: str, seed: int, keys: int) -> Witnesses:
    """Clients that use all hosts."""
    places = [Address(host.address, PORT) for host in cluster.hosts]
    return Witnesses(places, label, seed=seed, keys=keys, login=LOGIN, patience_s=_PATIENCE_S)


class Load:
    """Clients on all hosts, with what they were told."""

    def __init__(self, cluster: HostsCluster, seed: int) -> None:
        self.witnesses = witnesses_of(cluster, str(seed), seed, keys=24)
        self.ledger: Ledger = cluster.ledger(seed)

    def start(self) -> None:
        """Begin."""
        self.witnesses.start(_CLIENTS)
        self.ledger.start(_CLIENTS)

    async def stop(self) -> None:
        """End the clients, each after its last answer."""
        await asyncio.gather(self.witnesses.stop(), self.ledger.stop())

    async def more(self, operations: int = 100) -> None:
        """Return when so many more were answered."""
        goal = self.witnesses.operations + operations
        await until(lambda: self.witnesses.operations >= goal, limit_s=_LONG_S)

    async def check(self) -> None:
        """All that was acknowledged is there, once, and fits one order."""
        await self.witnesses.check()
        assert await self.ledger.check() > 0
        print(f"{self.witnesses.operations} answers, refused: {dict(self.witnesses.refused)}")


@asynccontextmanager
async def watched(cluster: HostsCluster, seed: int) -> AsyncIterator[Load]:
    """What happens in the block happens under clients; afterwards nothing is missing, and all they saw is explained."""
    load = Load(cluster, seed)
    load.start()
    try:
        await load.more()
        yield load
        await load.more()
    except BaseException:
        print(await asyncio.to_thread(cluster.logs))
        raise
    finally:
        await load.stop()
    await asyncio.to_thread(cluster.wait_clean)
    await load.check()


async def leading(cluster: HostsCluster, among: Sequence[Host] = ()) -> tuple[Host, list[str]]:
    """A host on which shards are led, and a key of each of these.

    Unless there is no other choice, one that does not coordinate: then its routers, cut off, still serve on their
    leases while another leads already.
    """
    coordinator = await asyncio.to_thread(cluster.coordinator)
    for host in sorted(among or cluster.hosts, key=lambda host: host is coordinator):
        if shards := await asyncio.to_thread(cluster.led_on, host):
            return host, [await asyncio.to_thread(cluster.key_of, shard) for shard in shards]
    raise AssertionError("no shard is led on any of these hosts")


def other_than(cluster: HostsCluster, *hosts: Host) -> Host:
    """A host that stays."""
    return next(host for host in cluster.hosts if host not in hosts)


async def written(cluster: HostsCluster, host: Host, keys: list[str], since: float) -> list[float]:
    """Return when a write of each key was acknowledged by a host; how long after `since` each was."""

    async def first(key: str) -> float:
        async def acknowledged() -> bool:
            with contextlib.suppress(RedisError):
                async with connected(Address(host.address, PORT), LOGIN, _PATIENCE_S) as client:
                    return bool(await client.set(key, "x"))
            return False

        await until(acknowledged, f"{key} is written at {host.name}", limit_s=_LONG_S)
        return time.monotonic() - since

    try:
        return await asyncio.gather(*map(first, keys))
    except AssertionError:
        print(await asyncio.to_thread(cluster.logs))
        raise


async def cut_off(cluster: HostsCluster, victim: Host, keys: list[str], seed: int) -> list[float]:
    """Cut a host off from the others and back; how long it took until each key was written elsewhere.

    Some clients use the first key's shard alone: on the side of the former leader nothing else keeps them.
    """
    witnesses = witnesses_of(cluster, f"{{{keys[0]}}}:{seed}", seed, keys=8)
    witnesses.start(_CLIENTS)
    try:
        async with broken(cluster, partial(cluster.part, victim), partial(cluster.join, victim)):
            took_s = await written(cluster, other_than(cluster, victim), keys, time.monotonic())
            await asyncio.to_thread(cluster.wait_refusing, victim)
    finally:
        await witnesses.stop()
    await witnesses.check()
    return took_s


async def test_a_leaders_host_is_cut_off_from_the_other_hosts(cluster: HostsCluster) -> None:
    async with watched(cluster, seed=1):
        took_s = await cut_off(cluster, *await leading(cluster), seed=100)
    print(f"first acknowledged write after a cut: {max(took_s):.2f} s")


@pytest.mark.hosts
async def test_each_host_is_cut_off_in_turn(cluster: HostsCluster) -> None:
    took_s: list[float] = []
    async with watched(cluster, seed=2):
        for turn, host in enumerate(cluster.hosts * 2):
            if await asyncio.to_thread(cluster.led_on, host):
                coordinator = await asyncio.to_thread(cluster.coordinator)
                took_s += await cut_off(cluster, *await leading(cluster, [host]), seed=200 + turn)
                print(f"{host.name}{', which coordinated' if host is coordinator else ''}: {took_s[-1]:.2f} s")
                await asyncio.to_thread(cluster.wait_clean)
    median_s = statistics.median(took_s)
    print(f"first acknowledged write after {len(took_s)} cuts: median {median_s:.2f} s, longest {max(took_s):.2f} s")
    print(f"with failover_timeout {FAILOVER_S:g} s")


@pytest.mark.hosts
async def test_the_host_that_coordinates_and_leads_is_cut_off(cluster: HostsCluster) -> None:
    """Another one coordinates when the lease has ended; by default a member may be silent for longer than that."""
    first, took_s = cluster.hosts[0], list[float]()
    await asyncio.to_thread(cluster.cli, first, "config", "set", "replication.failover_timeout", f"{_DEFAULT_S:g}s")
    try:
        async with watched(cluster, seed=10):
            for turn in range(6):
                victim = await asyncio.to_thread(cluster.coordinator)
                if not await asyncio.to_thread(cluster.led_on, victim):
                    node = cluster.node(victim)
                    await asyncio.to_thread(cluster.cli, victim, "promote", node, node)
                led_etcd = victim is await asyncio.to_thread(cluster.etcd_leader)
                took_s += await cut_off(cluster, *await leading(cluster, [victim]), seed=1000 + turn)
                print(f"{victim.name}{', which led etcd' if led_etcd else ''}: {took_s[-1]:.2f} s")
                await asyncio.to_thread(cluster.wait_clean)
    finally:
        await asyncio.to_thread(cluster.cli, first, "config", "set", "replication.failover_timeout", f"{FAILOVER_S:g}s")
    print(f"first acknowledged write: median {statistics.median(took_s):.2f} s, longest {max(took_s):.2f} s")


@pytest.mark.hosts
async def test_a_leaders_host_loses_its_cable(cluster: HostsCluster) -> None:
    """Its clients, too, are cut off."""
    victim, keys = await leading(cluster)
    async with watched(cluster, seed=3) as load, broken(cluster, victim.unplug, victim.plug):
        await written(cluster, other_than(cluster, victim), keys, time.monotonic())
        await load.more()


@pytest.mark.hosts
async def test_a_leaders_host_is_cut_off_from_etcd_only(cluster: HostsCluster) -> None:
    """Its router ends with its lease. The shard goes on to be written through all others."""
    victim, keys = await leading(cluster)
    part, join = (partial(done, victim, from_etcd_only=True) for done in (cluster.part, cluster.join))
    async with watched(cluster, seed=4) as load, broken(cluster, part, join):
        await asyncio.to_thread(cluster.wait_refusing, victim)
        for host in cluster.hosts:
            if host is not victim:
                await written(cluster, host, keys, time.monotonic())
        await load.more()


@pytest.mark.hosts
async def test_one_way_cuts(cluster: HostsCluster) -> None:
    """First nobody hears a leader's host, then it hears nobody."""
    async with watched(cluster, seed=5) as load:
        for all_deaf in (True, False):
            victim, keys = await leading(cluster)
            others = [host for host in cluster.hosts if host is not victim]
            pairs = [(victim, other) if all_deaf else (other, victim) for other in others]

            def cut(pairs: list[tuple[Host, Host]] = pairs) -> None:
                for speaker, listener in pairs:
                    speaker.mute(listener.address, listener.etcd_address)

            def heal(pairs: list[tuple[Host, Host]] = pairs) -> None:
                for speaker, listener in pairs:
                    speaker.unmute(listener.address, listener.etcd_address)

            async with broken(cluster, cut, heal):
                took_s = await written(cluster, others[0], keys, time.monotonic())
                print(f"{'nobody hears it' if all_deaf else 'it hears nobody'}: written after {max(took_s):.2f} s")
                await load.more()
            await asyncio.to_thread(cluster.wait_clean)


@pytest.mark.hosts
async def test_a_line_that_comes_and_goes(cluster: HostsCluster) -> None:
    """For times around those after which a member counts as silent, a coordinator and a router as gone."""
    async with watched(cluster, seed=6) as load:
        victim, _ = await leading(cluster)
        async with broken(cluster, partial(cluster.part, victim), partial(cluster.join, victim)):
            for away_s, there_s in ((0.5, 0.5), (1.0, 0.2), (2.2, 0.3), (0.2, 0.2), (2.0, 1.0), (3.2, 0.5), (4.5, 0.3)):
                await asyncio.sleep(away_s)
                await asyncio.to_thread(cluster.join, victim)
                await asyncio.sleep(there_s)
                await asyncio.to_thread(cluster.part, victim)
        await load.more()


@pytest.mark.hosts
async def test_a_slow_line_that_loses_frames(cluster: HostsCluster) -> None:
    """50 ms lie between a leader's host and all others, and one frame of fifty gets lost; one of these is cut off."""
    async with watched(cluster, seed=7) as load:
        far, _ = await leading(cluster)
        async with broken(cluster, partial(far.lengthen, 0.05, 0.02), far.shorten):
            await load.more()
            victim, keys = await leading(cluster, [host for host in cluster.hosts if host is not far])
            await asyncio.to_thread(cluster.part, victim)
            try:
                took_s = await written(cluster, other_than(cluster, victim, far), keys, time.monotonic())
            finally:
                await asyncio.to_thread(cluster.join, victim)
            print(f"first acknowledged write after a cut beside a slow line: {max(took_s):.2f} s")
            await load.more()


@pytest.mark.hosts
async def test_a_leaders_host_is_powered_off(cluster: HostsCluster) -> None:
    async with watched(cluster, seed=8) as load:
        victim, keys = await leading(cluster)
        async with broken(cluster, victim.power_off, partial(cluster.power_on, victim)):
            took_s = await written(cluster, other_than(cluster, victim), keys, time.monotonic())
            print(f"first acknowledged write after a power-off: {max(took_s):.2f} s")
            await load.more()


@pytest.mark.hosts
async def test_two_hosts_are_lost_one_after_the_other(cluster: HostsCluster) -> None:
    """The second while the first is away: where two of three copies are gone, writes wait for one to come back."""
    async with watched(cluster, seed=9) as load:
        *_, without_etcd = cluster.hosts
        victim, keys = await leading(cluster, cluster.etcd_hosts)

        def power_on() -> None:
            cluster.power_on(victim)
            cluster.power_on(without_etcd)

        async with broken(cluster, victim.power_off, power_on):
            await written(cluster, other_than(cluster, victim, without_etcd), keys, time.monotonic())
            await load.more()
            await asyncio.to_thread(without_etcd.power_off)
            await asyncio.sleep(2 * FAILOVER_S)
        await load.more()
