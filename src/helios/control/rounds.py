"""Acknowledgement rounds, decided: what one covers, how many followers it waits for, and what it has proved. Pure.

A reply that was answered before a round began is covered by it once a majority of the shard's members, the leader
included, has everything up to where the leader stood when the round began. While the members change, a majority of
each membership must have it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Set
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from helios.model.ids import Address
from helios.model.topology import Shard

Queue = TypeVar("Queue")


@dataclass(frozen=True, slots=True)
class Standing:
    """What a leader said in a round: under which replication id it leads, and who follows how closely.

    `reached` is how far the leader was when the round began, `acknowledged` how far each follower is at its end.
    """

    history: str
    reached: int
    acknowledged: Mapping[Address, int]

    @property
    def followers(self) -> frozenset[Address]:
        """Those that have all that the round is about."""
        return frozenset(address for address, offset in self.acknowledged.items() if offset >= self.reached)


@dataclass(frozen=True, slots=True)
class Quorum:
    """Who has to have what is acknowledged: so many at least of each set of followers, beside the leader."""

    sides: tuple[tuple[frozenset[Address], int], ...]

    @classmethod
    def of(cls, shard: Shard) -> Quorum:
        """The quorum of a shard's members, and of those before them as long as these have a say."""
        addresses = {member.id: member.address for member in shard.servers}
        return cls(
            tuple(
                (
                    frozenset(addresses[member] for member in members if member != shard.leader),
                    len(members) // 2 + 1 - (shard.leader in members),
                )
                for members in shard.memberships
            )
        )

    @property
    def alone(self) -> bool:
        """Whether the leader is enough."""
        return all(needed == 0 for _, needed in self.sides)

    def met_by(self, followers: Set[Address]) -> bool:
        """Whether these followers are enough. Who is no member, a learner say, counts for nothing."""
        return all(len(members & followers) >= needed for members, needed in self.sides)

    def wait_for(self, ahead: Set[Address]) -> int:
        """How many followers to wait for, whoever they are, so that members enough are among them.

        `ahead` had everything the last time: those of them that are no members may well be the first again.
        """
        return max(needed + len(ahead - members) if needed else 0 for members, needed in self.sides)


class Parked(Generic[Queue]):
    """Replies that wait, by the queue in which they are parked, and which of them the round under way covers."""

    def __init__(self) -> None:
        self._lots: deque[tuple[Queue, int, float]] = deque()
        self._covered = 0

    def __len__(self) -> int:
        return sum(count for _, count, _ in self._lots)

    def __bool__(self) -> bool:
        return bool(self._lots)

    @property
    def since(self) -> float:
        """When the first of those that wait was parked."""
        return self._lots[0][2]

    def add(self, queue: Queue, count: int, now: float) -> None:
        """So many more replies have been parked in this queue; no round that is under way covers them."""
        self._lots.append((queue, count, now))

    def begin(self) -> None:
        """A round begins, and covers all that is parked now."""
        self._covered = len(self._lots)

    def proved(self) -> list[tuple[Queue, int]]:
        """The round has proved enough: so many replies of each queue are covered, in the order given."""
        return [self._take() for _ in range(self._covered)]

    def failed(self) -> None:
        """The round has proved nothing; what it covered is left to the next."""
        self._covered = 0

    def expired(self, now: float, timeout: float) -> list[tuple[Queue, int]]:
        """What has been parked for that long, and waits no longer: whatever a timer is for that `since` begins."""
        expired = []
        while self._lots and self._lots[0][2] + timeout <= now:
            expired.append(self._take())
        return expired

    def forget(self, queue: Queue) -> None:
        """What is parked in this queue waits no longer."""
        lots, covered = self._lots, self._covered
        self._lots = deque(lot for lot in lots if lot[0] is not queue)
        self._covered = sum(lot[0] is not queue for lot in islice(lots, covered))

    def _take(self) -> tuple[Queue, int]:
        queue, count, _ = self._lots.popleft()
        self._covered = max(self._covered - 1, 0)
        return queue, count
