"""Nodes on hosts of their own: the quick start, moves between hosts, and every way in which hosts and networks break.

Whatever happens, no acknowledged write is lost or doubled, and everything serves again within ten seconds of healing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from tests.hosts.cluster import PORT, HostsCluster, broken, running_hosts
from tests.hosts.network import has_network
from tests.ledger import Ledger
from tests.waiting import until

pytestmark = [
    pytest.mark.processes,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not has_network(), reason="hosts need root and iproute2"),
]

_WRITERS = 6
LONGER_THAN_A_LEASE_S = 6.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostsCluster]:
    with running_hosts(tmp_path_factory.mktemp("hosts")) as made:
        yield made


@asynccontextmanager
async def writing(cluster: HostsCluster, seed: int) -> AsyncIterator[Ledger]:
    """Clients on all hosts that write into an empty cluster and note what was acknowledged."""
    await asyncio.to_thread(cluster.empty)
    ledger = cluster.ledger(seed)
    ledger.start(_WRITERS)
    try:
        yield ledger
    except BaseException:
        await ledger.stop()
        print(cluster.logs())
        raise


async def settled(cluster: HostsCluster, ledger: Ledger, least: int) -> None:
    """Everything serves again, and all that was acknowledged is there, once."""
    await asyncio.to_thread(cluster.wait_serving)
    await ledger.stop()
    assert ledger.acknowledged > least, (ledger.acknowledged, ledger.refused, ledger.uncertain)
    await asyncio.to_thread(cluster.wait_clean)
    assert await ledger.check() >= least


async def written(ledger: Ledger, more: int) -> None:
    """Return when so many more writes have been acknowledged."""
    goal = ledger.acknowledged + more
    await until(lambda: ledger.acknowledged >= goal)


async def test_nodes_on_hosts_of_their_own_serve_and_move_keys(cluster: HostsCluster) -> None:
    first, second, third = cluster.hosts
    async with writing(cluster, seed=1) as ledger:
        await written(ledger, 300)
        nodes = json.loads(await asyncio.to_thread(cluster.cli, third, "--json", "listnodes"))
        shown = {(node["address"], node["status"]) for node in nodes["nodes"]}
        assert shown == {(f"{host.address}:{PORT}", "online") for host in cluster.hosts}
        await asyncio.to_thread(cluster.cli, second, "migrate", "shard-1", "shard-3", "user:*", "--wait")
        await asyncio.to_thread(cluster.cli, second, "drain", "shard-2", "--wait")
        await asyncio.to_thread(cluster.cli, first, "undrain", "shard-2", "--wait")
        # The administration reaches every router on every host.

        async def all_answer() -> bool:
            slow = json.loads(await asyncio.to_thread(cluster.cli, first, "--json", "slowcommands"))
            return bool(slow["missing"] == [])

        await until(all_answer)
        await settled(cluster, ledger, 500)
        assert ledger.refused == {} and ledger.uncertain == {}


def test_the_rest_interface_serves_on_a_host_of_a_cluster(cluster: HostsCluster) -> None:
    first = cluster.hosts[0]
    gateway = first.start(cluster.shown(first, "helios gateway"), "gateway.log")

    def healthy() -> bool:
        with contextlib.suppress(OSError):
            return bool(urllib.request.urlopen(f"http://{first.address}:8443/healthz", timeout=2).status == 200)
        return False

    try:
        cluster.until(healthy, "REST is served")
    finally:
        gateway.terminate()
        gateway.wait()


def test_passwords_of_data_servers_are_not_in_the_store(cluster: HostsCluster) -> None:
    for host in cluster.hosts:
        member = cluster.stored(f"members/{cluster.node(host)}.0")
        assert member is not None and member["salt"] and not member["password"]


def test_a_node_that_runs_on_another_host_is_not_started(cluster: HostsCluster) -> None:
    first, second, _ = cluster.hosts
    before = cluster.processes[second.name, "node"]
    words = cluster.shown(second, "helios node --id shard-1")
    at, folder = words.index("--listen") + 1, words.index("--data-dir") + 1
    words[at], words[folder] = f"{second.address}:7000", str(second.folder / "another")
    done = second.run(words)
    assert done.returncode != 0 and "the node shard-1 runs on" in done.stderr and first.address in done.stderr
    assert before.poll() is None


async def test_a_host_is_powered_off_and_on(cluster: HostsCluster) -> None:
    victim = cluster.hosts[1]
    async with writing(cluster, seed=2) as ledger:
        await written(ledger, 200)
        async with broken(cluster, victim.power_off, partial(cluster.power_on, victim)):
            await written(ledger, 20)  # keys of the others
        await settled(cluster, ledger, 250)


async def test_a_host_is_cut_off_from_all(cluster: HostsCluster) -> None:
    victim = cluster.hosts[2]
    async with writing(cluster, seed=3) as ledger:
        await written(ledger, 200)
        async with broken(cluster, victim.unplug, victim.plug):
            await written(ledger, 20)
            await asyncio.sleep(LONGER_THAN_A_LEASE_S)
        await settled(cluster, ledger, 250)


async def test_a_host_is_cut_off_from_etcd_only(cluster: HostsCluster) -> None:
    """Its router serves until its lease ends, says so then, and comes back by itself; its data server goes on."""
    victim = cluster.hosts[0]
    away = [host.etcd_address for host in cluster.hosts[1:]]
    async with writing(cluster, seed=4) as ledger:
        await written(ledger, 200)
        async with broken(cluster, partial(victim.mute, *away), partial(victim.unmute, *away)):
            await asyncio.to_thread(cluster.wait_refusing, victim)
            await written(ledger, 50)
            for other in cluster.hosts[1:]:
                await asyncio.to_thread(cluster.until, partial(cluster.serves, other), f"{other.name} serves")
        await settled(cluster, ledger, 300)


@pytest.mark.hosts
async def test_one_way_cuts(cluster: HostsCluster) -> None:
    async with writing(cluster, seed=5) as ledger:
        for deaf, mute in ((0, 1), (1, 2), (2, 0)):
            speaker, listener = cluster.hosts[mute], cluster.hosts[deaf]
            await written(ledger, 100)
            for address in (listener.address, listener.etcd_address):
                async with broken(cluster, partial(speaker.mute, address), partial(speaker.unmute, address)):
                    await asyncio.sleep(LONGER_THAN_A_LEASE_S)
        await settled(cluster, ledger, 400)


@pytest.mark.hosts
async def test_a_slow_line_that_loses_frames(cluster: HostsCluster) -> None:
    far = cluster.hosts[2]
    async with writing(cluster, seed=6) as ledger:
        await written(ledger, 100)
        async with broken(cluster, partial(far.lengthen, 0.05, 0.02), far.shorten):
            await written(ledger, 200)
            await asyncio.to_thread(cluster.cli, cluster.hosts[0], "migrate", "shard-3", "shard-1", "order:*", "--wait")
        await settled(cluster, ledger, 300)


async def test_etcds_leader_is_killed(cluster: HostsCluster) -> None:
    async with writing(cluster, seed=7) as ledger:
        await written(ledger, 100)
        leader = await asyncio.to_thread(cluster.etcd_leader)
        kill = cluster.processes[leader.name, "etcd"].kill
        async with broken(cluster, kill, partial(cluster.start_etcd, leader)):
            await written(ledger, 100)
        await asyncio.to_thread(cluster.until, cluster.etcd_healthy, "etcd has a majority")
        await settled(cluster, ledger, 200)


@pytest.mark.hosts
async def test_etcds_majority_is_gone_for_a_minute(cluster: HostsCluster) -> None:
    async with writing(cluster, seed=8) as ledger:
        await written(ledger, 100)
        gone = cluster.hosts[:2]

        def kill() -> None:
            for host in gone:
                cluster.processes[host.name, "etcd"].kill()

        def start() -> None:
            for host in gone:
                cluster.start_etcd(host)

        async with broken(cluster, kill, start):
            for host in cluster.hosts:
                await asyncio.to_thread(cluster.wait_refusing, host)
            await asyncio.sleep(55)
        await settled(cluster, ledger, 150)


@pytest.mark.hosts
async def test_a_router_is_frozen_across_its_lease(cluster: HostsCluster) -> None:
    host = cluster.hosts[1]
    async with writing(cluster, seed=9) as ledger:
        await written(ledger, 100)
        routers = await asyncio.to_thread(cluster.routers, host)
        assert routers

        def signalled(what: signal.Signals) -> None:
            for router in routers:
                router.send(what)

        async with broken(cluster, partial(signalled, signal.SIGSTOP), partial(signalled, signal.SIGCONT)):
            words = ("migrate", "shard-1", "shard-2", "session:*", "--wait")
            await asyncio.to_thread(cluster.cli, cluster.hosts[0], *words)
            await asyncio.sleep(LONGER_THAN_A_LEASE_S)
        await settled(cluster, ledger, 150)


@pytest.mark.hosts
async def test_a_coordinator_is_cut_off_amid_moves(cluster: HostsCluster) -> None:
    """In whatever phase it is met, the move ends: by its successor, or taken back."""
    async with writing(cluster, seed=10) as ledger:
        for turn, wait_s in enumerate((0.0, 0.1, 0.3, 0.6)):
            await written(ledger, 100)
            victim = await asyncio.to_thread(cluster.coordinator)
            other = next(host for host in cluster.hosts if host is not victim)
            source, target = ("shard-1", "shard-2") if turn % 2 else ("shard-2", "shard-1")
            await asyncio.to_thread(cluster.cli, other, "migrate", source, target, "*")
            await asyncio.sleep(wait_s)
            async with broken(cluster, victim.unplug, victim.plug):
                await asyncio.sleep(LONGER_THAN_A_LEASE_S)
        await settled(cluster, ledger, 400)


@pytest.mark.hosts
async def test_a_host_that_returns_with_another_address_is_the_same_node(cluster: HostsCluster) -> None:
    victim = cluster.hosts[2]
    async with writing(cluster, seed=11) as ledger:
        await written(ledger, 100)
        async with broken(cluster, victim.power_off, partial(cluster.power_on, victim)):
            await asyncio.to_thread(victim.readdress, f"{cluster.subnet}.33")
            ledger.ports = ledger.ports[:2]
        await settled(cluster, ledger, 100)
    nodes = json.loads(await asyncio.to_thread(cluster.cli, cluster.hosts[0], "--json", "listnodes"))
    assert f"{cluster.subnet}.33:{PORT}" in [node["address"] for node in nodes["nodes"]]
