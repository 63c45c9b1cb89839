"""MEMORY as far as it concerns whole servers: each says its part.

The router's own user at a server may not ask for this, or every client that may call scripts could do so by one.
"""

from __future__ import annotations

import asyncio

from helios.model.topology import Shard
from helios.resp.encoding import OK, bulk
from helios.router.commands.handlers import Handler
from helios.router.commands.scripting import working
from helios.router.context import RouterContext
from helios.router.frontend.caller import Caller


async def _ask(router: RouterContext, argv: list[bytes]) -> dict[str, str]:
    """What each shard's leader answers. Raises EngineError where one does not."""

    async def ask(shard: Shard) -> str:
        engine = await router.administer(shard.leading)
        try:
            return await engine.memory(argv[1].decode())
        finally:
            await engine.close()

    shards = router.topology.shards
    return dict(zip((shard.id for shard in shards), await asyncio.gather(*map(ask, shards)), strict=True))


async def _told(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """What each server says, under its shard's name."""
    return bulk("\n".join(f"# {shard}\n{said}\n" for shard, said in (await _ask(router, argv)).items()).encode())


async def _purged(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    await _ask(router, argv)
    return OK


HANDLERS: dict[str, Handler] = {
    "memory|doctor": working(_told),
    "memory|malloc-stats": working(_told),
    "memory|purge": working(_purged),
}
