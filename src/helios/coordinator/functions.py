"""Functions on shards that own keys for the first time."""

from __future__ import annotations

from contextlib import AsyncExitStack

from helios.coordinator.access import Access
from helios.errors import EngineError
from helios.model.topology import PairPhase, Topology

_MAX_ROUNDS = 10


def is_new(topology: Topology, shard: str) -> bool:
    """Whether the shard owns no key yet, nor did by the placement before the transition."""
    placement, transition = topology.placement, topology.transition
    owners = {name for name, _ in placement.weights} | {rule.target for rule in placement.rules}
    if transition is not None:
        owners |= {pair.target for pair in transition.pairs if pair.phase is PairPhase.SWITCHED}
    return shard not in owners


async def bring_functions(access: Access, source: str, target: str) -> None:
    """Make the target's libraries of functions those of the source. Raises EngineError, NotFound.

    Routers change functions at shards that own keys first, and at new ones then. So the target is read before the
    source: when both say the same, no change is on its way that the target would miss, provided that every router
    knows of the target.
    """
    with access.identity() as identity:
        async with AsyncExitStack() as opened:
            here = await access.open_source(access.leader(source), identity)
            opened.push_async_callback(here.close)
            there = await access.open(access.leader(target), identity)
            opened.push_async_callback(there.close)
            for _ in range(_MAX_ROUNDS):
                present = await there.libraries()
                wanted = await here.libraries()
                if present == wanted:
                    return
                await there.replace_libraries(wanted)
    raise EngineError(f"the functions of {source} change again and again while they are brought to {target}")
