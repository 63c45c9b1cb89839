"""Whether a server is one of the cluster's own already, by whatever address."""

from __future__ import annotations

from helios.admin.measuring import Open, for_once, measure_all
from helios.errors import Refused
from helios.model.ids import Address
from helios.model.topology import Shard, Topology
from helios.ports.engine import Engine, EngineInfo


async def refuse_known(topology: Topology, open_engine: Open, node_id: str, address: Address, info: EngineInfo) -> None:
    """Raise Refused where the server that says this of itself is one of the cluster's, by whatever address.

    As a node of its own it would be emptied, or its keys would be moved to themselves. A server of the cluster that
    does not answer is not looked at.
    """

    async def run_id(engine: Engine, _: Shard) -> str:
        return (await engine.info()).run_id

    for shard, found in (await measure_all(topology, for_once(open_engine), run_id)).items():
        if found == info.run_id:
            known = topology.shard(shard)
            where = "" if known is None else f" at {known.leading.address}"
            raise Refused(f"the server at {address} is that of {shard}{where}: it cannot be the node {node_id}, too")
