"""A client that lets replicas answer what it reads, as far as that concerns the order of its commands."""

from __future__ import annotations

from itertools import count

_TURNS = count()


class StaleReads:
    """What is to be known of such a client from one command to the next.

    It keeps to one replica of a shard as long as that is fresh, so that what it reads seldom goes back in time; clients
    take turns, so that all replicas are read from.
    """

    __slots__ = ("away", "since", "turn", "wrote")

    def __init__(self) -> None:
        self.turn = next(_TURNS)
        self.away = False  # a replica may be asked for something that is not answered yet
        self.wrote = False  # what it has written may not be answered yet
        self.since = 0.0  # when all of its own writes had been answered: it is to see them
