"""CLIENT TRACKING and its kin, and what the commands of a client that tracks read and write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from helios.errors import InvalidInput
from helios.resp.commands import SCRIPTS, Command, key_positions
from helios.resp.encoding import EMPTY_ARRAY, NULL, NULL_ARRAY, OK, bulk, encode, error_reply, integer
from helios.resp.keys import Malformed
from helios.router.commands.handlers import Answer, Handler, Work, at_once, awaited
from helios.router.commands.lookup import recognise
from helios.router.context import RouterContext
from helios.router.frontend.caller import Caller, Slot
from helios.router.frontend.connection import ClientConnection
from helios.router.frontend.tracking import Wish

_MOST_KEYS = 2048  # of one command, of which it is noted that they are changed by their own client
_NO_CACHING = (
    "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"
)

_NULLS = (*NULL.values(), *NULL_ARRAY.values(), EMPTY_ARRAY)
# Of some commands the reply proves that each of their keys, of which there are so many, has been changed: anything but
# an error does, OK, a number above 0, the number of keys, or whatever is not null.
_PROOFS: tuple[tuple[str, Callable[[bytes, int], bool]], ...] = (
    (
        "append decr decrby getset hincrby hincrbyfloat incr incrby incrbyfloat lpush rpush zincrby",
        lambda reply, keys: reply[:1] != b"-",
    ),
    ("hmset lset mset psetex set setex", lambda reply, keys: reply == OK),
    (
        "expire expireat hdel hset hsetnx linsert lpushx persist pexpire pexpireat pfadd rpushx sadd setnx srem zadd "
        "zrem",
        lambda reply, keys: reply[:1] == b":" and int(reply[1:-2]) > 0,
    ),
    ("del unlink", lambda reply, keys: reply == integer(keys)),
    ("getdel lpop rpop spop", lambda reply, keys: reply[:1] != b"-" and reply not in _NULLS),
)
_CHANGED = {name: proof for names, proof in _PROOFS for name in names.split()}


async def _tracking(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Tell the client of changes to what it reads, or no longer."""
    switch = argv[2].upper()
    if switch not in (b"ON", b"OFF"):
        return error_reply("ERR syntax error")
    try:
        wish = Wish.parse(argv[3:])
        if wish.redirect and wish.redirect not in router.clients:
            return error_reply("ERR The client ID you want redirect to does not exist")
        if switch == b"ON":
            wish = wish.after(None if caller.tracking is None else caller.tracking.wish)
    except InvalidInput as error:
        return error_reply(f"ERR {error}")
    if not isinstance(caller, ClientConnection):
        return error_reply("ERR tracking needs a connection of its own")
    if switch == b"ON":
        await router.tracker.follow(caller, wish)
    else:
        router.tracker.forget(caller)
    return OK


def _info(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    tracking = caller.tracking
    flags = ["off"] if tracking is None else list(tracking.flags())
    prefixes = () if tracking is None else tracking.wish.prefixes
    shown = b"%b%d\r\n" % (b"~" if caller.protocol == 3 else b"*", len(flags)) + b"".join(
        bulk(flag.encode()) for flag in flags
    )
    rest = [bulk(b"flags"), shown, bulk(b"redirect"), integer(redirect(caller))]
    rest += [bulk(b"prefixes"), encode(prefixes, caller.protocol)]
    return b"%b%b" % (b"%3\r\n" if caller.protocol == 3 else b"*6\r\n", b"".join(rest))


def redirect(caller: Caller) -> int:
    """The id of who is told in a client's place; 0 where it is itself, -1 where it does not track."""
    return -1 if caller.tracking is None else caller.tracking.wish.redirect


def _caching(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Make the next command the exception that OPTIN and OPTOUT speak of."""
    tracking, wish = caller.tracking, argv[2].upper()
    if tracking is None:
        return error_reply(_NO_CACHING)
    if wish not in (b"YES", b"NO"):
        return error_reply("ERR syntax error")
    if wish == b"YES" and not tracking.wish.optin:
        return error_reply("ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode.")
    if wish == b"NO" and not tracking.wish.optout:
        return error_reply("ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode.")
    tracking.caching = True
    return OK


def note(router: RouterContext, caller: Caller, argv: list[bytes]) -> None:
    """A client that tracks has given this command: note what it reads, and what it changes of what it has read."""
    tracking = caller.tracking
    if tracking is None or not isinstance(caller, ClientConnection):
        return
    command = recognise(argv)
    if isinstance(command, bytes):
        return
    last = caller.last_slot()
    refused = last is not None and last.reply is not None and last.reply[:1] == b"-"
    keys = [] if refused or caller.call is not None else _keys(command, argv)
    # What a script reads is not known; it counts as reading what it names, and of its writes the servers tell.
    given = [(keys, command.writes and command.name not in SCRIPTS)] if keys else []
    if caller.transaction is not None:
        tracking.queued += given
        return
    queued, tracking.queued = tracking.queued, []
    for named, writes in queued if command.name == "exec" and not refused else given:
        if writes:
            router.tracker.wrote(caller, named)
        else:
            router.tracker.read(caller, named)
    if not command.name.startswith("client|"):
        tracking.caching = False


def _keys(command: Command, argv: Sequence[bytes]) -> list[bytes]:
    try:
        return [argv[position] for position in key_positions(command, argv)]
    except (Malformed, InvalidInput):
        return []


class _OwnWrite(Slot):
    """The place of the reply to a change that its client does not want to hear of."""

    def __init__(self, router: RouterContext, client: ClientConnection, shard: str, name: str, keys: Sequence[bytes]):
        super().__init__(client)
        self._answered = partial(router.tracker.own_write, client, shard, keys)
        self._proves, self._keys = _CHANGED[name], len(keys)

    def fill(self, reply: bytes) -> None:
        """Take the reply."""
        super().fill(reply)
        self._answered(changed=self._proves(reply, self._keys))


def place(router: RouterContext, caller: Caller, shard: str, command: Command, keys: Sequence[bytes]) -> Slot:
    """The place of the reply to a command that a shard gets, of a client that tracks."""
    tracking = caller.tracking
    if tracking is None or not tracking.wish.noloop or command.name not in _CHANGED or len(keys) > _MOST_KEYS:
        return Slot(caller)
    assert isinstance(caller, ClientConnection), "no other tracks"
    for key in keys:
        tracking.own.sent(key)
    return _OwnWrite(router, caller, shard, command.name, keys)


ANSWERS: dict[str, Answer] = {
    "client|trackinginfo": _info,
    "client|getredir": lambda router, caller, argv: integer(redirect(caller)),
    "client|caching": _caching,
}
WORKS: dict[str, Work] = {"client|tracking": _tracking}
HANDLERS: dict[str, Handler] = {
    **{name: at_once(answer) for name, answer in ANSWERS.items()},
    **{name: awaited(work) for name, work in WORKS.items()},
}
