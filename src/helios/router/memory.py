"""MEMORY as far as it concerns whole servers: each says its part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helios.resp.encoding import bulk
from helios.router.callers import Caller
from helios.router.keyspace import decoded
from helios.router.scripts import Handler, ask_each, everywhere, working

if TYPE_CHECKING:
    from helios.router.core import Router


async def _told(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    """What each server says, under its shard's name."""
    parts = [
        f"# {shard}\n{decoded(reply).decode('utf-8', 'replace')}\n"
        for shard, reply in (await ask_each(router, argv)).items()
    ]
    return bulk("\n".join(parts).encode())


HANDLERS: dict[str, Handler] = {
    "memory|doctor": working(_told),
    "memory|malloc-stats": working(_told),
    "memory|purge": working(everywhere),
}
