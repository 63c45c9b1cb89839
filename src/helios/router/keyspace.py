"""Commands about all keys: a key counts and is listed only where it is owned.

A shard whose server may hold keys of others (copies in the making, moved keys not yet swept) is looked through
key by key, in small steps between which other clients are served; any other shard is asked directly.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from hashlib import md5
from typing import TYPE_CHECKING, Any

import hiredis

from helios.access.rights import Rights
from helios.errors import Unavailable
from helios.placement.routing import Routes
from helios.resp.encoding import EMPTY_ARRAY, NULL, array, bulk, error, integer
from helios.resp.wire import elements, encode_command
from helios.router.callers import DONE, HOLD, WAIT_REPLY, Caller, Slot, Waiter
from helios.router.gather import all_ok, concatenated, to_all, total
from helios.router.refusals import ErrorReply

if TYPE_CHECKING:
    from helios.router.core import Router

_STEP = 500  # keys looked at between two turns of the loop; also the most that SCAN gives of an unclean shard
_CURSOR_BITS = 48
_SHARD_BITS = 16
_MOST_RESTARTS = 20
# A server names a key twice where its table grows under the scan. So many keys of a shard are remembered to
# tell; beyond that, DBSIZE and KEYS of an unclean shard may count such a key twice.
_MOST_REMEMBERED = 1_000_000


def decoded(raw: bytes) -> Any:
    """A RESP2 reply as a value; raises ErrorReply."""
    if raw[:1] == b"-":
        raise ErrorReply(raw)
    reader = hiredis.Reader()
    reader.feed(raw)
    return reader.gets()


def _down(router: Router, caller: Caller) -> bool:
    """Whether keys are not served now; the caller has been told then."""
    reason = router.reason()
    if reason is not None:
        caller.answer(error(f"CLUSTERDOWN {reason}; nothing was executed"))
    return reason is not None


def _shards(router: Router) -> list[str]:
    return [shard.id for shard in router.topology.shards]


# --- DBSIZE, KEYS -----------------------------------------------------------------------------------------------


def dbsize(router: Router, caller: Caller, argv: list[bytes]) -> int:
    """The number of keys."""
    if _down(router, caller):
        return DONE
    if router.unclean:
        router.spawn(caller, _counted(router))
        return WAIT_REPLY
    slot = Slot(caller)
    caller.replies.append(slot)
    to_all(router, slot, caller.protocol, [(shard, b"*1\r\n$6\r\nDBSIZE\r\n") for shard in _shards(router)], total)
    return DONE


async def _counted(router: Router) -> bytes:
    return integer(await count_keys(router))


async def count_keys(router: Router) -> int:
    """The number of keys, each counted where it is owned. Raises ErrorReply or Unavailable."""
    for _ in range(_MOST_RESTARTS):
        routes = _routes(router)
        count = 0
        for shard in _shards(router):
            if shard in router.unclean:
                async for keys in _owned(router, routes, shard, []):
                    count += len(keys)
            else:
                count += decoded(await router.pool.ask(shard, [b"DBSIZE"]))
        if _still(router, routes):
            return count
    raise Unavailable("the keys could not be counted: they change their shard again and again; try again")


def keys(router: Router, caller: Caller, argv: list[bytes]) -> int:
    """All keys that match a pattern."""
    if _down(router, caller):
        return DONE
    if router.unclean or not _sees_all(caller):
        router.spawn(caller, _listed(router, caller, argv[1]))
        return WAIT_REPLY
    slot = Slot(caller)
    caller.replies.append(slot)
    frame = encode_command(argv)
    to_all(router, slot, caller.protocol, [(shard, frame) for shard in _shards(router)], concatenated)
    return DONE


def _sees_all(caller: Caller) -> bool:
    """Whether no key is hidden from the caller."""
    return caller.rights is None or caller.rights.sees_all


async def _listed(router: Router, caller: Caller, pattern: bytes) -> bytes:
    for _ in range(_MOST_RESTARTS):
        routes = _routes(router)
        found: list[bytes] = []
        for shard in _shards(router):
            if shard in router.unclean:
                async for batch in _owned(router, routes, shard, [b"MATCH", pattern]):
                    found += batch
            else:
                found += decoded(await router.pool.ask(shard, [b"KEYS", pattern]))
        if _still(router, routes):
            rights = caller.rights
            return array([bulk(key) for key in found if rights is None or rights.sees(key)])
    raise Unavailable("the keys could not be listed: they change their shard again and again; try again")


def _routes(router: Router) -> Routes:
    routes = router.routes
    if routes is None or router.reason() is not None:
        raise Unavailable(f"{router.reason()}; nothing was executed")
    return routes


def _still(router: Router, routes: Routes) -> bool:
    """Whether no key has changed its owner since `routes` were the present ones."""
    now = router.routes
    return now is not None and (now is routes or _ownership(now) == _ownership(routes))


def _ownership(routes: Routes) -> object:
    topology = routes.topology
    transition = topology.transition
    switched = {pair for pair in transition.pairs if pair.phase == "switched"} if transition else set()
    leaders = [(shard.id, shard.leader) for shard in topology.shards]
    return topology.placement, transition.next if switched and transition else None, frozenset(switched), leaders


async def _owned(router: Router, routes: Routes, shard: str, options: list[bytes]) -> AsyncIterator[list[bytes]]:
    """The keys on a shard's server that the shard owns by `routes`, once each, in steps."""
    cursor = b"0"
    remembered: set[bytes] = set()
    while True:
        reply = await router.pool.ask(shard, [b"SCAN", cursor, *options, b"COUNT", b"%d" % _STEP])
        cursor, found = decoded(reply)
        fresh = [key for key in found if key not in remembered and routes.owner(key) == shard]
        if len(remembered) < _MOST_REMEMBERED:
            remembered.update(fresh)
        yield fresh
        if cursor == b"0" or not _still(router, routes):
            return


# --- SCAN -------------------------------------------------------------------------------------------------------


def scan(router: Router, caller: Caller, argv: list[bytes]) -> int:
    """The next keys of the shard that the cursor names; behind its last ones, the cursor names the next shard.

    Shards come in the order of a number made of their id, so that one that joins or leaves under a scan does not
    make the others appear twice or not at all.
    """
    if not argv[1].isdigit() or len(argv[1]) > 20:
        caller.answer(error("ERR invalid cursor"))
        return DONE
    if _down(router, caller):
        return DONE
    place = int(argv[1])
    number, inner = place & ((1 << _SHARD_BITS) - 1), place >> _SHARD_BITS
    order = _order(router)
    shard_number = next((known for known in sorted(order) if known >= number), None)
    if shard_number is None:
        caller.answer(array([bulk(b"0"), EMPTY_ARRAY]))
        return DONE
    if shard_number != number:
        inner = 0
    shard = order[shard_number]
    options = argv[2:]
    if shard in router.unclean:
        options = _capped(options)
    slot = Slot(caller)
    caller.replies.append(slot)
    command = encode_command([b"SCAN", b"%d" % inner, *options])
    router.pool.link(shard, caller.protocol).send(command, _ScanReply(router, slot, shard, shard_number, caller.rights))
    return DONE


def _order(router: Router) -> dict[int, str]:
    """Each shard's number in cursors, from 1 to 65535; of two with the same, the one that sorts later gets another."""
    order: dict[int, str] = {}
    for shard in sorted(_shards(router)):
        number = int.from_bytes(md5(shard.encode(), usedforsecurity=False).digest()[-2:], "big") or 1
        while number in order:
            number = number % ((1 << _SHARD_BITS) - 1) + 1
        order[number] = shard
    return order


def _capped(options: list[bytes]) -> list[bytes]:
    """The options with a COUNT that cannot stall the router, which looks up the owner of every key given."""
    capped = list(options)
    for i in range(0, len(options) - 1, 2):
        if options[i].upper() == b"COUNT" and options[i + 1].isdigit() and int(options[i + 1][:20]) > _STEP:
            capped[i + 1] = b"%d" % _STEP
    return capped


class _ScanReply:
    """Puts the shard into the cursor of a SCAN reply and takes foreign keys out of it, and those not to be seen."""

    __slots__ = ("_number", "_rights", "_router", "_shard", "_waiter")

    def __init__(self, router: Router, waiter: Waiter, shard: str, number: int, rights: Rights | None) -> None:
        self._router = router
        self._waiter = waiter
        self._shard = shard
        self._number = number
        self._rights = None if rights is None or rights.sees_all else rights

    def fill(self, reply: bytes) -> None:
        """Take the shard's reply."""
        if reply[:1] != b"*":
            self._waiter.fill(reply)
            return
        cursor, found = elements(reply)
        inner = int(cursor.split(b"\r\n")[1])
        if inner >> _CURSOR_BITS:
            # A server's cursors are no longer than its table is big: 2^48 buckets fit no machine.
            self._waiter.fill(error(f"ERR {self._shard} gave the cursor {inner}, which cannot be passed on"))
            return
        routes = self._router.routes
        if self._shard in self._router.unclean and routes is not None and not routes.empty:
            found = array([bulk(key) for key in decoded(found) if routes.owner(key) == self._shard])
        if self._rights is not None:
            found = array([bulk(key) for key in decoded(found) if self._rights.sees(key)])
        self._waiter.fill(array([bulk(b"%d" % self._outer(inner)), found]))

    def _outer(self, inner: int) -> int:
        if inner:
            return inner << _SHARD_BITS | self._number
        return min((known for known in _order(self._router) if known > self._number), default=0)


# --- FLUSHALL, RANDOMKEY ----------------------------------------------------------------------------------------


def flush(router: Router, caller: Caller, argv: list[bytes]) -> int:
    """Remove every key. While keys are being handed over it waits, or copies might survive it."""
    if len(argv) > 2 or (len(argv) == 2 and argv[1].upper() not in (b"SYNC", b"ASYNC")):
        caller.answer(error("ERR syntax error"))
        return DONE
    if _down(router, caller):
        return DONE
    assert router.routes is not None
    if router.routes.has_fence:
        return HOLD
    slot = Slot(caller)
    caller.replies.append(slot)
    frame = encode_command(argv)
    frames = [(shard, frame) for shard in _shards(router)]
    to_all(router, slot, caller.protocol, frames, all_ok, "; other shards were emptied")
    return DONE


def randomkey(router: Router, caller: Caller, argv: list[bytes]) -> int:
    """Some key."""
    if _down(router, caller):
        return DONE
    router.spawn(caller, _random_key(router, caller.protocol))
    return WAIT_REPLY


async def _random_key(router: Router, protocol: int) -> bytes:
    shards = _shards(router)
    random.shuffle(shards)
    for shard in shards:
        for _ in range(10):
            key = decoded(await router.pool.ask(shard, [b"RANDOMKEY"]))
            if key is None:
                break
            if _routes(router).owner(key) == shard:
                return bulk(key)
    for shard in shards:
        routes = _routes(router)
        async for batch in _owned(router, routes, shard, []):
            if batch:
                return bulk(random.choice(batch))
    return NULL[protocol]


HANDLERS: dict[str, Callable[[Router, Caller, list[bytes]], int]] = {
    "dbsize": dbsize,
    "keys": keys,
    "scan": scan,
    "flushall": flush,
    "flushdb": flush,
    "randomkey": randomkey,
}
