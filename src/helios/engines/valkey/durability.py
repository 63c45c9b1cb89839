"""Knowing that a server's append-only file is on its disk.

WAITAOF is not asked: servers that carry redis/redis#13793 (Valkey 9.1 among them) answer it before the fsync
when `appendfsync` is `everysec`, and Redis 7.0 does not have it. What follows holds from Redis 7.0 on.
"""

from __future__ import annotations

import asyncio

from helios.engines.valkey.connection import Command, Connection, ErrorReply, Reply
from helios.errors import EngineError, EngineUnreachable

_MARK = b"\0helios-persist-mark"  # a key that exists inside one MULTI only
_SYNC_EVERY_S = 1.0  # what `everysec` means
_ROUNDING_S = 0.02  # the server's clock counts milliseconds, once each turn of its loop
_LOOK_EVERY_S = 0.01


async def persist(connection: Connection, timeout_s: float) -> bool:
    """Wait until everything that the server had executed before this call is on its disk; False if it never may be.

    Costs a round trip with `appendfsync always`, a little more than a second with `everysec`. Raises
    EngineUnreachable on time-out, EngineError if the server cannot write its log.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await _persist(connection)
    except TimeoutError:
        raise EngineUnreachable(
            f"{connection.endpoint} did not bring its log to disk within {timeout_s:g} s: is its disk slow?"
        ) from None


async def _persist(connection: Connection) -> bool:
    policy = fsync_policy(await connection.execute("CONFIG", "GET", "appendfsync"))
    sometimes = await connection.execute("CONFIG", "GET", "no-appendfsync-on-rewrite")
    log = await _log(connection)
    if log.get("aof_enabled") != "1" or policy == "no" or b"no" not in sometimes.values():
        return False
    # The log is sequential: what this leaves in it, seen by nobody, stands behind everything executed before.
    mark: list[Command] = [("MULTI",), ("SET", _MARK, b""), ("DEL", _MARK), ("EXEC",)]
    for command, reply in zip(mark, await connection.execute_many(mark), strict=True):
        if isinstance(reply, ErrorReply):
            raise connection.failure(reply, f"{command[0]!s} of a mark in its log")
    if policy == "always":
        return True  # the server answers a write after its fsync
    await asyncio.sleep(_SYNC_EVERY_S + _ROUNDING_S)
    # By now the server begins a sync at the end of any turn of its loop in which none is under way. An answer
    # that saw none is sent after that: if the next sees none either, a sync that began after the mark has ended.
    idle = 0
    while idle < 2:
        log = await _log(connection)
        if log.get("aof_last_write_status") != "ok":
            raise EngineError(f"{connection.endpoint} cannot write its log to disk: see the server's own log")
        idle = idle + 1 if log.get("aof_pending_bio_fsync") == "0" else 0
        if idle == 0:
            await asyncio.sleep(_LOOK_EVERY_S)
    return True


def fsync_policy(config: Reply) -> str:
    """What CONFIG GET appendfsync says; "no" where it does not say."""
    if isinstance(config, ErrorReply) or not isinstance(config, dict):
        return "no"
    return bytes(config.get(b"appendfsync", b"no")).decode()


async def _log(connection: Connection) -> dict[str, str]:
    """The fields of INFO persistence."""
    text = (await connection.execute("INFO", "persistence")).decode(errors="replace")
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
