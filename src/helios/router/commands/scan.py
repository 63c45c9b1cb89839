"""SCAN over all shards, and HSCAN, SSCAN and ZSCAN of keys that may change theirs (see placement/scanning.py)."""

from __future__ import annotations

from helios.errors import Unavailable
from helios.model.topology import Shard, with_numbers
from helios.placement import scanning
from helios.placement.scanning import Ahead, CursorTooLong, Place
from helios.resp.encoding import EMPTY_ARRAY, array, bulk, error_reply
from helios.resp.wire import elements, encode_command
from helios.router._fast_path import OWN_READ
from helios.router.commands.keyspace import decoded, down, owned, present_routes, still
from helios.router.context import RouterContext
from helios.router.frontend.caller import DONE, HOLD, WAIT_REPLY, Caller, Slot, Waiter
from helios.router.upstream.link import ServerConnection

_MAX_RESTARTS = 20
_COUNT_MAX = 2000  # some two milliseconds of the loop
_MAX_DIGITS = 20
_MAX_VISITS = 16  # of shards in one call
_USUAL_COUNT = 10


def _cursor(word: bytes) -> int | None:
    """The cursor that a client gives; None for what is none."""
    if not word.isdigit() or len(word) > _MAX_DIGITS or int(word) >> 64:
        return None
    return int(word)


# --- SCAN -------------------------------------------------------------------------------------------------------


def scan(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """The next keys of the shard at which the cursor stands; held while the topology has a fence."""
    cursor = _cursor(argv[1])
    if cursor is None:
        caller.answer(error_reply("ERR invalid cursor"))
        return DONE
    if down(router, caller):
        return DONE
    assert router.routes is not None
    if router.routes.has_fence:
        return HOLD
    try:
        place = scanning.decode(cursor, router.topology)
        found = scanning.shard_at(place, router.topology)
    except Ahead:
        return HOLD
    if found is None:
        router.spawn(caller, _end(router, place, EMPTY_ARRAY))
        return WAIT_REPLY
    place, shard = found
    if place.last:
        router.spawn(caller, _rest(router, caller, place, argv[2:]))
        return WAIT_REPLY
    slot = Slot(caller)
    caller.replies.append(slot)
    _Visits(router, slot, caller, argv[2:]).ask(place, shard.id)
    return DONE


def _capped(options: list[bytes]) -> list[bytes]:
    """The options with a COUNT that cannot stall the router, which looks up the owner of every key given."""
    capped = list(options)
    for i in range(0, len(options) - 1, 2):
        if options[i].upper() == b"COUNT" and options[i + 1].isdigit() and int(options[i + 1][:20]) > _COUNT_MAX:
            capped[i + 1] = b"%d" % _COUNT_MAX
    return capped


def _count(options: list[bytes]) -> int:
    """How many keys are asked for."""
    counts = [options[i + 1] for i in range(0, len(options) - 1, 2) if options[i].upper() == b"COUNT"]
    return int(counts[-1]) if counts and counts[-1].isdigit() and len(counts[-1]) <= _MAX_DIGITS else _USUAL_COUNT


def _concatenated(arrays: list[bytes]) -> bytes:
    """One array of the elements of all, which are not looked into."""
    parts = [each.partition(b"\r\n") for each in arrays]
    return b"*%d\r\n" % sum(int(head[1:]) for head, _, _ in parts) + b"".join(rest for _, _, rest in parts)


class _Visits:
    """The visits of one call of SCAN: of a shard, and of the following ones while there are too few keys.

    A reply gets the place into its cursor; foreign keys are taken out of it, and those not to be seen.
    """

    __slots__ = (
        "_found",
        "_left",
        "_link",
        "_options",
        "_place",
        "_protocol",
        "_rights",
        "_router",
        "_visits",
        "_waiter",
    )

    def __init__(self, router: RouterContext, waiter: Waiter, caller: Caller, options: list[bytes]) -> None:
        self._router = router
        self._waiter = waiter
        self._options = options
        self._rights = None if caller.rights is None or caller.rights.sees_all else caller.rights
        self._protocol = caller.protocol
        self._found: list[bytes] = []  # arrays
        self._left = _count(options)
        self._visits = 0
        self._link: ServerConnection
        self._place: Place

    def ask(self, place: Place, shard: str) -> None:
        """Visit a shard."""
        self._place, self._visits = place, self._visits + 1
        self._link = self._router.pool.link(shard, self._protocol)
        self._link.send(encode_command([b"SCAN", b"%d" % place.inner, *_capped(self._options)]), self)

    def fill(self, reply: bytes) -> None:
        """Take the shard's reply."""
        if reply[:1] != b"*":
            # What was found before is given, and the next call says what is wrong here.
            if self._visits > 1:
                self._answer(self._place)
            else:
                self._waiter.fill(reply)
            return
        router, shard = self._router, self._link.shard
        cursor, found = elements(reply)
        inner = int(decoded(cursor))
        routes = router.routes
        keys = decoded(found)
        owner = routes.owner if routes is not None and not routes.empty else lambda key: shard
        shown = [key for key in keys if owner(key) == shard and self._sees(key)]
        if len(shown) < len(keys):
            found = array([bulk(key) for key in shown])
        self._found.append(found)
        self._left -= len(shown)
        if inner or self._place.cut_off(self._link.run):
            self._answer(self._place.within(inner, self._link.run))
            return
        following = scanning.after(self._place, router.topology)
        if following is None:
            router.fill_later(self._waiter, _end(router, self._place, _concatenated(self._found)))
        elif self._left <= 0 or self._visits == _MAX_VISITS or not self._goes_on(following):
            self._answer(following)

    def _goes_on(self, place: Place) -> bool:
        """Visit the next shard, too, unless that is to be done with more care."""
        router = self._router
        if place.last or router.reason() is not None or router.routes is None or router.routes.has_fence:
            return False
        found = scanning.shard_at(place, router.topology)
        if found is None:
            return False
        self.ask(found[0], found[1].id)
        return True

    def _answer(self, place: Place) -> None:
        try:
            outer = scanning.encode(place)
        except CursorTooLong as error:
            self._waiter.fill(error_reply(f"ERR {self._link.shard}: {error}"))
            return
        self._waiter.fill(array([bulk(b"%d" % outer), _concatenated(self._found)]))

    def _sees(self, key: bytes) -> bool:
        return self._rights is None or self._rights.sees(key)


async def _end(router: RouterContext, place: Place, found: bytes) -> bytes:
    """The last reply of a scan; or not the last one, where there is more to visit than this router knew."""
    await router.confirm()
    return array([bulk(b"%d" % scanning.encode(scanning.after(place, router.topology))), found])


async def _rest(router: RouterContext, caller: Caller, place: Place, options: list[bytes]) -> bytes:
    """All keys of the shards that are still to be visited, in one reply, which takes no longer than keys stay."""
    for _ in range(_MAX_RESTARTS):
        await router.unfenced()
        routes = present_routes(router)
        found: list[bytes] = []
        rights = caller.rights
        for shard in router.topology.shards:
            if place.visits(shard):
                async for batch in owned(router, routes, shard.id, _without_count(options)):
                    found += [bulk(key) for key in batch if rights is None or rights.sees(key)]
        await router.confirm()
        if still(router, routes):
            return array([bulk(b"0"), array(found)])
    raise Unavailable("the scan comes to no end: keys change their shard again and again; try again")


def _without_count(options: list[bytes]) -> list[bytes]:
    pairs = [options[i : i + 2] for i in range(0, len(options), 2)]
    return [word for pair in pairs if pair[0].upper() != b"COUNT" for word in pair]


# --- HSCAN, SSCAN, ZSCAN ----------------------------------------------------------------------------------------


def scan_elements(router: RouterContext, caller: Caller, argv: list[bytes], owner: str) -> None:
    """Some elements of a key. Where another server has answered before, it begins at the first one again."""
    cursor = _cursor(argv[2])
    if cursor is None:
        caller.answer(error_reply("ERR invalid cursor"))
        return
    shard = next(shard for shard in with_numbers(router.topology.shards) if shard.id == owner)
    inner, run = scanning.decode_element(cursor, shard)
    slot = Slot(caller)
    caller.replies.append(slot)
    command = encode_command([*argv[:2], b"%d" % inner, *argv[3:]])
    link = router.pool.link(owner, caller.variant)
    link.send_as(command, _ElementsReply(slot, link, shard, run if inner else None), OWN_READ)


class _ElementsReply:
    """Puts the server into the cursor of an HSCAN, SSCAN or ZSCAN reply."""

    __slots__ = ("_link", "_run", "_shard", "_waiter")

    def __init__(self, waiter: Waiter, link: ServerConnection, shard: Shard, run: int | None) -> None:
        self._waiter = waiter
        self._link = link
        self._shard = shard
        self._run = run

    def fill(self, reply: bytes) -> None:
        """Take the shard's reply."""
        if reply[:1] != b"*":
            self._waiter.fill(reply)
            return
        cursor, found = elements(reply)
        run = self._link.run
        try:
            if self._run is not None and not scanning.same_run(run, self._run):
                outer = scanning.restart_element(self._shard, run)
            else:
                outer = scanning.encode_element(int(decoded(cursor)), self._shard, run)
        except CursorTooLong as error:
            self._waiter.fill(error_reply(f"ERR {error}"))
            return
        self._waiter.fill(array([bulk(b"%d" % outer), found]))
