"""A value that is built in steps, and counts as used as its source does.

Only RESTORE says how long ago or how often a key was used. So a small part of the value is written, dumped and
restored with that, and what is added to it later on a connection that touches nothing changes it no more.
"""

from __future__ import annotations

from helios.engines.valkey.connection import Command, Reply
from helios.engines.valkey.stepwise.key_copy import KeyCopy
from helios.engines.valkey.stepwise.streams import make_empty


async def begin(copy: KeyCopy, kind: bytes) -> bool:
    """Make a beginning of the target's value; whether the copy is to go on behind it, rather than rewrite it all."""
    if copy.used is None:
        return False
    if kind == b"stream":
        await make_empty(copy)
    else:
        command = await _FIRST[kind](copy)
        if command is None:
            return False  # the source has gone meanwhile, as the copy will find
        await copy.write(*command)
    payload = await copy.write("DUMP", copy.key)
    if payload is not None:
        await copy.write("RESTORE", copy.key, 0, payload, "REPLACE", *copy.used)
    return kind in (b"string", b"list")


async def _string(copy: KeyCopy) -> Command | None:
    piece = await copy.read("GETRANGE", copy.key, 0, copy.step_bytes - 1)
    return ("SET", copy.key, piece) if piece else None


async def _list(copy: KeyCopy) -> Command | None:
    count = await copy.elements_in_step(int(await copy.read("LLEN", copy.key)))
    elements = await copy.read("LRANGE", copy.key, 0, count - 1)
    return ("RPUSH", copy.key, *elements) if elements else None


async def _hash(copy: KeyCopy) -> Command | None:
    _, flat = await copy.read("HSCAN", copy.key, 0, "COUNT", 1)
    return ("HSET", copy.key, *flat[:2]) if flat else None


async def _set(copy: KeyCopy) -> Command | None:
    name: Reply = await copy.read("SRANDMEMBER", copy.key)
    return None if name is None else ("SADD", copy.key, name)


async def _sorted_set(copy: KeyCopy) -> Command | None:
    pairs = await copy.read("ZRANGE", copy.key, 0, 0, "WITHSCORES")
    return ("ZADD", copy.key, repr(float(pairs[0][1])), pairs[0][0]) if pairs else None


_FIRST = {b"string": _string, b"list": _list, b"hash": _hash, b"set": _set, b"zset": _sorted_set}
