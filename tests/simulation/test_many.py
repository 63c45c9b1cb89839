"""What grows with the number of nodes: `make sim NODES=1000` lives longer."""

from __future__ import annotations

from tests.simulation.running import simulate

_NODES = 100


def test_a_life_of_many_nodes_holds_its_promises() -> None:
    run = simulate("--nodes", _NODES)
    assert run.held, run.said
