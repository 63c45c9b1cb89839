"""The topology as records of the store: what changes at every step is small, what is big is written once."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256

from helios.errors import StoreError
from helios.model.codec import decode, encode
from helios.model.topology import Pair, PairPhase, Placement, Topology
from helios.ports.records import OBJECTS, PAIRS, TOPOLOGY, put_record
from helios.ports.store import Event, Put

_PART_BYTES = 900_000
_MAX_CHANGED_PAIRS = 32  # where more change at once, writing the base again is cheaper for all
_NOWHERE = Placement()


@dataclass(frozen=True, slots=True)
class TopologyRecord:
    """What stands at /topology. It names by digest the objects that hold the rest.

    `base` is the topology without its placements, `following` the placement of the transition, empty without one.
    How far pairs have come since the base was written, their own records say.
    """

    epoch: int
    generation: int
    base: str
    placement: str
    following: str = ""

    @property
    def objects(self) -> tuple[str, ...]:
        """The digests of all objects that the topology consists of."""
        return (self.base, self.placement, self.following) if self.following else (self.base, self.placement)


@dataclass(frozen=True, slots=True)
class PairRecord:
    """How far a pair of the transition has come; `received` is the generation in which it was switched, or 0."""

    phase: PairPhase
    slow_ms: int = 0
    received: int = 0


@dataclass(frozen=True, slots=True)
class StoredObject:
    """Something that is written once and named by the digest of what it holds."""

    digest: str
    parts: tuple[bytes, ...]

    @property
    def puts(self) -> list[Put]:
        """The operations that write it: each for a commit of its own."""
        return [Put(f"{OBJECTS}{self.digest}/{number:03d}", part) for number, part in enumerate(self.parts)]


@dataclass(frozen=True, slots=True)
class StoredTopology:
    """A topology and the records that it is stored as."""

    topology: Topology
    record: TopologyRecord
    base: Topology
    pairs: Mapping[int, PairRecord]

    def records(self, before: StoredTopology | None) -> list[Put]:
        """The operations that publish it behind `before`; its objects must be there already."""
        known = before.pairs if before is not None and before.record.base == self.record.base else {}
        changed = [number for number, pair in self.pairs.items() if known.get(number) != pair]
        prefix = pairs_of(self.record.base)
        pairs = [put_record(f"{prefix}{number}", self.pairs[number]) for number in changed]
        return [put_record(TOPOLOGY, self.record), *pairs]


def pairs_of(base: str) -> str:
    """The prefix of the records of pairs that belong to a base."""
    return f"{PAIRS}{base}/"


def packed(value: Topology | Placement) -> StoredObject:
    """The value as an object."""
    content = zlib.compress(encode(value))
    parts = tuple(content[start : start + _PART_BYTES] for start in range(0, len(content), _PART_BYTES))
    return StoredObject(_digest(content), parts)


def unpacked(digest: str, parts: Sequence[bytes]) -> bytes | None:
    """What an object holds, None where some of it is missing."""
    content = b"".join(parts)
    return zlib.decompress(content) if _digest(content) == digest else None


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:32]


def stored(topology: Topology, before: StoredTopology | None) -> tuple[StoredTopology, list[StoredObject]]:
    """The topology as it is to be stored behind `before`, and the objects that this needs and `before` did not have."""
    objects: list[StoredObject] = []
    known = _placements(before)

    def named(placement: Placement) -> str:
        for digest, one in known:
            if one is placement or one == placement:
                return digest
        made = packed(placement)
        objects.append(made)
        known.append((made.digest, placement))
        return made.digest

    placement = named(topology.placement)
    following = "" if topology.transition is None else named(topology.transition.next)
    bare = _bare(topology)
    pairs = None if before is None else _changed_pairs(before, bare, topology.generation)
    if before is not None and pairs is not None:
        digest, base = before.record.base, before.base
    else:
        made = packed(bare)
        objects.append(made)
        digest, base, pairs = made.digest, bare, {}
    record = TopologyRecord(topology.epoch, topology.generation, digest, placement, following)
    return StoredTopology(topology, record, base, pairs), objects


def _placements(before: StoredTopology | None) -> list[tuple[str, Placement]]:
    if before is None:
        return []
    record, topology = before.record, before.topology
    known = [(record.placement, topology.placement)]
    return known if topology.transition is None else [*known, (record.following, topology.transition.next)]


def _bare(topology: Topology) -> Topology:
    """The topology without what is stored apart. Its epoch stays: no two bases have the same digest and so pairs."""
    transition = topology.transition
    return replace(
        topology,
        generation=0,
        placement=_NOWHERE,
        transition=None if transition is None else replace(transition, next=_NOWHERE),
    )


def _changed_pairs(before: StoredTopology, bare: Topology, generation: int) -> dict[int, PairRecord] | None:
    """The records of pairs that make `bare` of the base; None where they cannot, or where too many would change."""
    was, now = before.base.transition, bare.transition
    olds, news = () if was is None else was.pairs, () if now is None else now.pairs
    pairs: dict[int, PairRecord] = {}
    changed = 0
    for number, (old, new) in enumerate(zip(olds, news, strict=False)):
        known = before.pairs.get(number)
        if known is None and (old is new or old == new):
            continue
        if known is not None and (known.phase, known.slow_ms) == (new.phase, new.slow_ms):
            pairs[number] = known
            continue
        pairs[number] = PairRecord(new.phase, new.slow_ms, generation if new.phase is PairPhase.SWITCHED else 0)
        changed += 1
    if changed > _MAX_CHANGED_PAIRS or _with_pairs(before.base, pairs) != replace(bare, epoch=before.base.epoch):
        return None
    return pairs


def _with_pairs(base: Topology, records: Mapping[int, PairRecord]) -> Topology:
    """The base with its pairs as far as they have come."""
    transition = base.transition
    if transition is None or not records:
        return base
    pairs: list[Pair] = list(transition.pairs)
    received: dict[str, int] = {}
    for number, record in records.items():
        if number >= len(pairs):
            raise StoreError(f"the store says of pair {number} how far it is, but the transition has {len(pairs)}")
        pair = pairs[number] = replace(pairs[number], phase=record.phase, slow_ms=record.slow_ms)
        received[pair.target] = max(record.received, received.get(pair.target, 0))
    shards = tuple(
        replace(shard, received=received[shard.id]) if received.get(shard.id, 0) > shard.received else shard
        for shard in base.shards
    )
    return replace(base, shards=shards, transition=replace(transition, pairs=tuple(pairs)))


@dataclass(slots=True)
class Assembly:
    """Makes topologies of the records under /topology as they come, and of the objects that these name."""

    _head: bytes | None = None
    _pairs: dict[str, bytes] = field(default_factory=dict)  # by key
    _bases: dict[str, Topology] = field(default_factory=dict)
    _placements: dict[str, Placement] = field(default_factory=dict)

    def begin(self, records: Iterable[tuple[str, bytes]]) -> None:
        """These are all records that there are."""
        self._head, self._pairs = None, {}
        for key, value in records:
            self._take(key, value)

    def take(self, events: Iterable[Event]) -> bool:
        """Take in what one commit has changed; whether it was a publication."""
        published = False
        for event in events:
            published |= self._take(event.key, event.value)
        return published

    def _take(self, key: str, value: bytes | None) -> bool:
        if key == TOPOLOGY:
            self._head = value
            return value is not None
        if value is None:
            self._pairs.pop(key, None)
        else:
            self._pairs[key] = value
        return False

    @property
    def record(self) -> TopologyRecord | Topology | None:
        """What stands at /topology; one of before placements stood apart is the topology itself."""
        if self._head is None:
            return None
        try:
            return decode(TopologyRecord, self._head)
        except StoreError:
            return decode(Topology, self._head)

    def missing(self, record: TopologyRecord) -> list[str]:
        """The digests of the objects that are to be given before there is a topology."""
        return [one for one in record.objects if one not in self._bases and one not in self._placements]

    def give(self, record: TopologyRecord, digest: str, data: bytes) -> None:
        """This is what the object holds."""
        if digest == record.base:
            self._bases[digest] = decode(Topology, data)
        else:
            self._placements[digest] = decode(Placement, data)

    def stored(self, record: TopologyRecord) -> StoredTopology:
        """The current topology; nothing of it may be missing."""
        self._bases = {record.base: self._bases[record.base]}
        self._placements = {one: self._placements[one] for one in record.objects if one in self._placements}
        prefix = pairs_of(record.base)
        pairs = {
            int(key.removeprefix(prefix)): decode(PairRecord, value)
            for key, value in self._pairs.items()
            if key.startswith(prefix)
        }
        base = self._bases[record.base]
        bare = _with_pairs(base, pairs)
        transition = bare.transition
        topology = replace(
            bare,
            epoch=record.epoch,
            generation=record.generation,
            placement=self._placements[record.placement],
            transition=None if transition is None else replace(transition, next=self._placements[record.following]),
        )
        return StoredTopology(topology, record, base, pairs)
