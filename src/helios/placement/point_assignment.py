"""Points on the move between shards: the loads as they stand, and the two steps that even them out."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy

from helios.placement.targets import ROUNDING, Scope, Targets, targets_for

_PARTNERS = 4
_SWAPS_TRIED = 12
# A move or swap must lower what it is meant to lower by this part, so that refining ends.
_GAIN = 0.01


class PointAssignment:
    """The owner and load of every point, the sums by shard, and what of them may move.

    `measured` are the owners under which the loads were measured: a point that another shard gets may
    bring it less, where rules of that shard pass keys on.
    """

    def __init__(
        self,
        scope: Scope,
        measured: Sequence[str],
        owners: Sequence[str],
        heaviness: Sequence[float],
        ruled: Mapping[str, float],
    ) -> None:
        self._scope = scope
        self._heaviness = heaviness
        # The points of each shard, put in order of their load for the shards that need it.
        self._points: dict[str, list[int]] = {}
        self._sorted: dict[str, list[tuple[float, int]]] = {}
        self._kept = {shard: scope.kept(shard) for shard in scope.forwards}
        self.owners = list(owners)
        self.loads: dict[str, float] = dict.fromkeys(scope.weights, 0.0)
        by_rule = dict(ruled)
        for was, owner, load in zip(measured, owners, heaviness, strict=True):
            if was == owner or owner not in scope.forwards:
                self.loads[owner] += load
            else:
                self.loads[owner] += load * self._kept[owner]
                for target, part in scope.forwards[owner].items():
                    by_rule[target] = by_rule.get(target, 0.0) + load * part
        for shard, load in by_rule.items():
            self.loads[shard] = self.loads.get(shard, 0.0) + load
        self.targets: Targets = targets_for(scope, self.loads, owners, heaviness, by_rule)

    def copy(self) -> PointAssignment:
        """The same assignment again, before any point has moved."""
        other = copy(self)
        other.owners, other.loads = list(self.owners), dict(self.loads)
        other._points, other._sorted = {}, {}
        return other

    def outside(self, loads: Mapping[str, float]) -> float:
        """How far all shards together would be outside the band with these loads; 0 when none is."""
        targets = self.targets
        return sum(targets.outside(shard, loads[shard], targets.band) for shard in targets.centre)

    def flow(self) -> None:
        """Send from the overloaded to the underloaded what is needed and no more, a few partners to each shard.

        Both lists are gone through side by side, so that there are fewer pairs than shards. Between two
        shards the heaviest point that still fits goes first, which leaves the light ones for the rest.
        """
        givers, takers = self._quotas()
        if not takers:
            return
        waiting = iter(takers)
        taker, quota = next(waiting)
        room = quota
        for giver, amount in givers:
            left = amount
            while left > 0:
                kept = self._kept.get(taker, 1.0)
                sent = self._send(giver, taker, min(left, room / kept))
                left -= sent
                room -= sent * kept
                if left < room or (not sent and room == quota):
                    # This giver is done, or its points are too heavy even for the taker with the most room.
                    break
                taker, quota = next(waiting, ("", 0.0))
                room = quota
                if not taker:
                    return

    def refine(self) -> None:
        """Bring in, by single moves and swaps, the shards that are still outside: those with coarse or heavy points."""
        order = sorted((self._relative(shard), shard) for shard in self.targets.centre if self._takes_part(shard))
        unsettled = list(order)
        band = self.targets.band + ROUNDING
        for _ in range(2 * len(order) + 64):
            if not unsettled:
                return
            relative, shard = max(unsettled[0], unsettled[-1], key=lambda entry: abs(entry[0]))
            if abs(relative) <= band:
                return
            for _, partner in order[:_PARTNERS] if relative > 0 else order[: -_PARTNERS - 1 : -1]:
                giver, taker = (shard, partner) if relative > 0 else (partner, shard)
                before = [(self._relative(s), s) for s in (giver, taker)]
                if giver != taker and self._relieve(giver, taker):
                    self._update(order, before)
                    self._update(unsettled, before)
                    break
            else:
                unsettled.pop(bisect_left(unsettled, (relative, shard)))

    def _update(self, order: list[tuple[float, str]], stale: Iterable[tuple[float, str]]) -> None:
        """Put the shards of the stale entries, where they are listed, in their new places."""
        for entry in stale:
            index = bisect_left(order, entry)
            if index < len(order) and order[index] == entry:
                order.pop(index)
                insort(order, (self._relative(entry[1]), entry[1]))

    def _takes_part(self, shard: str) -> bool:
        return shard in self._scope.giving or shard in self._scope.taking

    def _may_take(self, shard: str) -> bool:
        """Whether points may go there: not where there is too much anyway."""
        return shard in self._scope.taking and shard not in self.targets.full

    def _quotas(self) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        """How much each giver is to give and each taker may take, the most first."""
        scope, targets = self._scope, self.targets
        high, low = targets.aim, -targets.aim
        takers = [s for s in sorted(scope.taking) if targets.centre[s] and self._may_take(s)]
        givers = [s for s in sorted(scope.giving) if targets.centre[s]]
        excess = sum(max(0.0, self._relative(s) - high) * targets.centre[s] for s in givers)
        lack = sum(max(0.0, low - self._relative(s)) * targets.centre[s] for s in takers)
        if excess >= lack:
            low = min(high, self._level(takers, excess, filling=True))
        else:
            high = max(low, self._level(givers, lack, filling=False))
        gives = [(s, (self._relative(s) - high) * targets.centre[s]) for s in givers]
        takes = [(s, (low - self._relative(s)) * targets.centre[s]) for s in takers]
        return _largest_first(gives), _largest_first(takes)

    def _level(self, shards: Iterable[str], amount: float, *, filling: bool) -> float:
        """The deviation up to which `amount` fills the emptiest shards, or down to which it drains the fullest."""
        order = sorted(((self._relative(s), s) for s in shards), reverse=not filling)
        level, share = 0.0, 0.0
        left = amount
        for index, (relative, shard) in enumerate(order):
            share += self.targets.centre[shard]
            following = order[index + 1][0] if index + 1 < len(order) else None
            level = relative + left / share if filling else relative - left / share
            if following is None or (level <= following if filling else level >= following):
                break
            left -= abs(following - relative) * share
        return level

    def _send(self, giver: str, taker: str, amount: float) -> float:
        """Move points of together at most `amount`, heaviest first; how much it was."""
        held = self._held(giver)
        left = amount
        index = 0
        while (index := bisect_left(held, (-left, -1), index)) < len(held):
            weight, point = held[index]
            self._move(point, giver, taker)
            left += weight
        return amount - left

    def _relieve(self, giver: str, taker: str) -> bool:
        """The best single move or swap between the two, done if it brings them closer to the band."""
        centre_g, centre_t, aim = self.targets.centre[giver], self.targets.centre[taker], self.targets.aim
        above, below = self._relative(giver), -self._relative(taker)
        if not (centre_g and centre_t):
            return False
        kept = self._kept.get(taker, 1.0)
        needed = max((above - aim) * centre_g, (below - aim) * centre_t, 0.0)
        even = (above + below) / (1 / centre_g + 1 / centre_t)
        # How far both are outside the aim: what a move is to lower, with the least carried.
        strain = max(0.0, abs(above) - aim) + max(0.0, abs(below) - aim)
        best, best_carried = strain * (1 - _GAIN), 0.0
        chosen: tuple[int, int | None] | None = None
        for there, point, back_again, back in self._options(giver, taker, needed, even):
            sent = there - back_again
            left = max(0.0, abs(above - sent / centre_g) - aim) + max(0.0, abs(below - sent * kept / centre_t) - aim)
            if left < best or (left == best and there + back_again < best_carried):
                best, best_carried, chosen = left, there + back_again, (point, back)
        if chosen is None:
            return False
        point, back = chosen
        self._move(point, giver, taker)
        if back is not None:
            self._move(back, taker, giver)
        return True

    def _options(
        self, giver: str, taker: str, needed: float, even: float
    ) -> Iterator[tuple[float, int, float, int | None]]:
        """Moves and swaps worth a look: (load that goes, its point, load that comes back, its point)."""
        if giver not in self._scope.giving or not self._may_take(taker):
            return
        gives = self._held(giver)
        for amount in (needed, even):
            for weight, point in _near(gives, amount):
                yield -weight, point, 0.0, None
        if taker not in self._scope.giving or not self._may_take(giver):
            return
        returns = self._held(taker)
        heavier = gives[: bisect_left(gives, (-needed, -1))]
        for weight, point in heavier[:: 1 + len(heavier) // _SWAPS_TRIED]:
            for amount in (needed, even):
                for other, back in _near(returns, -weight - amount):
                    yield -weight, point, -other, back

    def _relative(self, shard: str) -> float:
        return self.targets.relative(shard, self.loads[shard])

    def _held(self, shard: str) -> list[tuple[float, int]]:
        """The points of a shard that carry anything, as (-load, index), the heaviest first."""
        held = self._sorted.get(shard)
        if held is None:
            if not self._points:
                self._points = {owner: [] for owner in self._scope.weights}
                for index, owner in enumerate(self.owners):
                    self._points[owner].append(index)
            heaviness = self._heaviness
            held = sorted((-heaviness[index], index) for index in self._points[shard] if heaviness[index])
            self._sorted[shard] = held
        return held

    def _move(self, point: int, giver: str, taker: str) -> None:
        entry = (-self._heaviness[point], point)
        held = self._held(giver)
        held.pop(bisect_left(held, entry))
        if taker in self._sorted:
            insort(self._sorted[taker], entry)
        else:
            self._points[taker].append(point)
        self.owners[point] = taker
        self.loads[giver] -= self._heaviness[point]
        self._gain(taker, self._heaviness[point])

    def _gain(self, shard: str, load: float) -> None:
        """Give a shard a point's load, part of which its rules may pass on."""
        self.loads[shard] += load * self._kept.get(shard, 1.0)
        for target, part in self._scope.forwards.get(shard, {}).items():
            self.loads[target] = self.loads.get(target, 0.0) + load * part


def _largest_first(quotas: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(((shard, amount) for shard, amount in quotas if amount > 0), key=lambda quota: (-quota[1], quota[0]))


def _near(held: Sequence[tuple[float, int]], amount: float) -> Iterator[tuple[float, int]]:
    """The lightest point that is at least as heavy as `amount`, and the heaviest that is lighter."""
    index = bisect_left(held, (-amount, -1))
    if index:
        yield held[index - 1]
    if index < len(held):
        yield held[index]
