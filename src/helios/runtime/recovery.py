"""`helios init --adopt nodes`: a cluster whose store is lost, made again from what the nodes of each host remember."""

from __future__ import annotations

from collections.abc import Sequence

from helios.errors import Conflict, InvalidInput, Refused, StartError
from helios.model.settings import Settings
from helios.model.topology import NodeKind, Topology
from helios.node.files import DataFolder
from helios.node.locks import holder_of
from helios.node.topology_copy import newest_copy
from helios.ports.clock import Clock
from helios.ports.location import StoreLocation
from helios.ports.records import ADOPTION, SETTINGS, AdoptionRecord, put_record, read_record
from helios.ports.store import Compare, Delete, Put, Store
from helios.ports.topologies import read_topology
from helios.runtime.adoption import adopt
from helios.runtime.agreement import check_fixed, found
from helios.runtime.backends import locate, opened_store
from helios.runtime.clock import SystemClock
from helios.runtime.identity import INIT, check_folder, read_key, settle_identity
from helios.runtime.lifecycle import say
from helios.runtime.security import settle_users
from helios.runtime.settings import SettingsRead, data_folder
from helios.runtime.transfer import at_rest


async def run_recovery(read: SettingsRead, lost: Sequence[str]) -> None:
    """Take up what the nodes of this host remember; `lost`: nodes that nobody will ever hear. Raises HeliosError."""
    settings = read.settings
    data = DataFolder(data_folder(settings))
    location = locate(settings, data)
    clock, key, kept = SystemClock(), read_key(settings.security), _remembered(data)
    settings = _as_founded(settings, kept)
    async with opened_store(data, location, unfinished=True) as store:
        await at_rest(store)
        await check_folder(store, data, location)
        heard = [node_id for node_id in data.node_ids() if data.node(node_id).topology.exists()]
        adoption = await Adoption.begin(store, kept, heard, lost)
        if adoption is None:
            say(f"nothing to adopt: {location} knows all that the nodes in {data.nodes} know")
            return
        await settle_identity(store, data, location, clock, key, founder=INIT)
        new = await store.get(SETTINGS) is None and await found(store, settings, read.origins, by=INIT)
        await settle_users(store, settings, lead=new)
        missing = await adoption.carry_out(store, clock)
    _tell(kept, missing, location)


def _tell(kept: Topology, missing: Sequence[str], location: StoreLocation) -> None:
    names = ", ".join(node.id for node in kept.nodes)
    say(f"{location} knows of the cluster of {names} what the nodes here remember (epoch {kept.epoch})")
    if missing:
        say(
            f"still to be heard: {', '.join(missing)}; run the same command on their hosts, and name by --lost what is "
            "lost with its host. Nothing starts before"
        )
    else:
        say(
            "all nodes have been heard; start them: `helios-cli check` tells whether the keys are where the cluster "
            "looks for them"
        )


def _remembered(data: DataFolder) -> Topology:
    """The latest topology of this host's nodes, none of which may run. Raises StartError."""
    kept = newest_copy(data)
    if not kept.nodes:
        raise StartError(f"no node in {data.nodes} remembers a cluster: name the data folder of one by --data-dir")
    for node_id in data.node_ids():
        for lock in data.node(node_id).process_locks():
            holder = holder_of(lock)
            if holder is not None:
                raise StartError(f"{node_id} runs (process {holder.process.pid}): end it first, with its routers")
    return kept


def _as_founded(settings: Settings, kept: Topology) -> Settings:
    """The settings with what is fixed since the cluster was founded. Raises StartError where they contradict it."""
    name, points = "sharding.virtual_nodes", kept.placement.virtual_nodes
    settings = settings.with_default(name, points)
    check_fixed(name, settings.sharding.virtual_nodes, points)
    return settings


class Adoption:
    """What the nodes of one host remember, on its way into the store.

    Until all nodes have been heard nothing starts there: one that has not may know of later moves than the others.
    """

    def __init__(self, kept: Topology, record: AdoptionRecord, version: int) -> None:
        self._kept = kept
        self._record = record
        self._version = version

    @classmethod
    async def begin(cls, store: Store, kept: Topology, heard: Sequence[str], lost: Sequence[str]) -> Adoption | None:
        """Keep everybody from the store from now on; None where it has not been lost, as far as these nodes know."""
        record = await read_record(store, AdoptionRecord, ADOPTION)
        topology = await read_topology(store)
        if record is None and topology.epoch >= kept.epoch:
            return None
        latest = max(kept, topology, key=lambda one: one.epoch)
        unknown = sorted(set(lost) - {node.id for node in latest.nodes})
        if unknown:
            names = ", ".join(node.id for node in latest.nodes)
            raise InvalidInput(f"--lost names {', '.join(unknown)}, and the cluster has the nodes {names}")
        before = record.value.heard if record else ()
        supervised = {node.id for node in latest.nodes if node.kind is NodeKind.SUPERVISED}
        now = AdoptionRecord(
            tuple(sorted({*before, *heard, *lost})),
            tuple(sorted(supervised - {*before, *heard, *lost})),
        )
        mark = AdoptionRecord(before, tuple(sorted(supervised - set(before))))
        version = await _commit(store, put_record(ADOPTION, mark), record.version if record else 0)
        return cls(kept, now, version)

    async def carry_out(self, store: Store, clock: Clock) -> tuple[str, ...]:
        """Bring the topology in if it is later than the store's; the nodes that are still to be heard."""
        await adopt(store, clock, self._kept)
        missing = self._record.missing
        await _commit(store, put_record(ADOPTION, self._record) if missing else Delete(ADOPTION), self._version)
        return missing


async def _commit(store: Store, operation: Put | Delete, version: int) -> int:
    try:
        return await store.commit([operation], compares=[Compare(ADOPTION, version)])
    except Conflict as error:
        raise Refused("the nodes of another host are being heard at this moment: run it again") from error
