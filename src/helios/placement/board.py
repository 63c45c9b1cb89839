"""Points on the move between shards: the loads as they stand, and the two steps that even them out."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from copy import copy

from helios.placement.targets import ROUNDING, Scope, Targets, targets_for

_PARTNERS = 8
_SWAPS_TRIED = 32
# A move or swap must lower what it is meant to lower by this part, so that refining ends.
_GAIN = 0.01


class Board:
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
        self._held_by: dict[str, list[tuple[float, int]]] = {}
        self._kept = {shard: scope.kept(shard) for shard in scope.forwards}
        self.owners = list(owners)
        self.loads: dict[str, float] = dict.fromkeys(scope.weights, 0.0)
        for shard, load in ruled.items():
            self.loads[shard] = self.loads.get(shard, 0.0) + load
        if scope.forwards:
            for was, owner, load in zip(measured, owners, heaviness, strict=True):
                if was == owner:
                    self.loads[owner] += load
                else:
                    self._gain(owner, load)
        else:
            for owner, load in zip(owners, heaviness, strict=True):
                self.loads[owner] += load
        self.targets: Targets = targets_for(scope, self.loads, owners, heaviness, ruled)

    def copy(self) -> Board:
        """The same board again, before any point has moved on it."""
        other = copy(self)
        other.owners, other.loads, other._held_by = list(self.owners), dict(self.loads), {}
        return other

    def outside(self, loads: Mapping[str, float]) -> float:
        """How far all shards together would be outside the band with these loads, in fair shares; 0 when none is."""
        targets = self.targets
        return sum(targets.outside(shard, loads[shard], targets.band) for shard in targets.fair)

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
        order = sorted((self._relative(shard), shard) for shard in self.targets.fair if self._takes_part(shard))
        stuck: set[str] = set()
        for _ in range(2 * len(order) + 64):
            shard = self._farthest(order, stuck)
            if shard is None:
                return
            above = self._relative(shard) > 0
            partners = order[:_PARTNERS] if above else order[: -_PARTNERS - 1 : -1]
            for _, partner in partners:
                giver, taker = (shard, partner) if above else (partner, shard)
                before = [(self._relative(s), s) for s in (giver, taker)]
                if giver != taker and self._relieve(giver, taker):
                    for entry in before:
                        order.pop(bisect_left(order, entry))
                    for _, moved in before:
                        insort(order, (self._relative(moved), moved))
                    break
            else:
                stuck.add(shard)

    def _takes_part(self, shard: str) -> bool:
        return shard in self._scope.giving or shard in self._scope.taking

    def _quotas(self) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        """How much each giver is to give and each taker may take, the most first."""
        scope, targets = self._scope, self.targets
        high, low = targets.aim, -targets.aim
        takers = [s for s in sorted(scope.taking) if targets.fair[s] and self._kept.get(s, 1.0) >= 0.5]
        givers = [s for s in sorted(scope.giving) if targets.fair[s]]
        excess = sum(max(0.0, self._relative(s) - high) * targets.fair[s] for s in givers)
        lack = sum(max(0.0, low - self._relative(s)) * targets.fair[s] for s in takers)
        if excess >= lack:
            low = min(high, self._level(takers, excess, filling=True))
        else:
            high = max(low, self._level(givers, lack, filling=False))
        gives = [(s, (self._relative(s) - high) * targets.fair[s]) for s in givers]
        takes = [(s, (low - self._relative(s)) * targets.fair[s]) for s in takers]
        return _most_first(gives), _most_first(takes)

    def _level(self, shards: Iterable[str], amount: float, *, filling: bool) -> float:
        """The deviation up to which `amount` fills the emptiest shards, or down to which it drains the fullest."""
        order = sorted(((self._relative(s), s) for s in shards), reverse=not filling)
        level, fair = 0.0, 0.0
        left = amount
        for index, (relative, shard) in enumerate(order):
            fair += self.targets.fair[shard]
            following = order[index + 1][0] if index + 1 < len(order) else None
            level = relative + left / fair if filling else relative - left / fair
            if following is None or (level <= following if filling else level >= following):
                break
            left -= abs(following - relative) * fair
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
        targets = self.targets
        fair, aim = targets.fair, targets.aim
        above, below = self._relative(giver), -self._relative(taker)
        if not (fair[giver] and fair[taker]):
            return False
        needed = max((above - aim) * fair[giver], (below - aim) * fair[taker], 0.0)
        even = (above + below) / (1 / fair[giver] + 1 / fair[taker])
        best: tuple[float, float, int, int | None] | None = None
        for sent, point, back in self._options(giver, taker, needed, even):
            carried = self._heaviness[point] + (self._heaviness[back] if back is not None else 0.0)
            option = (self._strain(giver, taker, sent), carried, point, back)
            if best is None or option[:2] < best[:2]:
                best = option
        if best is None or best[0] > self._strain(giver, taker, 0.0) * (1 - _GAIN):
            return False
        self._move(best[2], giver, taker)
        if best[3] is not None:
            self._move(best[3], taker, giver)
        return True

    def _options(self, giver: str, taker: str, needed: float, even: float) -> Iterator[tuple[float, int, int | None]]:
        """Moves and swaps worth a look: (net load sent, point that goes, point that comes back)."""
        if giver not in self._scope.giving or taker not in self._scope.taking:
            return
        gives = self._held(giver)
        for amount in (needed, even):
            for weight, point in _near(gives, amount):
                yield -weight, point, None
        if taker not in self._scope.giving or giver not in self._scope.taking:
            return
        returns = self._held(taker)
        heavier = gives[: bisect_left(gives, (-needed, -1))]
        for weight, point in heavier[:: max(1, len(heavier) // _SWAPS_TRIED)]:
            for amount in (needed, even):
                for other, back in _near(returns, -weight - amount):
                    yield other - weight, point, back

    def _strain(self, giver: str, taker: str, sent: float) -> float:
        """How far the two would be outside the aim, in fair shares, after a net load has been sent."""
        targets = self.targets
        return targets.outside(giver, self.loads[giver] - sent, targets.aim) + targets.outside(
            taker, self.loads[taker] + sent * self._kept.get(taker, 1.0), targets.aim
        )

    def _relative(self, shard: str) -> float:
        return self.targets.relative(shard, self.loads[shard])

    def _farthest(self, order: Sequence[tuple[float, str]], stuck: Set[str]) -> str | None:
        """The shard farthest outside the band that is not stuck; the ends of the order are the candidates."""
        band = self.targets.band + ROUNDING
        highest = next((e for e in reversed(order) if e[0] <= band or e[1] not in stuck), (0.0, ""))
        lowest = next((e for e in order if e[0] >= -band or e[1] not in stuck), (0.0, ""))
        relative, shard = highest if highest[0] >= -lowest[0] else lowest
        return shard if abs(relative) > band else None

    def _held(self, shard: str) -> list[tuple[float, int]]:
        """The points of a shard that carry anything, as (-load, index), the heaviest first."""
        if not self._held_by:
            held: dict[str, list[tuple[float, int]]] = {owner: [] for owner in self._scope.weights}
            for index, (owner, load) in enumerate(zip(self.owners, self._heaviness, strict=True)):
                if load:
                    held[owner].append((-load, index))
            for points in held.values():
                points.sort()
            self._held_by = held
        return self._held_by[shard]

    def _move(self, point: int, giver: str, taker: str) -> None:
        entry = (-self._heaviness[point], point)
        held = self._held(giver)
        held.pop(bisect_left(held, entry))
        insort(self._held(taker), entry)
        self.owners[point] = taker
        self.loads[giver] -= self._heaviness[point]
        self._gain(taker, self._heaviness[point])

    def _gain(self, shard: str, load: float) -> None:
        """Give a shard a point's load, part of which its rules may pass on."""
        self.loads[shard] += load * self._kept.get(shard, 1.0)
        for target, part in self._scope.forwards.get(shard, {}).items():
            self.loads[target] = self.loads.get(target, 0.0) + load * part


def _most_first(quotas: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    return sorted(((shard, amount) for shard, amount in quotas if amount > 0), key=lambda quota: (-quota[1], quota[0]))


def _near(held: Sequence[tuple[float, int]], amount: float) -> Iterator[tuple[float, int]]:
    """The lightest point that is at least as heavy as `amount`, and the heaviest that is lighter."""
    index = bisect_left(held, (-amount, -1))
    if index:
        yield held[index - 1]
    if index < len(held):
        yield held[index]
