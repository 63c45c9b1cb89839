"""The topology of a big cluster in etcd: what each router reads when a pair comes into its next phase."""

from __future__ import annotations

from uuid import uuid4

import pytest
from tests.cables import Cable
from tests.etcd_servers import has_etcd
from tests.published import HandPublisher
from tests.topologies import rebalancing

from helios.control.mutations import Fence, Slow, Switch
from helios.ports.topologies import TopologyReader
from helios.stores.etcd import EtcdStore
from helios.stores.etcd_gateway import Access, Gateway

pytestmark = pytest.mark.skipif(not has_etcd(), reason="no etcd on PATH")

NODES = 1000


async def test_a_phase_of_a_pair_costs_a_watcher_less_than_2_kb(etcd: str) -> None:
    cable, prefix = Cable(etcd), f"/tests/{uuid4().hex}/"
    async with cable.laid() as address:
        writing, reading = (EtcdStore(Gateway(Access((place,))), prefix) for place in (etcd, address))
        publisher, topology = HandPublisher(writing), rebalancing(NODES, NODES)
        await publisher.publish(topology)
        following = TopologyReader(reading).followed()
        assert await anext(following) == topology
        assert topology.transition is not None
        pair = topology.transition.pairs[0]
        for phase in (
            Slow(pair.source, pair.target, 20),
            Fence(pair.source, pair.target),
            Switch(pair.source, pair.target),
        ):
            topology, before = phase.apply(topology), cable.answered
            await publisher.publish(topology)
            assert await anext(following) == topology
            assert 0 < cable.answered - before < 2000
        await following.aclose()
        await writing.close()
        await reading.close()
