"""What `helios doctor` finds out about the cluster in the store: whether it is this host's, and how its nodes are."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from helios.errors import HeliosError, StartError
from helios.model.health import NodeHealth
from helios.model.settings import Settings
from helios.node.claim import described, runs_here
from helios.node.files import DataFolder
from helios.node.locks import holder_of
from helios.node.topology_copy import newest_copy
from helios.ports.location import StoreLocation
from helios.ports.records import HEALTH, RUNNING, ClusterRecord, HealthRecord, RunningRecord, list_records, read_record
from helios.ports.topologies import read_topology
from helios.runtime.adoption import check_store
from helios.runtime.backends import locate, opened_store
from helios.runtime.findings import Finding, Verdict
from helios.runtime.identity import check_folder, check_identity, read_key


@dataclass(frozen=True, slots=True)
class _Found:
    """What the store says of its cluster, if it knows of one."""

    cluster: ClusterRecord | None
    running: tuple[RunningRecord, ...]
    health: tuple[NodeHealth, ...]


def cluster_findings(settings: Settings, data: DataFolder) -> Iterator[Finding]:
    """Whether release, key and data folder are those of the cluster in the store, and how its nodes are."""
    try:
        location = locate(settings, data)
        found = asyncio.run(_look(settings, data, location)) if location.exists() else None
    except StartError as error:
        yield Finding("cluster", Verdict.FAIL, str(error), "see what it says: a node would not start here")
        return
    except HeliosError:
        return  # it is told of the store, too
    if found is None:
        return
    if found.cluster is not None:
        yield Finding("cluster", Verdict.OK, f"{found.cluster.id}: this folder, key and release go with it")
    for record in found.running if location.spans_hosts else ():
        if record.node in data.node_ids() and not runs_here(record, data.node(record.node)):
            yield Finding(
                record.node,
                Verdict.WARN,
                f"the node {described(record)}, and {data.node(record.node).root} is here",
                "end it there before you start it here; delete the folder here if it has moved there for good",
            )
    # Leases in a file end only while somebody looks after them.
    if found.running if location.spans_hosts else holder_of(data.up_lock):
        yield _nodes(found.health)


async def _look(settings: Settings, data: DataFolder, location: StoreLocation) -> _Found:
    async with opened_store(data, location, expires=False) as store:
        await check_folder(store, data, location)
        check_store(data, location, newest_copy(data), await read_topology(store))
        cluster = await check_identity(store, data, location, lambda: read_key(settings.security))
        running = await list_records(store, RunningRecord, RUNNING)
        health = await read_record(store, HealthRecord, HEALTH)
    return _Found(cluster, tuple(record.value for record in running), () if health is None else health.value.nodes)


def _nodes(nodes: tuple[NodeHealth, ...]) -> Finding:
    """As their coordinator sees them: a script that holds one up is named, too."""
    wrong = [f"{health.node} is {health.status}: {health.reason}" for health in nodes if health.reason]
    if wrong:
        return Finding("nodes", Verdict.FAIL, "; ".join(wrong), "see what it says, and helios-cli history")
    return Finding("nodes", Verdict.OK, f"{len(nodes)} are online")
