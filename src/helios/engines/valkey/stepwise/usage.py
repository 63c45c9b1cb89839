"""A value that is built in steps, and counts as used as its source does.

Only RESTORE says how long ago or how often a key was used. So a small part of the value is written, dumped and
restored with that, and what is added to it later on a connection that touches nothing changes it no more.
"""

from __future__ import annotations

from helios.engines.valkey.connection import Command, Reply
from helios.engines.valkey.stepwise.streams import make_empty
from helios.engines.valkey.stepwise.way import Way


async def begin(way: Way, kind: bytes) -> bool:
    """Make a beginning of the target's value; whether the copy is to go on behind it, rather than write all anew."""
    if way.used is None:
        return False
    if kind == b"stream":
        await make_empty(way)
    else:
        command = await _FIRST[kind](way)
        if command is None:
            return False  # the source has gone meanwhile, as the copy will find
        await way.write(*command)
    payload = await way.write("DUMP", way.key)
    if payload is not None:
        await way.write("RESTORE", way.key, 0, payload, "REPLACE", *way.used)
    return kind in (b"string", b"list")


async def _string(way: Way) -> Command | None:
    piece = await way.read("GETRANGE", way.key, 0, way.step_bytes - 1)
    return ("SET", way.key, piece) if piece else None


async def _list(way: Way) -> Command | None:
    count = await way.elements_in_step(int(await way.read("LLEN", way.key)))
    elements = await way.read("LRANGE", way.key, 0, count - 1)
    return ("RPUSH", way.key, *elements) if elements else None


async def _hash(way: Way) -> Command | None:
    _, flat = await way.read("HSCAN", way.key, 0, "COUNT", 1)
    return ("HSET", way.key, *flat[:2]) if flat else None


async def _set(way: Way) -> Command | None:
    name: Reply = await way.read("SRANDMEMBER", way.key)
    return None if name is None else ("SADD", way.key, name)


async def _sorted_set(way: Way) -> Command | None:
    pairs = await way.read("ZRANGE", way.key, 0, 0, "WITHSCORES")
    return ("ZADD", way.key, repr(float(pairs[0][1])), pairs[0][0]) if pairs else None


_FIRST = {b"string": _string, b"list": _list, b"hash": _hash, b"set": _set, b"zset": _sorted_set}
