"""Functions on shards that own keys for the first time."""

from __future__ import annotations

from contextlib import AsyncExitStack

from helios.coordinator.access import Access
from helios.errors import EngineError
from helios.model.topology import PairPhase, Topology
from helios.ports.engine import Engine

_MAX_ROUNDS = 10


def is_new(topology: Topology, shard: str) -> bool:
    """Whether the shard owns no key yet, nor did by the placement before the transition."""
    placement, transition = topology.placement, topology.transition
    owners = {name for name, _ in placement.weights} | {rule.target for rule in placement.rules}
    if transition is not None:
        owners |= {pair.target for pair in transition.pairs if pair.phase is PairPhase.SWITCHED}
    return shard not in owners


async def open_both(access: Access, source: str, target: str, opened: AsyncExitStack) -> tuple[Engine, Engine]:
    """Engines on source and target, for as long as `opened` is. Raises EngineError, NotFound."""
    identity = opened.enter_context(access.identity())
    here = await access.open_source(source, identity)
    opened.push_async_callback(here.close)
    there = await access.open(access.leader(target), identity)
    opened.push_async_callback(there.close)
    return here, there


async def bring_functions(here: Engine, there: Engine) -> None:
    """Make the libraries of functions at a target those of its source. Raises EngineError.

    Routers change functions at shards that own keys first, and at new ones then. So the target is read before the
    source: when both say the same, no change is on its way that the target would miss, provided that every router
    knows of the target.
    """
    for _ in range(_MAX_ROUNDS):
        present = await there.libraries()
        wanted = await here.libraries()
        if present == wanted:
            return
        await there.replace_libraries(wanted)
    raise EngineError("the functions of a source change again and again while they are brought to its target")
