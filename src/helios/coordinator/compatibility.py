"""Whether servers can read each other's values, asked of them before a move begins."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import AsyncExitStack

from helios.coordinator.access import Access
from helios.errors import EngineError, Refused
from helios.model.topology import Member
from helios.ports.engine import Engine

logger = logging.getLogger(__name__)

_TIMEOUT_S = 3.0


Move = tuple[Member, Member]


async def check_readable(access: Access, moves: Collection[Move]) -> None:
    """Raise Refused, with both versions, for the first (source, target) whose target cannot read the source's values.

    See `unreadable`.
    """
    refuse_unreadable(moves, await unreadable(access, moves))


def refuse_unreadable(moves: Iterable[Move], found: Mapping[Move, str]) -> None:
    """The same from what `unreadable` has found of these moves, and perhaps of others."""
    for move in moves:
        if move in found:
            raise Refused(f"{found[move]}: move keys only to servers of the same or a newer version; nothing was moved")


async def unreadable(access: Access, moves: Iterable[Move]) -> dict[Move, str]:
    """Those (source, target) whose target cannot read what the source writes, with a reason that names both versions.

    What cannot be found out, since a server does not answer in time or is full, is no reason: the copy will tell.
    Costs a connection to each server and a round trip for each move. Leaves nothing behind.
    """
    found: dict[Move, str] = {}
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await _try(access, moves, found)
    except TimeoutError:
        logger.info("payloads not tried: a server did not answer within %g s", _TIMEOUT_S)
    return found


async def _try(access: Access, moves: Iterable[Move], found: dict[Move, str]) -> None:
    async with AsyncExitStack() as opened:
        engines: dict[str, Engine | None] = {}
        payloads: dict[str, bytes | None] = {}
        for source, target in moves:
            for member in (source, target):
                if member.id not in engines:
                    engines[member.id] = await _open(access, member, opened)
            reader, writer = engines[target.id], engines[source.id]
            if reader is None or writer is None:
                continue
            try:
                if source.id not in payloads:
                    payloads[source.id] = None
                    payloads[source.id] = await writer.sample_payload()
                payload = payloads[source.id]
                readable = payload is None or await reader.accepts(payload)
            except EngineError as error:
                logger.info("payloads not tried: source=%s target=%s error=%s", source.id, target.id, error)
                continue
            if not readable:
                found[source, target] = (
                    f"{target.node} ({await _version(reader)}) cannot read what {source.node} "
                    f"({await _version(writer)}) writes, so that no key can move between them"
                )


async def _open(access: Access, member: Member, opened: AsyncExitStack) -> Engine | None:
    try:
        engine = await access.administer(member)
    except EngineError as error:
        logger.info("payloads not tried: member=%s error=%s", member.id, error)
        return None
    opened.push_async_callback(engine.close)
    return engine


async def _version(engine: Engine) -> str:
    try:
        info = await engine.info()
    except EngineError:
        return "of unknown version"
    return f"{info.product} {info.version}"
