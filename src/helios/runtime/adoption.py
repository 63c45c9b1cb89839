"""A store that knows less than the nodes: noticed before anything starts, and made good by what they have kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from helios.errors import StartError
from helios.model.ids import Address
from helios.model.migration import Change, ChangeKind, ChangeStatus, Migration, MigrationPhase, MigrationStatus
from helios.model.topology import Topology, Transition
from helios.node.files import DataFolder
from helios.ports.clock import Clock
from helios.ports.location import StoreLocation
from helios.ports.records import CHANGES, MIGRATIONS, TOPOLOGY, list_records, put_record
from helios.ports.store import Compare, Put, Store, batches
from helios.ports.topologies import TopologyReader
from helios.ports.topology_records import stored

NODES = "nodes"
"""What `--adopt` is given where the cluster is to be made again from what its nodes have kept."""

_LOST = "the store was lost or put back from a backup; how this ended is not known"


def check_store(data: DataFolder, location: StoreLocation, kept: Topology, topology: Topology) -> None:
    """Raise StartError where the nodes have kept a later topology than the store has; `kept` was read before that.

    Whoever went on would found a new cluster over the data of this one, or look for keys where they were once.
    """
    if kept.epoch <= topology.epoch:
        return
    names = ", ".join(node.id for node in kept.nodes)
    knows = f"is older (epoch {topology.epoch}) than" if topology.nodes else "knows of no cluster, but there is"
    again = "start with `helios up --adopt nodes`, which makes the cluster again as its nodes last knew it"
    if location.spans_hosts:
        again = "make the cluster again as its nodes last knew it, by `helios init --adopt nodes` on the host of each"
    raise StartError(
        f"the store {location} {knows} the cluster of {names} that the nodes in {data.nodes} remember (epoch "
        f"{kept.epoch}); nothing was started. Put the store back from a backup, name the one that the "
        f"cluster has by --store, or {again}. For a new cluster choose another --data-dir"
    )


async def adopt(store: Store, clock: Clock, kept: Topology) -> Topology | None:
    """Make the store's topology the one that the nodes have kept; None where the store knows all. No agent may run.

    A transition that was under way goes on; what else the store says to be on its way ends as failed. The epoch
    stays, so that nodes of other hosts that remember the next one are still seen to know more.
    """
    record = await TopologyReader(store).read()
    if kept.epoch <= (record.value.epoch if record else 0):
        return None
    operations = await _ended(store, clock)
    if kept.transition is not None:
        operations += _under_way(kept.transition, clock)
    for batch in batches(list({put.key: put for put in operations}.values())):
        await store.commit(batch)
    await _write(store, kept, record.version if record else 0)
    return kept


async def move_nodes(store: Store, addresses: Mapping[str, Address]) -> None:
    """Have the topology say that nodes listen elsewhere. No agent and no router may run."""
    record = await TopologyReader(store).read()
    if record is None:
        return
    nodes = tuple(replace(node, address=addresses.get(node.id, node.address)) for node in record.value.nodes)
    if nodes != record.value.nodes:
        await _write(store, replace(record.value, epoch=record.value.epoch + 1, nodes=nodes), record.version)


async def _write(store: Store, topology: Topology, version: int) -> None:
    made, objects = stored(topology, None)
    for put in (put for one in objects for put in one.puts):
        await store.commit([put])
    await store.commit(made.records(None), compares=[Compare(TOPOLOGY, version)])


async def _ended(store: Store, clock: Clock) -> list[Put]:
    """Nothing that an old store has begun or is still to begin is done once more."""
    changes = [record.value for record in await list_records(store, Change, CHANGES)]
    migrations = [record.value for record in await list_records(store, Migration, MIGRATIONS)]
    return [
        put_record(CHANGES + change.id, replace(change, status=ChangeStatus.FAILED, error=_LOST))
        for change in changes
        if not change.status.ended
    ] + [
        put_record(
            MIGRATIONS + one.id,
            replace(one, status=MigrationStatus.FAILED, phase=MigrationPhase.NONE, error=_LOST, end_time=clock.wall()),
        )
        for one in migrations
        if not one.status.ended
    ]


def _under_way(transition: Transition, clock: Clock) -> list[Put]:
    """The request behind a transition and its migrations, as far as the topology tells them."""
    now = clock.wall()
    kind = ChangeKind.REMOVE_NODE if transition.leaving else ChangeKind.REBALANCE
    change = Change(
        transition.change,
        kind,
        ChangeStatus.RUNNING,
        node=transition.leaving,
        reason="it was under way when the store was lost",
        requested_at=now,
    )
    return [
        put_record(CHANGES + change.id, change),
        *(
            put_record(
                MIGRATIONS + pair.migration,
                Migration(
                    pair.migration,
                    change.id,
                    pair.source,
                    pair.target,
                    status=MigrationStatus.IN_PROGRESS,
                    phase=MigrationPhase.COPYING,
                    requested_at=now,
                    start_time=now,
                ),
            )
            for pair in transition.pairs
            if pair.migration
        ),
    ]
