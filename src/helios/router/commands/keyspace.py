"""Commands about all keys: a key counts and is listed only where it is owned.

Any server may hold keys of others: copies in the making, moved keys not yet swept, and what scripts have left that make
up names. So keys are listed one by one, in small steps between which other clients are served. They are counted so
where a move goes on; elsewhere a server is asked for its number, see counting.py.
Keys are not listed while the topology has a fence: behind it they may have left their server already.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import hiredis

from helios.errors import ProtocolError, Unavailable
from helios.placement.routing import Routes
from helios.resp.encoding import NULL, array, bulk, error_reply, integer
from helios.resp.wire import encode_command
from helios.router._fast_path import OWN_WRITE
from helios.router.commands.handlers import Handler
from helios.router.commands.scatter import Gathering, all_ok, send_parts
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply
from helios.router.frontend.caller import DONE, HOLD, WAIT_ALL, WAIT_REPLY, Caller, LastSlot

STEP = 500  # keys looked at between two turns of the loop
_MAX_RESTARTS = 20
# A server names a key twice where its table grows under the scan. So many keys of a shard are remembered to
# tell; beyond that, DBSIZE and KEYS may count such a key twice.
MAX_REMEMBERED = 1_000_000


def decoded(raw: bytes) -> Any:
    """A RESP2 reply as a value. Raises ErrorReply, and ProtocolError for what is none."""
    if raw[:1] == b"-":
        raise ErrorReply(raw)
    reader = hiredis.Reader()
    reader.feed(raw)
    try:
        return reader.gets()
    except hiredis.HiredisError as error:
        raise ProtocolError(f"a server's reply is not understood: {error}") from error


def down(router: RouterContext, caller: Caller) -> bool:
    """Whether keys are not served now; the caller has been told then."""
    reason = router.reason()
    if reason is not None:
        caller.answer(error_reply(f"CLUSTERDOWN {reason}; nothing was executed"))
    return reason is not None


def _shards(router: RouterContext) -> list[str]:
    return [shard.id for shard in router.topology.shards]


# --- DBSIZE, KEYS -----------------------------------------------------------------------------------------------


def dbsize(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """The number of keys."""
    if down(router, caller):
        return DONE
    if caller.replies:
        return WAIT_ALL  # The caller's own writes count, on whichever connection they are.
    router.spawn(caller, _counted(router))
    return WAIT_REPLY


async def _counted(router: RouterContext) -> bytes:
    return integer(await count_keys(router))


async def count_keys(router: RouterContext) -> int:
    """The number of keys, each counted where it is owned, for what that is worth while a pair is switching.

    Raises ErrorReply or Unavailable.
    """
    for _ in range(_MAX_RESTARTS):
        routes = present_routes(router)
        counts = await asyncio.gather(*(_count(router, routes, shard) for shard in _shards(router)))
        if still(router, routes):
            return sum(counts)
    raise Unavailable("the keys could not be counted: they change their shard again and again; try again")


async def _count(router: RouterContext, routes: Routes, shard: str) -> int:
    if shard not in router.unclean:
        return await router.count_own(routes, shard)
    count = 0
    async for keys in owned(router, routes, shard, [], fenced=True):
        count += len(keys)
    return count


def keys(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """All keys that match a pattern."""
    if down(router, caller):
        return DONE
    if caller.replies:
        return WAIT_ALL
    router.spawn(caller, _listed(router, caller, argv[1]))
    return WAIT_REPLY


async def _listed(router: RouterContext, caller: Caller, pattern: bytes) -> bytes:
    for _ in range(_MAX_RESTARTS):
        routes = present_routes(router)
        found: list[bytes] = []
        for shard in _shards(router):
            async for batch in owned(router, routes, shard, [b"MATCH", pattern]):
                found += batch
        if still(router, routes):
            rights = caller.rights
            return array([bulk(key) for key in found if rights is None or rights.sees(key)])
    raise Unavailable("the keys could not be listed: they change their shard again and again; try again")


def present_routes(router: RouterContext) -> Routes:
    """The current routes. Raises Unavailable where keys are not served."""
    routes = router.routes
    if routes is None or router.reason() is not None:
        raise Unavailable(f"{router.reason()}; nothing was executed")
    return routes


def still(router: RouterContext, routes: Routes) -> bool:
    """Whether no key has changed its owner since `routes` were the present ones."""
    now = router.routes
    return now is not None and (now is routes or _ownership(now) == _ownership(routes))


def _ownership(routes: Routes) -> object:
    topology = routes.topology
    transition = topology.transition
    switched = {pair for pair in transition.pairs if pair.phase == "switched"} if transition else set()
    leaders = [(shard.id, shard.leader) for shard in topology.shards]
    return topology.placement, transition.next if switched and transition else None, frozenset(switched), leaders


async def owned(
    router: RouterContext, routes: Routes, shard: str, options: list[bytes], *, fenced: bool = False
) -> AsyncIterator[list[bytes]]:
    """The keys on a shard's server that the shard owns by `routes`, once each, in steps.

    Some may be missing where it goes on although the topology has a fence (`fenced`).
    """
    cursor = b"0"
    remembered: set[bytes] = set()
    while True:
        if not fenced:
            await router.unfenced()
        if not still(router, routes):
            return
        reply = await router.pool.ask(shard, [b"SCAN", cursor, *options, b"COUNT", b"%d" % STEP])
        cursor, found = decoded(reply)
        fresh = [key for key in found if key not in remembered and routes.owner(key) == shard]
        if len(remembered) < MAX_REMEMBERED:
            remembered.update(fresh)
        yield fresh
        if cursor == b"0":
            return


# --- FLUSHALL, RANDOMKEY ----------------------------------------------------------------------------------------


def flush(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """Remove every key. While keys are being handed over it waits, or copies might survive it.

    No other command goes through the connections of users who may do that: a script empties no server.
    """
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() not in (b"SYNC", b"ASYNC")):
        caller.answer(error_reply("ERR syntax error"))
        return DONE
    if down(router, caller):
        return DONE
    assert router.routes is not None
    if router.routes.has_fence:
        return HOLD
    if caller.replies:
        return WAIT_ALL  # They are on other connections, and it must not overtake them.
    slot = LastSlot(caller)
    caller.replies.append(slot)
    # Never FLUSHALL: an external server may hold what is not ours in its other databases.
    frame = encode_command([b"FLUSHDB", *argv[1:]])
    shards = _shards(router)
    send_parts([(router.pool.flush_link(shard), frame) for shard in shards], Gathering(shards, slot, all_ok), OWN_WRITE)
    return WAIT_REPLY


def randomkey(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """Some key."""
    if down(router, caller):
        return DONE
    router.spawn(caller, _random_key(router, caller.protocol))
    return WAIT_REPLY


async def _random_key(router: RouterContext, protocol: int) -> bytes:
    shards = _shards(router)
    random.shuffle(shards)
    for shard in shards:
        for _ in range(10):
            key = decoded(await router.pool.ask(shard, [b"RANDOMKEY"]))
            if key is None:
                break
            if present_routes(router).owner(key) == shard:
                return bulk(key)
    for shard in shards:
        routes = present_routes(router)
        async for batch in owned(router, routes, shard, []):
            if batch:
                return bulk(random.choice(batch))
    return NULL[protocol]


HANDLERS: dict[str, Handler] = {
    "dbsize": dbsize,
    "keys": keys,
    "flushall": flush,
    "flushdb": flush,
    "randomkey": randomkey,
}
