"""Where a scan of all keys stands, as the number that clients bring back: no key is missed, also where keys move.

A scan visits every shard, by number. Keys that meanwhile move from a shard still to come to one that has been
visited would be missed. So a cursor names the generation of ownership in which its round began, and at the
end of a round another one visits the shards that have received keys since; there is none where no shard has. A key
that is there all the time is given in the first round that begins after it came to the shard that it is on when the
scan ends: the shard has received keys since the round before, so it is visited, and the key stays during the visit.

For this, a router asks a shard only where its topology has no fence: a pair switches only when every router has
acknowledged its fence. The exception is a router that was forced off the source of a pair and has yet to hear of
it. So none answers a cursor of a later generation than its own (Ahead), and whoever would end a scan makes sure
first that its session lasts.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from helios.errors import HeliosError
from helios.model.topology import Shard, Topology, with_numbers

_NUMBER_BITS = 10
_RUN_BITS = 6
_ROUND_BITS = 2
_SPAN_BITS = 5
_GENERATION_BITS = 11
_INNER_BITS = 64 - _NUMBER_BITS - _RUN_BITS - _ROUND_BITS - _SPAN_BITS - _GENERATION_BITS
_ELEMENT_RUN_BITS = 8

SHARDS_MAX = (1 << _NUMBER_BITS) - 1
ROUNDS = 3
"""Rounds that clients take step by step; where keys still move then, the rest is to be looked through in one go."""

_RUN_MASK = (1 << _RUN_BITS) - 1
_CYCLE = 1 << _GENERATION_BITS
_AHEAD_MAX = 64  # so far behind the others a router can be; beyond, a generation counts as long gone
_SPAN_MAX = (1 << _SPAN_BITS) - 1


class Ahead(HeliosError):
    """The cursor was made by a router that has seen a switch which this one has not seen yet."""

    code = "AHEAD"


class CursorTooLong(HeliosError):
    """A server's own cursor has more digits than can be passed on."""

    code = "CURSOR"


@dataclass(frozen=True, slots=True)
class Place:
    """How far a scan is: in the visit of one shard, in one of the rounds.

    `inner` is the cursor of the shard's server, made by the process that `run` tells from others (with some luck: the
    lowest bits of a digest). The round began in `generation` and visits the shards that have received keys since the
    generation `since`; every shard where that is None.
    """

    number: int
    generation: int
    round: int = 0
    since: int | None = None
    inner: int = 0
    run: int = 0

    @property
    def last(self) -> bool:
        """Whether what is left is to be looked through in one go."""
        return self.round == ROUNDS

    def visits(self, shard: Shard) -> bool:
        """Whether this round visits the shard."""
        return self.since is None or shard.received > self.since

    def cut_off(self, run: int) -> bool:
        """Whether the server process that answers is another one than that which has made the inner cursor.

        It means nothing to it: the shard's keys are to be visited again from the first one on.
        """
        return self.inner != 0 and run & _RUN_MASK != self.run

    def within(self, inner: int, run: int) -> Place:
        """Further on in the same visit, by the answer of a server process."""
        return replace(self, inner=0 if self.cut_off(run) else inner, run=run & _RUN_MASK)


def start(topology: Topology) -> Place:
    """The beginning of a scan."""
    return Place(0, topology.generation)


def shard_at(place: Place, topology: Topology) -> tuple[Place, Shard] | None:
    """The shard to ask, at or after the place, and the place in it; None where the scan has come to its end."""
    for shard in _in_order(topology):
        if shard.number >= place.number and place.visits(shard):
            return replace(place, number=shard.number, inner=place.inner if shard.number == place.number else 0), shard
    return _next_round(place, topology)


def after(place: Place, topology: Topology) -> Place | None:
    """The place behind the visit of its shard; None at the end of the scan."""
    found = shard_at(replace(place, number=place.number + 1, inner=0), topology)
    return found and found[0]


def _next_round(place: Place, topology: Topology) -> tuple[Place, Shard] | None:
    if all(shard.received <= place.generation for shard in topology.shards):
        return None
    generation = topology.generation
    since = place.generation if generation - place.generation <= _SPAN_MAX else None
    following = Place(0, generation, min(place.round + 1, ROUNDS), since)
    shard = next(shard for shard in _in_order(topology) if following.visits(shard))
    return replace(following, number=shard.number), shard


def _in_order(topology: Topology) -> list[Shard]:
    return sorted(with_numbers(topology.shards), key=lambda shard: shard.number)


# Clients that read cursors as floating point numbers keep 53 bits: what is long only in big shards stands on top.


def encode(place: Place | None) -> int:
    """The place as a number below 2^64; 0 is the end. Raises CursorTooLong."""
    if place is None:
        return 0
    if place.inner >> _INNER_BITS:
        raise CursorTooLong(f"the cursor {place.inner} of a server has more than {_INNER_BITS} bits")
    span = 0 if place.since is None else place.generation - place.since
    cursor = place.inner
    for value, bits in (
        (place.generation % _CYCLE, _GENERATION_BITS),
        (span, _SPAN_BITS),
        (place.round, _ROUND_BITS),
        (place.run, _RUN_BITS),
        (place.number, _NUMBER_BITS),
    ):
        cursor = cursor << bits | value
    return cursor


def decode(cursor: int, topology: Topology) -> Place:
    """The place that a number stands for, 0 being the start. Raises Ahead.

    A cursor that no router has made stands for some place.
    """
    if not cursor:
        return start(topology)
    parts = []
    for bits in (_NUMBER_BITS, _RUN_BITS, _ROUND_BITS, _SPAN_BITS, _GENERATION_BITS):
        parts.append(cursor & ((1 << bits) - 1))
        cursor >>= bits
    number, run, round_, span, low = parts
    past = (topology.generation - low) % _CYCLE
    if past >= _CYCLE - _AHEAD_MAX:
        raise Ahead("this router has yet to hear of keys that have changed their shard")
    generation = topology.generation - past
    return Place(number, generation, round_, generation - span if span else None, cursor, run)


# Cursors of HSCAN, SSCAN and ZSCAN.


def encode_element(inner: int, shard: Shard, run: int) -> int:
    """The cursor of a scan of one key's elements, with the server process that it belongs to. Raises CursorTooLong."""
    if not inner:
        return 0
    if inner >> (64 - _NUMBER_BITS - _ELEMENT_RUN_BITS):
        raise CursorTooLong(f"the cursor {inner} of {shard.id} is too long to be passed on")
    return _element(inner, shard.number, run)


def restart_element(shard: Shard, run: int) -> int:
    """The cursor that begins at a key's first element again; not 0, which would be the end."""
    return _element(0, shard.number, run)


def _element(inner: int, number: int, run: int) -> int:
    return (inner << _NUMBER_BITS | number) << _ELEMENT_RUN_BITS | run & ((1 << _ELEMENT_RUN_BITS) - 1)


def decode_element(cursor: int, shard: Shard) -> tuple[int, int]:
    """The server's cursor, 0 where another shard had made it, and the lowest bits of the run that had made it."""
    run = cursor & ((1 << _ELEMENT_RUN_BITS) - 1)
    cursor >>= _ELEMENT_RUN_BITS
    number = cursor & ((1 << _NUMBER_BITS) - 1)
    return (cursor >> _NUMBER_BITS if number == shard.number else 0), run


def same_run(run: int, low: int) -> bool:
    """Whether a server process may be the one whose lowest bits a cursor of elements has."""
    return run & ((1 << _ELEMENT_RUN_BITS) - 1) == low
