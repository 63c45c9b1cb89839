"""Reads from replicas, decided: how old what a replica says may be, and which replicas are near. Pure.

A round (see `rounds`) that began at some time and was acknowledged by a majority proves that the leader led then, and
names a position up to which it had carried out everything. Who has acknowledged that position has had, ever since,
all that was acknowledged to anybody before the round began.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from helios.control.rounds import Quorum, Standing
from helios.model.ids import Address
from helios.model.topology import Member, Shard, Topology

ROUNDS_WITHIN = 8  # rounds in the time that a read may be behind
_SHORTEST_S, _LONGEST_S = 0.01, 0.25


def interval_s(max_staleness_s: float) -> float:
    """How often a round is to begin while clients let replicas answer."""
    return min(max(max_staleness_s / ROUNDS_WITHIN, _SHORTEST_S), _LONGEST_S)


@dataclass(frozen=True, slots=True)
class _Mark:
    """Where the leader stood in a round that began then."""

    began: float
    reached: int


class Freshness:
    """Since when followers of one leader, in one term, are known to have everything. All times are of one clock."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._marks: deque[_Mark] = deque(maxlen=ROUNDS_WITHIN * 2)
        self._proved: dict[Address, float] = {}

    def begin_anew(self, now: float) -> None:
        """What is known proves nothing any more, nor does any round that has begun: the shard has other keys, say."""
        self._since = now
        self._marks.clear()
        self._proved.clear()

    def take(self, began: float, standing: Standing, quorum: Quorum) -> None:
        """A round is over that began then. It proves nothing without a majority: another may have led already."""
        if began < self._since or not quorum.met_by(standing.followers):
            return
        self._marks.append(_Mark(began, standing.reached))
        for address, acknowledged in standing.acknowledged.items():
            covered = [mark.began for mark in self._marks if mark.reached <= acknowledged]
            if covered:
                self._proved[address] = max(covered[-1], self._proved.get(address, covered[-1]))

    def proved(self, address: Address) -> float | None:
        """The last moment of which a follower is known to have everything; None where there is none."""
        return self._proved.get(address)


def by_distance(topology: Topology, shard: Shard, node_id: str) -> tuple[tuple[Member, ...], ...]:
    """The shard's followers that are members, the nearest to a node first: on its host, in its zone, all others."""
    here = topology.node(node_id)
    groups: tuple[list[Member], ...] = ([], [], [])
    for member in shard.members:
        if member.id == shard.leader:
            continue
        node = topology.node(member.node)
        if here is not None and member.address.host == here.address.host:
            groups[0].append(member)
        elif here is not None and here.zone and node is not None and node.zone == here.zone:
            groups[1].append(member)
        else:
            groups[2].append(member)
    return tuple(tuple(group) for group in groups if group)
