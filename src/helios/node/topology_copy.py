"""The topology as a node last knew it, beside its data: from it a cluster is made again whose store is lost."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

from helios.errors import StartError, StoreError
from helios.model.codec import decode, encode
from helios.model.topology import Topology
from helios.node.files import DataFolder, NodeFolder, write_private
from helios.ports.store import Store
from helios.ports.topologies import TopologyReader


async def keep_copy(store: Store, folder: NodeFolder, node_id: str) -> None:
    """For ever: write down the topologies that have the node, as `TopologyReader.sampled` gives them.

    One without the node is none of its own.
    """
    async with aclosing(TopologyReader(store).sampled()) as topologies:
        async for topology in topologies:
            if topology.node(node_id) is not None:
                await asyncio.to_thread(write_private, folder.topology, encode(topology).decode())


def newest_copy(data: DataFolder) -> Topology:
    """The latest topology that a node of this folder has kept; an empty one where none has. Raises StartError."""
    copies = [_read(data.node(node_id)) for node_id in data.node_ids()]
    return max(copies, key=lambda topology: topology.epoch, default=Topology(epoch=0))


def _read(folder: NodeFolder) -> Topology:
    try:
        return decode(Topology, folder.topology.read_bytes())
    except FileNotFoundError:
        return Topology(epoch=0)
    except (OSError, StoreError) as error:
        raise StartError(
            f"{folder.topology} cannot be read ({error}): put it back from a backup, or delete it"
        ) from error
