"""For how long servers have been silent, as one coordinator may count it. Pure.

It counts by its own clock and from its own looks: no other host's time is believed. Time in which it stood still
itself is left out, for then it had asked nobody.

Where the coordinator before has not resigned, but its lease has ended, the store has not heard of that node for as long
as the lease lasts. So its servers have had that time already, as if this coordinator had looked in vain: a host that
is cut off while it coordinates is not given its time twice. This holds until the node is heard of, by an answer of
any of its servers or by a heartbeat of its agent, and says nothing without looks that fail.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_APART_S = 3.0  # a look a second, which takes a second at most, by a busy machine: whoever looks later stood still


@dataclass(frozen=True, slots=True)
class Lapse:
    """The node that coordinated before until its lease ended, and for how long the store had not heard of it then.

    `heartbeat` is the version of its agent's record at that time, 0 if there was none.
    """

    node: str
    unheard_s: float
    heartbeat: int = 0


@dataclass(frozen=True, slots=True)
class Count:
    """The silence of one server: it has not answered since `since_s`, up to the look that ended at `looked_s`."""

    node: str
    since_s: float
    looked_s: float


@dataclass(frozen=True, slots=True)
class Silence:
    """What a coordinator knows of all servers, by member id."""

    lapse: Lapse | None = None
    counts: Mapping[str, Count] = field(default_factory=dict)

    def silent_s(self, member: str) -> float:
        """For how long a server has been silent; 0 where it has answered the last look, or was never looked at."""
        count = self.counts.get(member)
        if count is None:
            return 0.0
        lapse = self.lapse if self.lapse is not None and self.lapse.node == count.node else None
        return count.looked_s - count.since_s + (0.0 if lapse is None else lapse.unheard_s)


# Events


@dataclass(frozen=True, slots=True)
class Looked:
    """A server was asked at `asked_s`; it has answered at `at_s`, or not until then."""

    member: str
    node: str
    asked_s: float
    at_s: float
    answered: bool


@dataclass(frozen=True, slots=True)
class Beaten:
    """The agent of a node has sent a heartbeat."""

    node: str


Event = Looked | Beaten


def step(silence: Silence, event: Event) -> Silence:
    """What is known after the event."""
    match event:
        case Looked(member, node, _, at_s, answered=True):
            return _counted(_heard(silence, node), member, Count(node, at_s, at_s))
        case Looked(member, node, asked_s, at_s):
            before = silence.counts.get(member, Count(node, asked_s, asked_s))
            late_s = max(0.0, at_s - before.looked_s - _APART_S)
            return _counted(silence, member, Count(node, before.since_s + late_s, at_s))
        case Beaten(node):
            return _heard(silence, node)


def _heard(silence: Silence, node: str) -> Silence:
    return replace(silence, lapse=None) if silence.lapse is not None and silence.lapse.node == node else silence


def _counted(silence: Silence, member: str, count: Count) -> Silence:
    return replace(silence, counts={**silence.counts, member: count})
