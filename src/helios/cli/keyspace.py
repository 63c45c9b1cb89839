"""Keys for a simulation, counted into the stretches between ring points: from a file, or drawn with a seed."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate
from random import Random
from typing import IO

from helios.cli import files
from helios.cli.records import HEADER, BadLine, parser
from helios.errors import InvalidInput
from helios.model.balancing import Measure
from helios.placement.ring import position

CHUNK_KEYS = 1 << 20
_VALUE_BYTES = 100.0
_MIN_BYTES = 64.0
_TAIL = 1.5


class Distribution(StrEnum):
    """How drawn keys differ.

    uniform: they do not. zipf: the key of rank r has r ** -exponent of the operations of the first.
    sized: bytes with a heavy tail (Pareto from 64 bytes with shape 1.5: 192 on average, megabytes at most).
    """

    UNIFORM = "uniform"
    ZIPF = "zipf"
    SIZED = "sized"


@dataclass(frozen=True, slots=True)
class Keyspace:
    """The keys in numbers: how many, and for each stretch of the ring what lies in it."""

    title: str
    count: int
    keys: Sequence[float]
    bytes: Sequence[float]
    ops: Sequence[float]

    def by(self, measure: Measure) -> Sequence[float]:
        """What lies in each stretch, by one measure."""
        match measure:
            case Measure.KEYS:
                return self.keys
            case Measure.BYTES:
                return self.bytes
            case Measure.OPS:
                return self.ops


def drawn(
    kind: Distribution, count: int, seed: int, exponent: float, edges: Sequence[int], chunk_keys: int = CHUNK_KEYS
) -> Keyspace:
    """`count` keys at random positions, which is where MD5 puts distinct keys; the same for the same seed.

    Costs 1 to 3 µs a key; memory is that of `chunk_keys` keys. The measure by
    which keys do not differ is 100 bytes or one operation a second for each.
    """
    random = Random(seed)
    keys = [0.0] * len(edges)
    special = [0.0] * len(edges)
    chunks = -(-count // chunk_keys)
    for chunk in range(chunks):
        ranks = range(chunk + 1, count + 1, chunks)
        positions = array("Q")
        positions.frombytes(random.randbytes(8 * len(ranks)))
        ends = _ends(sorted(positions), edges)
        _add(keys, ends, None)
        if kind is not Distribution.UNIFORM:
            _add(special, ends, _masses(kind, ranks, exponent, random))
    title = f"{count:,} keys ({kind}{f' {exponent:g}' if kind is Distribution.ZIPF else ''}, seed {seed})"
    alike = [key * _VALUE_BYTES for key in keys]
    match kind:
        case Distribution.UNIFORM:
            return Keyspace(title, count, keys, alike, keys)
        case Distribution.ZIPF:
            scale = count / (sum(special) or 1.0)
            return Keyspace(title, count, keys, alike, [mass * scale for mass in special])
        case Distribution.SIZED:
            return Keyspace(title, count, keys, special, keys)


def read(path: str, edges: Sequence[int]) -> Keyspace:
    """The keys of a file (plain or gzip): a key on each line, or a key, a tab and its value. About 3 µs a key.

    A dump is read as what it is. Raises FileProblem, and InvalidInput for no keys or a bad line of a dump.
    """
    keys = [0.0] * len(edges)
    sizes = [0.0] * len(edges)
    count, last = 0, len(edges)
    with files.reading(path) as (content, _):
        for key, value in _pairs(path, content):
            index = bisect_left(edges, position(key))
            index = index if index < last else 0
            keys[index] += 1.0
            sizes[index] += len(key) + len(value)
            count += 1
    if not count:
        raise InvalidInput(f"{path} holds no keys: each line should be a key, or a key, a tab and its value")
    return Keyspace(f"{count:,} keys of {path}", count, keys, sizes, keys)


def _pairs(path: str, content: IO[bytes]) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values; a dump is known by its name where it is JSON Lines, and by its first line where it is TSV."""
    parse = parser("jsonl") if path.removesuffix(".gz").endswith((".jsonl", ".ndjson")) else None
    for number, line in enumerate(files.lines(content), 1):
        if not line:
            continue
        if line == HEADER and parse is None:
            parse = parser("tsv")
        if parse is None:
            key, _, value = line.partition(b"\t")
            yield key, value
            continue
        try:
            record = parse(line)
        except BadLine as error:
            raise InvalidInput(f"{path}, line {number}: {error}") from error
        if record is not None:
            yield record.key, record.value


def _ends(positions: Sequence[int], edges: Sequence[int]) -> list[int]:
    """For each edge how many of the ascending positions are at or before it, and at the end how many there are."""
    ends = [bisect_right(positions, edge) for edge in edges]
    ends.append(len(positions))
    return ends


def _masses(kind: Distribution, ranks: range, exponent: float, random: Random) -> list[float]:
    """What each key of a chunk carries, in an order that has nothing to do with positions."""
    if kind is Distribution.ZIPF:
        masses = [rank**-exponent for rank in ranks]
        random.shuffle(masses)
        return masses
    draw = random.random
    return [_MIN_BYTES * (1.0 - draw()) ** (-1 / _TAIL) for _ in ranks]


def _add(totals: list[float], ends: Sequence[int], masses: Sequence[float] | None) -> None:
    """Add to each stretch what its keys carry, 1 each without `masses`; behind the last edge the first begins again."""
    sums: Sequence[float] = ends if masses is None else [*accumulate(masses, initial=0.0)]
    before = 0
    for index, end in enumerate(ends):
        if end != before:
            mass = end - before if masses is None else sums[end] - sums[before]
            totals[index if index < len(totals) else 0] += mass
            before = end
