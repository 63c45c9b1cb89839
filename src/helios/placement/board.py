"""Points on the move between shards: the loads as they stand, and the two steps that even them out."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field

_PARTNERS = 8
_SWAPS_TRIED = 32
# A move or swap must lower what it is meant to lower by this part, so that refining ends.
_GAIN = 0.01


@dataclass(frozen=True, slots=True)
class Targets:
    """What is wanted: deviations from the fair shares of at most `band`, aiming at `aim`, and who may take part.

    `forwards` tells which part of what a shard gets by ring its rules pass on, and to which shards.
    """

    fair: Mapping[str, float]
    band: float
    aim: float
    giving: Set[str]
    taking: Set[str]
    forwards: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    def kept(self, shard: str) -> float:
        """The part of what a shard gets by ring that stays there."""
        passed_on = self.forwards.get(shard)
        return 1.0 if passed_on is None else 1.0 - sum(passed_on.values())


class Board:
    """The owner and load of every point, the sums by shard, and what of them may move.

    `measured` are the owners under which the loads were measured: a point that another shard gets may
    bring it less, where rules of that shard pass keys on.
    """

    def __init__(
        self,
        targets: Targets,
        measured: Sequence[str],
        owners: Sequence[str],
        heaviness: Sequence[float],
        ruled: Mapping[str, float],
    ) -> None:
        self._targets = targets
        self._heaviness = heaviness
        self._held_by: dict[str, list[tuple[float, int]]] = {}
        self._kept = {shard: targets.kept(shard) for shard in targets.forwards}
        self.owners = list(owners)
        self.loads: dict[str, float] = dict.fromkeys(targets.fair, 0.0)
        for shard, load in ruled.items():
            self.loads[shard] = self.loads.get(shard, 0.0) + load
        if targets.forwards:
            for was, owner, load in zip(measured, owners, heaviness, strict=True):
                if was == owner:
                    self.loads[owner] += load
                else:
                    self._gain(owner, load)
        else:
            for owner, load in zip(owners, heaviness, strict=True):
                self.loads[owner] += load

    @property
    def outside(self) -> float:
        """How far all shards together are outside the band, in fair shares; 0 when all are inside."""
        return sum(self._outside(shard, self.loads[shard], self._targets.band) for shard in self._targets.fair)

    def flow(self) -> None:
        """Send from the overloaded to the underloaded what is needed and no more, a few partners to each shard.

        Both lists are gone through side by side, so that there are fewer pairs than shards. Between two
        shards the heaviest point that still fits goes first, which leaves the light ones for the rest.
        """
        givers, takers = self._quotas()
        waiting = iter(takers)
        taker, room = next(waiting, ("", 0.0))
        for giver, amount in givers:
            left = amount
            while taker and left > 0:
                sent = self._send(giver, taker, min(left, room / self._kept.get(taker, 1.0)))
                left -= sent
                room -= sent * self._kept.get(taker, 1.0)
                if room <= left or room <= self._dust(taker):
                    taker, room = next(waiting, ("", 0.0))
                else:
                    break

    def refine(self) -> None:
        """Bring in, by single moves and swaps, the shards that are still outside: those with coarse or heavy points."""
        targets = self._targets
        order = sorted((self._relative(shard), shard) for shard in targets.taking if targets.fair[shard])
        stuck: set[str] = set()
        for _ in range(2 * len(order) + 64):
            shard = self._farthest(order, stuck)
            if shard is None:
                return
            above = self._relative(shard) > 1
            partners = order[:_PARTNERS] if above else order[: -_PARTNERS - 1 : -1]
            for _, partner in partners:
                giver, taker = (shard, partner) if above else (partner, shard)
                before = [(self._relative(s), s) for s in (giver, taker)]
                if giver != taker and self._relieve(giver, taker):
                    for entry in before:
                        order.pop(bisect_left(order, entry))
                        insort(order, (self._relative(entry[1]), entry[1]))
                    break
            else:
                stuck.add(shard)

    def _quotas(self) -> tuple[list[tuple[str, float]], list[tuple[str, float]]]:
        """How much each giver is to give and each taker may take, the most first."""
        targets, loads = self._targets, self.loads
        high, low = 1 + targets.aim, 1 - targets.aim
        takers = [s for s in sorted(targets.taking) if targets.fair[s] and self._kept.get(s, 1.0) >= 0.5]
        givers = sorted(targets.giving)
        excess = sum(max(0.0, loads[s] - high * targets.fair[s]) for s in givers)
        lack = sum(max(0.0, low * targets.fair[s] - loads[s]) for s in takers)
        if excess >= lack:
            low = min(high, self._level(takers, excess, filling=True))
        else:
            high = max(low, self._level(givers, lack, filling=False))
        gives = [(s, loads[s] - high * targets.fair[s]) for s in givers]
        takes = [(s, low * targets.fair[s] - loads[s]) for s in takers]
        return _most_first(gives), _most_first(takes)

    def _level(self, shards: Iterable[str], amount: float, *, filling: bool) -> float:
        """The relative load up to which `amount` fills the emptiest shards, or down to which it drains the fullest."""
        order = sorted(((self._relative(s), s) for s in shards if self._targets.fair[s]), reverse=not filling)
        level, fair = 1.0, 0.0
        left = amount
        for index, (relative, shard) in enumerate(order):
            fair += self._targets.fair[shard]
            following = order[index + 1][0] if index + 1 < len(order) else None
            step = left / fair
            level = relative + step if filling else relative - step
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
        before = self._strain(giver, taker, 0.0)
        fair = self._targets.fair
        over = self.loads[giver] - (1 + self._targets.aim) * fair[giver]
        under = (1 - self._targets.aim) * fair[taker] - self.loads[taker]
        needed = max(over, under, 0.0)
        even = (self.loads[giver] * fair[taker] - self.loads[taker] * fair[giver]) / (
            fair[giver] + fair[taker] or 1.0
        )
        best: tuple[float, float, int, int | None] | None = None
        for sent, point, back in self._options(giver, taker, needed, even):
            carried = self._heaviness[point] + (self._heaviness[back] if back is not None else 0.0)
            option = (self._strain(giver, taker, sent), carried, point, back)
            if best is None or option[:2] < best[:2]:
                best = option
        if best is None or best[0] > before * (1 - _GAIN):
            return False
        self._move(best[2], giver, taker)
        if best[3] is not None:
            self._move(best[3], taker, giver)
        return True

    def _options(self, giver: str, taker: str, needed: float, even: float) -> Iterator[tuple[float, int, int | None]]:
        """Moves and swaps worth a look: (net load sent, point that goes, point that comes back)."""
        if giver not in self._targets.giving or taker not in self._targets.taking:
            return
        gives = self._held(giver)
        for amount in (needed, even):
            for weight, point in _near(gives, amount):
                yield -weight, point, None
        if taker not in self._targets.giving or giver not in self._targets.taking:
            return
        returns = self._held(taker)
        heavier = gives[: bisect_left(gives, (-needed, -1))]
        for weight, point in heavier[:: max(1, len(heavier) // _SWAPS_TRIED)]:
            for amount in (needed, even):
                for other, back in _near(returns, -weight - amount):
                    yield other - weight, point, back

    def _strain(self, giver: str, taker: str, sent: float) -> float:
        """How far the two would be outside the aim, in fair shares, after a net load has been sent."""
        aim = self._targets.aim
        return self._outside(giver, self.loads[giver] - sent, aim) + self._outside(
            taker, self.loads[taker] + sent * self._kept.get(taker, 1.0), aim
        )

    def _outside(self, shard: str, load: float, band: float) -> float:
        fair = self._targets.fair[shard]
        return max(0.0, abs(load / fair - 1.0) - band) if fair else 0.0

    def _relative(self, shard: str) -> float:
        fair = self._targets.fair[shard]
        return self.loads[shard] / fair if fair else 1.0

    def _farthest(self, order: Sequence[tuple[float, str]], stuck: Set[str]) -> str | None:
        """The shard farthest outside the band that is not stuck; the ends of the order are the candidates."""
        band = self._targets.band
        highest = next((e for e in reversed(order) if e[0] <= 1 + band or e[1] not in stuck), (1.0, ""))
        lowest = next((e for e in order if e[0] >= 1 - band or e[1] not in stuck), (1.0, ""))
        relative, shard = highest if highest[0] - 1 >= 1 - lowest[0] else lowest
        return shard if abs(relative - 1) > band else None

    def _dust(self, shard: str) -> float:
        """An amount too small to look for another point."""
        return (self._targets.band - self._targets.aim) * self._targets.fair[shard] * 0.01

    def _held(self, shard: str) -> list[tuple[float, int]]:
        """The points of a shard that carry anything, as (-load, index), the heaviest first."""
        if not self._held_by:
            held: dict[str, list[tuple[float, int]]] = {owner: [] for owner in self._targets.fair}
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
        for target, part in self._targets.forwards.get(shard, {}).items():
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
