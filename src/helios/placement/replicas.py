"""Where replicas go: on other nodes, in other zones first, spread by weight, and moved as little as possible."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil, floor

# Shares are sums of fractions; a share that is whole but for rounding is whole.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Host:
    """A node that may carry replicas."""

    id: str
    weight: float = 1.0
    zone: str = ""


@dataclass(frozen=True, slots=True)
class Copies:
    """The nodes that carry a shard's leader and its replicas."""

    shard: str
    leader: str
    replicas: tuple[str, ...] = ()


def place_replicas(
    hosts: Sequence[Host], shards: Sequence[Copies], factor: int, *, zones: Mapping[str, str] | None = None
) -> dict[str, tuple[str, ...]]:
    """For each shard the nodes that are to carry its `factor` - 1 replicas; those that stay come first.

    `zones` names the zones of nodes that lead shards but are no hosts, such as external ones. A shard gets fewer
    replicas where there are too few hosts. A host carries at most one replica more, and at most one less, than its
    share by weight, as far as the leaders' places allow that; among such placements, shards whose members share a zone
    are avoided one by one, and replicas stay where they are unless one of these rules moves them. The same arguments
    always give the same answer. Costs O(shards · factor · hosts) where little moves.
    """
    board = _Board(hosts, shards, factor, zones or {})
    for shard in sorted(board.wanted):
        board.fill(shard)
    board.even_out()
    board.part_zones()
    return {copies.shard: _in_order(board.replicas[copies.shard], copies.replicas) for copies in shards}


def shares(hosts: Sequence[Host], shards: Sequence[Copies], factor: int) -> dict[str, float]:
    """How many replicas each host carries if all are spread by weight; no more than there are shards led elsewhere."""
    room = {host.id: sum(copies.leader != host.id for copies in shards) for host in hosts}
    left = float(sum(_wanted(copies, hosts, factor) for copies in shards))
    open_hosts = {host.id: host.weight for host in hosts}
    found = dict.fromkeys(open_hosts, 0.0)
    while open_hosts and left > _ROUNDING:
        total = sum(open_hosts.values())
        full = [host for host, weight in open_hosts.items() if left * weight / total >= room[host]]
        if not full:
            found.update({host: left * weight / total for host, weight in open_hosts.items()})
            break
        for host in full:
            found[host] = float(room[host])
            del open_hosts[host]
        left -= sum(room[host] for host in full)
    return found


def _in_order(placed: Sequence[str], earlier: Sequence[str]) -> tuple[str, ...]:
    return (*(host for host in dict.fromkeys(earlier) if host in placed), *(h for h in placed if h not in earlier))


def _wanted(copies: Copies, hosts: Sequence[Host], factor: int) -> int:
    return min(factor - 1, sum(host.id != copies.leader for host in hosts))


@dataclass(frozen=True, slots=True)
class _Hop:
    """One replica goes from one host to another."""

    shard: str
    source: str
    target: str


class _Board:
    """Replicas on hosts while they are placed."""

    def __init__(self, hosts: Sequence[Host], shards: Sequence[Copies], factor: int, zones: Mapping[str, str]) -> None:
        self._hosts = {host.id: host for host in sorted(hosts, key=lambda host: host.id)}
        self._zones = {**zones, **{host.id: host.zone for host in hosts}}
        self._places = {host: number for number, host in enumerate(self._hosts)}
        self._leaders = {copies.shard: copies.leader for copies in shards}
        self._earlier = {copies.shard: frozenset(copies.replicas) for copies in shards}
        self.wanted = {copies.shard: _wanted(copies, hosts, factor) for copies in shards}
        share = shares(hosts, shards, factor)
        self._most = {host: floor(share[host] + 1 + _ROUNDING) for host in self._hosts}
        self._least = {host: max(0, ceil(share[host] - 1 - _ROUNDING)) for host in self._hosts}
        self.replicas: dict[str, list[str]] = {copies.shard: [] for copies in shards}
        self._carried: dict[str, set[str]] = {host: set() for host in self._hosts}
        self._hops_made: list[_Hop] = []
        # Those with no choice come first.
        for copies in sorted(shards, key=lambda copies: len(copies.replicas) > self.wanted[copies.shard]):
            self._keep(copies)

    def _keep(self, copies: Copies) -> None:
        usable = dict.fromkeys(host for host in copies.replicas if host in self._hosts and host != copies.leader)
        while usable and len(self.replicas[copies.shard]) < self.wanted[copies.shard]:
            zones = self._zones_of(copies.shard)
            best = min(usable, key=lambda host: (zones[self._zones[host]], self._fullness(host)))
            del usable[best]
            self._put(copies.shard, best)

    def fill(self, shard: str) -> None:
        """Give the shard the replicas that it lacks."""
        while len(self.replicas[shard]) < self.wanted[shard]:
            self._put(shard, min(self._free_of(shard), key=self._cost(shard)))

    def even_out(self) -> None:
        """Move replicas until no host has more than it may or less than it should, as far as hops can do that."""
        for strict in (True, False):
            for host in self._hosts:
                while self._load(host) > self._most[host] and self._shift([host], self._has_room, strict):
                    pass
                while self._load(host) < self._least[host] and self._shift(self._givers(), host.__eq__, strict):
                    pass

    def part_zones(self) -> None:
        """Move replicas that share a zone with another member of their shard to one that has none, while that helps."""
        before = None
        while (crowded := self._crowded()) and crowded != before:
            before = crowded
            for shard, host in crowded:
                # An earlier move may have helped this one, too.
                if host in self.replicas[shard] and self._zones_of(shard, without=host)[self._zones[host]]:
                    self._move_out(shard, host)

    def _crowded(self) -> list[tuple[str, str]]:
        """The replicas that share a zone with another member of their shard."""
        return [
            (shard, host)
            for shard, replicas in self.replicas.items()
            for host in replicas
            if self._zones_of(shard, without=host)[self._zones[host]]
        ]

    def _move_out(self, shard: str, host: str) -> None:
        zones = self._zones_of(shard, without=host)
        better = [other for other in self._free_of(shard) if not zones[self._zones[other]]]
        for other in sorted(better, key=self._cost(shard)):
            before = len(self._hops_made)
            self._hop(_Hop(shard, host, other))
            # A host that has too many now passes one on, and one that has too few takes one.
            if (self._load(other) <= self._most[other] or self._shift([other], self._has_room, True)) and (
                self._load(host) >= self._least[host] or self._shift(self._givers(), host.__eq__, True)
            ):
                return
            for hop in reversed(self._hops_made[before:]):
                self._hop(_Hop(hop.shard, hop.target, hop.source))

    def _shift(self, starts: Iterable[str], is_end: Callable[[str], bool], strict: bool) -> bool:
        """Take one replica from a start to an end by the fewest hops; with `strict`, no shard gets closer in zones."""
        came: dict[str, _Hop | None] = dict.fromkeys(starts)
        queue = deque(came)
        while queue:
            source = queue.popleft()
            for hop in self._hops(source, came.keys(), strict):
                if hop.target in came:
                    continue
                came[hop.target] = hop
                if is_end(hop.target):
                    step: _Hop | None = hop
                    while step is not None:
                        self._hop(step)
                        step = came[step.source]
                    return True
                queue.append(hop.target)
        return False

    def _hops(self, source: str, passed: Iterable[str], strict: bool) -> list[_Hop]:
        """The hops from a host to others, those first that end at the emptiest."""
        skipped = set(passed)
        hops: dict[str, tuple[tuple[int, bool], _Hop]] = {}
        for shard in sorted(self._carried[source]):
            zones = self._zones_of(shard, without=source)
            for target in self._free_of(shard):
                if target in skipped:
                    continue
                gain = zones[self._zones[target]] - zones[self._zones[source]]
                # What has to be made anyway goes anywhere for nothing.
                cost = (gain, source in self._earlier[shard])
                if (gain <= 0 or not strict) and (target not in hops or cost < hops[target][0]):
                    hops[target] = (cost, _Hop(shard, source, target))
        return [hops[target][1] for target in sorted(hops, key=lambda target: (self._fullness(target), target))]

    def _hop(self, hop: _Hop) -> None:
        replicas = self.replicas[hop.shard]
        replicas.remove(hop.source)
        replicas.append(hop.target)
        self._carried[hop.source].remove(hop.shard)
        self._carried[hop.target].add(hop.shard)
        self._hops_made.append(hop)

    def _put(self, shard: str, host: str) -> None:
        self.replicas[shard].append(host)
        self._carried[host].add(shard)

    def _free_of(self, shard: str) -> list[str]:
        """The hosts without a member of the shard."""
        taken = {self._leaders[shard], *self.replicas[shard]}
        return [host for host in self._hosts if host not in taken]

    def _givers(self) -> list[str]:
        """The hosts that may do with one less, the fullest first."""
        giving = [host for host in self._hosts if self._load(host) > self._least[host]]
        return sorted(giving, key=lambda host: (-self._fullness(host), host))

    def _zones_of(self, shard: str, *, without: str = "") -> Counter[str]:
        """How many members of the shard, but one, are in each zone."""
        members = (self._leaders[shard], *self.replicas[shard])
        return Counter(self._zones.get(member, "") for member in members if member != without)

    def _cost(self, shard: str) -> Callable[[str], tuple[bool, int, float, int]]:
        """How badly a host suits another replica of the shard."""
        zones = self._zones_of(shard)
        led_at, count = self._places.get(self._leaders[shard], 0), len(self._places)

        def cost(host: str) -> tuple[bool, int, float, int]:
            # Where all else is equal, replicas of neighbours go to different hosts.
            ahead = (self._places[host] - led_at) % count
            fullness = (self._load(host) + 1) / self._hosts[host].weight
            return not self._has_room(host), zones[self._zones[host]], fullness, ahead

        return cost

    def _has_room(self, host: str) -> bool:
        return self._load(host) < self._most[host]

    def _load(self, host: str) -> int:
        return len(self._carried[host])

    def _fullness(self, host: str) -> float:
        return self._load(host) / self._hosts[host].weight
