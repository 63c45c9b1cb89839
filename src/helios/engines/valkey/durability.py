"""Knowing that a server's append-only file is on its disk.

WAITAOF is not asked: servers that carry redis/redis#13793 (Valkey 9.1 among them) answer it before the fsync
when `appendfsync` is `everysec`, and Redis 7.0 does not have it. What follows holds from Redis 7.0 on.
"""

from __future__ import annotations

import asyncio

from helios.engines.valkey.connection import Command, Connection, ErrorReply, Reply
from helios.errors import EngineError, EngineUnreachable
from helios.resp.info import info_fields

_MARK = b"\0helios-persist-mark"  # a key that exists inside one MULTI only
# A server that is out of memory takes no SET, and what is deleted there, to give it some, must reach its disk, too.
_MARK_WITHOUT_MEMORY = "#!lua flags=allow-oom\nredis.call('SET', KEYS[1], '') redis.call('DEL', KEYS[1])"
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


async def refusal(connection: Connection, info: bytes) -> str:
    """Why the server answers writes by MISCONF and what to do about it; empty where it does not.

    `info` is what it has just said to INFO persistence. All servers are asked every two seconds, so that no more of it
    is read than is needed.
    """
    if _field(info, b"aof_enabled") == b"1" and _field(info, b"aof_last_write_status") not in (b"ok", b""):
        return (
            f"it could not write its log: make room on the disk of {await _folder(connection)}; a moment later it "
            "takes writes again by itself"
        )
    if _field(info, b"rdb_last_bgsave_status") in (b"ok", b""):
        return ""
    if await _setting(connection, "stop-writes-on-bgsave-error") != "yes" or not await _setting(connection, "save"):
        return ""
    return f"it could not save its data: make room on the disk of {await _folder(connection)}, then give it BGSAVE"


def _field(info: bytes, name: bytes) -> bytes:
    """A field of INFO; empty where there is none."""
    return info.partition(b"\n" + name + b":")[2].partition(b"\r")[0]


async def _folder(connection: Connection) -> str:
    return await _setting(connection, "dir") or "its data"


async def _setting(connection: Connection, name: str) -> str:
    """A setting of the server; empty where it does not say."""
    found = await connection.execute("CONFIG", "GET", name)
    return found[name.encode()].decode(errors="replace") if name.encode() in found else ""


async def _persist(connection: Connection) -> bool:
    policy = fsync_policy(await connection.execute("CONFIG", "GET", "appendfsync"))
    sometimes = await connection.execute("CONFIG", "GET", "no-appendfsync-on-rewrite")
    log = info_fields(await connection.execute("INFO", "persistence"))
    if log.get("aof_enabled") != "1" or policy == "no" or b"no" not in sometimes.values():
        return False
    await _leave_mark(connection)
    if policy == "always":
        return True  # the server answers a write after its fsync
    await asyncio.sleep(_SYNC_EVERY_S + _ROUNDING_S)
    # By now the server begins a sync at the end of any turn of its loop in which none is under way. An answer
    # that saw none is sent after that: if the next sees none either, a sync that began after the mark has ended.
    idle = 0
    while idle < 2:
        log = info_fields(await connection.execute("INFO", "persistence"))
        if log.get("aof_last_write_status") != "ok":
            raise EngineError(f"{connection.endpoint} cannot write its log to disk: see the server's own log")
        idle = idle + 1 if log.get("aof_pending_bio_fsync") == "0" else 0
        if idle == 0:
            await asyncio.sleep(_LOOK_EVERY_S)
    return True


async def _leave_mark(connection: Connection) -> None:
    """Write what stands in the log, which is sequential, behind everything executed before; nobody sees it."""
    mark: list[Command] = [("MULTI",), ("SET", _MARK, b""), ("DEL", _MARK), ("EXEC",)]
    replies = await connection.execute_many(mark)
    if any(isinstance(reply, ErrorReply) and str(reply).startswith("OOM") for reply in replies):
        mark = [("EVAL", _MARK_WITHOUT_MEMORY, 1, _MARK)]
        replies = await connection.execute_many(mark)
    for command, reply in zip(mark, replies, strict=True):
        if isinstance(reply, ErrorReply):
            raise connection.failure(reply, f"{command[0]!s} of a mark in its log")


def fsync_policy(config: Reply) -> str:
    """What CONFIG GET appendfsync says; "no" where it does not say."""
    if isinstance(config, ErrorReply) or not isinstance(config, dict):
        return "no"
    return bytes(config.get(b"appendfsync", b"no")).decode()
