"""What a value is, in a few bytes: the same on every server that has it, however that server keeps it."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from contextlib import aclosing
from hashlib import blake2b

from helios.engines.valkey.connection import Connection, Reply
from helios.engines.valkey.stepwise.appends import entries_of
from helios.engines.valkey.stepwise.key_copy import ChangedMeanwhile, KeyCopy
from helios.engines.valkey.stepwise.members import Hash, Members, Set, SortedSet
from helios.engines.valkey.stepwise.sequences import ranges, slices
from helios.engines.valkey.stepwise.streams import pending_of
from helios.ports.engine import at_once

_STEP_BYTES = 256 << 10
_FOOTER_BYTES = 10  # of a DUMP: the version of its writer and a checksum
_NO_EXPIRY = -1  # when something ends that does not
_BYTES = 16


async def digest_of(connection: Connection, key: bytes, kind: bytes, expire_at_ms: int, timeout_s: float) -> bytes:
    """The digest of a value of the type `kind` that ends at `expire_at_ms`, read in steps.

    Empty if the key became another thing meanwhile. Costs the reading of the whole value.
    """
    copy = KeyCopy(key, connection, connection, timeout_s, _STEP_BYTES, at_once)
    content = _CONTENTS.get(kind, _whole)
    try:
        read = await content(copy)
    except ChangedMeanwhile:
        return b""
    return _hash([kind, b"%d" % expire_at_ms, read])


def _hash(parts: Iterable[bytes]) -> bytes:
    """One digest of several parts, which cannot run into each other."""
    state = blake2b(digest_size=_BYTES)
    for part in parts:
        state.update(struct.pack("<Q", len(part)))
        state.update(part)
    return state.digest()


async def _string(copy: KeyCopy) -> bytes:
    state = blake2b(digest_size=_BYTES)
    async with aclosing(ranges(copy)) as pieces:
        async for piece in pieces:
            state.update(piece)
    return state.digest()


async def _list(copy: KeyCopy) -> bytes:
    count = await copy.elements_in_step(int(await copy.read("LLEN", copy.key)))
    return await _in_order(slices(copy, count), lambda elements: elements)


async def _sorted_set(copy: KeyCopy) -> bytes:
    count = await copy.elements_in_step(int(await copy.read("ZCARD", copy.key)))
    steps = SortedSet().steps(copy, count)
    # A zero's sign is not shown by all servers alike.
    return await _in_order(
        steps,
        lambda rows: [
            part
            for name, score in zip(rows.names, rows.values, strict=True)
            for part in (name, repr(float(score) + 0.0).encode())
        ],
    )


async def _in_order(steps: AsyncGenerator[Reply, None], parts: Callable[[Reply], Iterable[bytes]]) -> bytes:
    state = blake2b(digest_size=_BYTES)
    async with aclosing(steps):
        async for step in steps:
            for part in parts(step):
                state.update(struct.pack("<Q", len(part)))
                state.update(part)
    return state.digest()


def _members(kind: Callable[[], Members]) -> Callable[[KeyCopy], Awaitable[bytes]]:
    return lambda copy: _in_any_order(copy, kind())


async def _in_any_order(copy: KeyCopy, kind: Members) -> bytes:
    """The sum of the members' digests. A scan may give a member twice: then those seen are remembered."""
    length = int(await copy.read(kind.length, copy.key))
    count = await copy.elements_in_step(length)
    total = seen = 0
    async for one in _each(copy, kind, count):
        total += one
        seen += 1
    if seen != length:  # also where fields have ended, which still count in HLEN
        total = sum({one async for one in _each(copy, kind, count)})
    return (total % (1 << 8 * _BYTES)).to_bytes(_BYTES, "big")


async def _each(copy: KeyCopy, kind: Members, count: int) -> AsyncGenerator[int, None]:
    async with aclosing(kind.steps(copy, count)) as steps:
        async for rows in steps:
            ends = rows.ends or [_NO_EXPIRY] * len(rows.names)
            for name, value, end in zip(rows.names, rows.values, ends, strict=True):
                text = value if isinstance(value, bytes) else b""
                yield int.from_bytes(_hash([name, text, b"%d" % end]), "big")


async def _stream(copy: KeyCopy) -> bytes:
    """Entries, counters and groups; not when consumers were last seen, and when entries were delivered to them."""
    count = await copy.elements_in_step(int(await copy.read("XLEN", copy.key)))
    parts = [await _in_order(entries_of(copy, count), _entry_parts)]
    about = await copy.read("XINFO", "STREAM", copy.key)
    parts += [_text(about[name]) for name in (b"last-generated-id", b"entries-added", b"max-deleted-entry-id")]
    for group in sorted(await copy.read("XINFO", "GROUPS", copy.key), key=lambda group: bytes(group[b"name"])):
        parts += [_text(group.get(name)) for name in (b"name", b"last-delivered-id", b"entries-read")]
        consumers = await copy.read("XINFO", "CONSUMERS", copy.key, group[b"name"])
        parts.append(_hash(sorted(consumer[b"name"] for consumer in consumers)))
        pending = await pending_of(copy, copy.source, group[b"name"], b"", b"+", -1)
        parts.append(_hash(part for entry, one in pending.items() for part in (entry, one.consumer, b"%d" % one.times)))
    return _hash(parts)


def _entry_parts(entries: Reply) -> Iterable[bytes]:
    for entry, fields in entries:
        yield entry
        yield b"%d" % len(fields)
        yield from fields


def _text(value: Reply) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()


async def _whole(copy: KeyCopy) -> bytes:
    """What has no commands for its parts is compared as its server writes it, but for who wrote it."""
    payload = await copy.read("DUMP", copy.key)
    if payload is None:
        raise ChangedMeanwhile("the key has gone")
    return _hash([payload[:-_FOOTER_BYTES]])


_CONTENTS: dict[bytes, Callable[[KeyCopy], Awaitable[bytes]]] = {
    b"string": _string,
    b"list": _list,
    b"hash": _members(Hash),
    b"set": _members(Set),
    b"zset": _sorted_set,
    b"stream": _stream,
}
