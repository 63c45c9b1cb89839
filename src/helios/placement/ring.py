"""The consistent-hash ring: positions, points, and whose point comes first."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence

from helios.placement._points import Points, digest, position

__all__ = ["POSITIONS", "Ring", "hash_tag", "points_of", "position"]

POSITIONS = 2**64


def hash_tag(key: bytes) -> bytes:
    """The part of the key that is hashed: what stands in the first non-empty `{...}`, else the whole key.

    Redis Cluster's rule, so that keys which belong together there do so here.
    """
    opening = key.find(b"{")
    if opening >= 0:
        closing = key.find(b"}", opening + 1)
        if closing > opening + 1:
            return key[opening + 1 : closing]
    return key


def points_of(shard: str, weight: float, virtual_nodes: int) -> list[int]:
    """The positions of a shard's points; `round(virtual_nodes * weight)` of them."""
    return [digest(f"{shard}#{i}".encode()) for i in range(round(virtual_nodes * weight))]


class Ring:
    """Ring points in order. Look-up costs one MD5 and one bisect, both compiled; memory is about 68 bytes a point."""

    __slots__ = ("_owners", "_positions", "points", "shards")

    def __init__(
        self,
        weights: Mapping[str, float],
        virtual_nodes: int,
        reassigned: Sequence[tuple[int, str]] = (),
    ) -> None:
        """`reassigned` gives single positions to another shard, whoever's points they were."""
        owner_at: dict[int, str] = {}
        for shard, weight in weights.items():
            for point in points_of(shard, weight, virtual_nodes):
                # Of equal points the lesser id wins, so the order of insertion cannot matter.
                owner_at[point] = min(owner_at.get(point, shard), shard)
        for point, shard in reassigned:
            if point in owner_at and shard in weights:
                owner_at[point] = shard
        self._positions = sorted(owner_at)
        self._owners = [owner_at[point] for point in self._positions]
        self.points = Points(self._positions, self._owners)
        self.shards = tuple(sorted(weights))

    def __len__(self) -> int:
        return len(self._positions)

    @property
    def positions(self) -> Sequence[int]:
        """The positions of all points, ascending."""
        return self._positions

    @property
    def point_owners(self) -> Sequence[str]:
        """The owners of all points, in the order of `positions`."""
        return self._owners

    def at(self, place: int) -> str:
        """The owner of a position. Raises IndexError on a ring without points."""
        return self.points.at(place)

    def owner(self, key: bytes) -> str:
        """The shard that owns `key` by ring: that of the first point at or after its position, wrapping."""
        return self.points.owner(key)

    def owners(self, key: bytes, count: int) -> list[str]:
        """The first `count` distinct shards clockwise from the key; all of them where there are fewer."""
        found: list[str] = []
        if count < 1:
            return found
        start = bisect_left(self._positions, position(key))
        for step in range(len(self._owners)):
            shard = self._owners[(start + step) % len(self._owners)]
            if shard not in found:
                found.append(shard)
                if len(found) == count:
                    break
        return found

    def shares(self) -> dict[str, float]:
        """For each shard the part of all positions that it owns, between 0 and 1."""
        total = dict.fromkeys(self.shards, 0)
        for index, (point, shard) in enumerate(zip(self._positions, self._owners, strict=True)):
            before = self._positions[index - 1] if index else self._positions[-1] - POSITIONS
            total[shard] += point - before
        return {shard: arc / POSITIONS for shard, arc in total.items()}
