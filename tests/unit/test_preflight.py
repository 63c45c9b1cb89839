"""Which nodes `helios up` runs, and what it does not let start."""

from __future__ import annotations

import pytest

from helios.errors import StartError
from helios.model.ids import Address
from helios.model.topology import Node, NodeKind, Topology
from helios.runtime.preflight import Plan, UpOptions, plan_nodes


def topology(*nodes: tuple[str, int], external: tuple[tuple[str, int], ...] = ()) -> Topology:
    supervised = [Node(name, Address("127.0.0.1", port)) for name, port in nodes]
    others = [Node(name, Address("127.0.0.1", port), NodeKind.EXTERNAL) for name, port in external]
    return Topology(1, nodes=(*supervised, *others))


def known(*nodes: tuple[str, int]) -> dict[str, tuple[Address, str]]:
    return {name: (Address("127.0.0.1", port), "") for name, port in nodes}


def listens(plan: Plan) -> list[tuple[str, int]]:
    return [(node.id, node.listen.port) for node in plan.nodes]


EMPTY = Topology(0)
THREE = (("shard-1", 7000), ("shard-2", 7001), ("shard-3", 7002))


def test_a_new_folder_gets_three_nodes() -> None:
    assert listens(plan_nodes(EMPTY, {}, UpOptions(), "127.0.0.1")) == [
        ("shard-1", 6379),
        ("shard-2", 6380),
        ("shard-3", 6381),
    ]


def test_number_port_and_host_can_be_chosen() -> None:
    plan = plan_nodes(EMPTY, {}, UpOptions(shards=2, port=9000), "0.0.0.0")
    assert [node.listen for node in plan.nodes] == [Address("0.0.0.0", 9000), Address("0.0.0.0", 9001)]


def test_a_start_that_did_not_come_to_found_a_cluster_is_no_obstacle() -> None:
    plan = plan_nodes(EMPTY, known(("shard-1", 7000)), UpOptions(port=9000), "127.0.0.1")
    assert listens(plan)[0] == ("shard-1", 9000)


def test_a_cluster_comes_back_as_it_was() -> None:
    plan = plan_nodes(topology(*THREE), known(*THREE, ("stray", 7100)), UpOptions(), "127.0.0.1")
    assert listens(plan) == list(THREE)


def test_a_removed_node_does_not_come_back_by_itself() -> None:
    plan = plan_nodes(topology(*THREE[:2]), known(*THREE), UpOptions(), "127.0.0.1")
    assert listens(plan) == list(THREE[:2])
    assert listens(plan_nodes(topology(*THREE[:2]), known(*THREE), UpOptions(shards=3), "127.0.0.1")) == list(THREE)


def test_a_cluster_grows_when_more_is_asked_for() -> None:
    plan = plan_nodes(topology(*THREE), known(*THREE), UpOptions(shards=5), "127.0.0.1")
    assert listens(plan) == [*THREE, ("shard-4", 7003), ("shard-5", 7004)]
    assert (plan.joining, plan.staying) == (("shard-4", "shard-5"), ())


def test_it_does_not_shrink_when_less_is_asked_for() -> None:
    plan = plan_nodes(topology(*THREE), known(*THREE), UpOptions(shards=1), "127.0.0.1")
    assert listens(plan) == list(THREE)
    assert (plan.joining, plan.staying) == ((), ("shard-2", "shard-3"))


def test_ports_change_only_where_that_is_said() -> None:
    nodes = (*THREE, ("a", 7100))
    with pytest.raises(StartError, match=r"shard-1 of this cluster listens on .*--move-ports"):
        plan_nodes(topology(*nodes), known(*nodes), UpOptions(port=9000), "127.0.0.1")
    plan = plan_nodes(topology(*nodes), known(*nodes), UpOptions(port=9000, move_ports=True, shards=4), "127.0.0.1")
    moved = [("shard-1", 9000), ("shard-2", 9001), ("shard-3", 9002), ("shard-4", 9003)]
    assert listens(plan) == [("a", 7100), *moved]


def test_nodes_of_their_own_and_external_ones() -> None:
    nodes = (("shard-2", 7001), ("shard-10", 7009), ("a", 7100))
    plan = plan_nodes(topology(*nodes, external=(("legacy", 6390),)), known(*nodes), UpOptions(), "127.0.0.1")
    assert listens(plan) == [("a", 7100), ("shard-2", 7001), ("shard-10", 7009)]
    assert plan.absent == ()


def test_somebody_takes_clients_where_all_nodes_are_external() -> None:
    legacy = topology(external=(("legacy", 6390), ("shard-1", 6391)))
    for folder, options, expected in (
        (known(), UpOptions(), ("shard-2", 6379)),
        (known(), UpOptions(port=9000), ("shard-2", 9000)),
        (known(("shard-3", 7002), ("shard-10", 7009)), UpOptions(), ("shard-3", 7002)),
        (known(("shard-3", 7002)), UpOptions(port=9000), ("shard-3", 9000)),
    ):
        plan = plan_nodes(legacy, folder, options, "127.0.0.1")
        assert listens(plan) == [expected]
        assert (plan.outside, plan.wanted, plan.joining) == (expected[0], (), ())
    plan = plan_nodes(legacy, known(("shard-2", 7001)), UpOptions(shards=2), "127.0.0.1")
    assert (plan.outside, plan.wanted, plan.joining) == ("", ("shard-2",), ("shard-2",))


def test_a_node_without_its_folder_stays_away() -> None:
    plan = plan_nodes(topology(*THREE), known(*THREE[1:]), UpOptions(shards=3), "127.0.0.1")
    assert listens(plan) == list(THREE[1:])
    assert plan.absent == ("shard-1",)


def test_a_port_flag_against_the_clusters_own_is_named() -> None:
    with pytest.raises(StartError, match=r"shard-1 of this cluster listens on 127\.0\.0\.1:7000, not on port 6379"):
        plan_nodes(topology(*THREE), known(*THREE), UpOptions(port=6379), "127.0.0.1")
    assert listens(plan_nodes(topology(*THREE), known(*THREE), UpOptions(port=7000), "127.0.0.1")) == list(THREE)


def test_ports_end_somewhere() -> None:
    with pytest.raises(StartError, match="shard-2 would listen on port 65536"):
        plan_nodes(EMPTY, {}, UpOptions(port=65535), "127.0.0.1")
