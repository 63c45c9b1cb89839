"""SCRIPT and FUNCTION: what concerns the scripts and functions of every shard at once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace

import hiredis

from helios.resp.commands import Command
from helios.resp.encoding import OK, bulk, error_reply, integer
from helios.resp.wire import encode_command
from helios.router._fast_path import OWN_WRITE
from helios.router.commands.handlers import Handler
from helios.router.commands.keyspace import decoded
from helios.router.commands.slices import in_slices, joined
from helios.router.context import RouterContext
from helios.router.errors import NOT_EXECUTED, PERHAPS_EXECUTED, in_part
from helios.router.frontend.caller import DONE, WAIT_REPLY, Caller, FutureReply, Slot
from helios.router.script_cache import sha_of
from helios.router.upstream.connection import ask_aside
from helios.router.upstream.link import ServerConnection

Work = Callable[[RouterContext, Caller, list[bytes]], Coroutine[None, None, bytes]]


def working(work: Work) -> Handler:
    """A handler whose caller waits for work that asks the shards."""

    def handler(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
        reason = router.reason()
        if reason is not None:
            caller.answer(error_reply(f"CLUSTERDOWN {reason}; nothing was executed"))
            return DONE
        router.spawn(caller, work(router, caller, argv))
        return WAIT_REPLY

    return handler


def _at_home(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """Ask the one shard that answers for all."""
    reason = router.reason()
    if reason is not None or router.routes is None:
        caller.answer(error_reply(f"CLUSTERDOWN {reason}; nothing was executed"))
        return DONE
    slot = Slot(caller)
    caller.replies.append(slot)
    router.pool.link(router.routes.home, caller.protocol).send(encode_command(argv), slot)
    return DONE


def _in_turn(router: RouterContext) -> list[str]:
    """All shards, those that own nothing yet at the end.

    So a shard that is about to own keys never has anything that its source, which is looked at after it, has not.
    """
    owners = {name for name, _ in router.topology.placement.weights}
    return sorted((shard.id for shard in router.topology.shards), key=lambda shard: (shard not in owners, shard))


async def ask_each(router: RouterContext, argv: Sequence[bytes]) -> dict[str, bytes]:
    """Each shard's raw reply to the same command."""
    shards = [shard.id for shard in router.topology.shards]
    replies = await asyncio.gather(*(router.pool.ask(shard, argv) for shard in shards))
    return dict(zip(shards, replies, strict=True))


async def everywhere(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Carry a command out on every shard, one after the other; the error of any says how far that went.

    It begins only if all of them answer, and what the first refuses is done nowhere.
    """
    for shard, reply in (await ask_each(router, [b"PING"])).items():
        if reply[:1] == b"-":
            said = _text(reply).removesuffix(NOT_EXECUTED).removesuffix(PERHAPS_EXECUTED)
            # What is unknown is the outcome of the PING alone.
            said = said.replace("UNKNOWN ", "CLUSTERDOWN ", 1)
            return error_reply(f"{said}; {shard} is needed for this, and nothing was executed")
    reply = OK
    replies: dict[str, bytes | None] = dict.fromkeys(_in_turn(router))
    # A node that joins meanwhile has its turn, too: it may have got its functions from one that was still to come.
    while shard := next((shard for shard in _in_turn(router) if replies.get(shard) is None), ""):
        replies[shard] = reply = await router.pool.ask(shard, argv, kind=OWN_WRITE)
        if reply[:1] == b"-":
            return in_part(replies)
    return reply


def _text(reply: bytes) -> str:
    return reply[1:-2].decode("utf-8", "replace")


_KILLED = b"killed by user with SCRIPT KILL"
_KILL_TIMEOUT_S = 8.0  # more than the 5 s for which a server answers nothing at all while a script runs
CALLS = frozenset(("eval", "eval_ro", "evalsha", "evalsha_ro", "fcall"))


class _ScriptSlot(Slot):
    """The place of a script's reply, which says who may have ended it."""

    def fill(self, reply: bytes) -> None:
        """Take the reply."""
        if reply[:1] == b"-" and _KILLED in reply:
            reply = reply.rstrip() + b" Helios does so where it runs for longer than router.script_time_limit.\r\n"
        super().fill(reply)


def call(router: RouterContext, caller: Caller, shard: str, raw: bytes, argv: list[bytes], command: Command) -> None:
    """Run a script or function on a shard, which is told a script first if it may not know it."""
    link = router.pool.link(shard, caller.variant)
    slot = _ScriptSlot(caller)
    caller.replies.append(slot)
    waiter = router.script_cache.before(link, argv, slot)
    router.stray_scripts.ran(shard, argv)
    link.send_as(raw, waiter, router.totals.kind_of(command))


def prepare(router: RouterContext, link: ServerConnection, calls: Sequence[list[bytes]]) -> None:
    """See to it that the scripts that are about to be called in a transaction are known behind the link."""
    for argv in calls:
        router.script_cache.before(link, argv, FutureReply())
        router.stray_scripts.ran(link.shard, argv)


# --- SCRIPT -----------------------------------------------------------------------------------------------------


async def _script_load(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Load a script on every shard; one that does not answer gets it before its first call there."""
    remembered = False
    replies = await ask_each(router, argv)
    errors = [reply for reply in replies.values() if reply.startswith(b"-ERR")]
    if errors:
        return errors[0]
    if any(reply[:1] == b"$" for reply in replies.values()):
        remembered = await router.script_cache.remember(argv[2])
    if not remembered and any(reply[:1] == b"-" for reply in replies.values()):
        return in_part(replies)
    return bulk(sha_of(argv[2]))


async def _script_exists(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Whether each script can be called: it is remembered, or every shard has it."""
    found: list[bytes] = []
    async for shas in in_slices(argv[2:]):
        known = [router.script_cache.body(sha.lower()) is not None for sha in shas]
        if not all(known):
            each = [decoded(reply) for reply in (await ask_each(router, [*argv[:2], *shas])).values()]
            known = [here or all(there) for here, *there in zip(known, *each, strict=True)]
        found.append(b"".join([integer(int(here)) for here in known]))
    return await joined([b"*%d\r\n" % (len(argv) - 2), *found])


async def _script_flush(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Forget every script, everywhere."""
    if len(argv) > 3 or (len(argv) == 3 and argv[2].upper() not in (b"SYNC", b"ASYNC")):
        return error_reply("ERR SCRIPT FLUSH only support SYNC|ASYNC option")
    reply = await everywhere(router, caller, argv)
    if reply == OK:
        await router.script_cache.flush()
    return reply


async def _script_show(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """A script's body."""
    body = router.script_cache.body(argv[2].lower())
    if body is not None:
        return bulk(body)
    replies = (await ask_each(router, argv)).values()
    return next((reply for reply in replies if reply[:1] != b"-"), next(iter(replies)))


async def _kill(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """End what runs for too long: asked on connections of its own, since the others wait behind it.

    In a script's first seconds its server answers nothing, and then this before all else.
    """
    shards = router.topology.shards
    options = replace(router.options, connect_timeout_s=_KILL_TIMEOUT_S, member_timeout_s=_KILL_TIMEOUT_S)
    replies = await asyncio.gather(*(ask_aside(shard.leading, router, options, argv) for shard in shards))
    ended = []
    for shard, reply in zip(shards, replies, strict=True):
        if reply[:1] == b"+":
            router.pool.retry(shard.id)
            ended.append(reply)
    # Of the errors, NOTBUSY says least: there was nothing to end on that shard.
    return sorted(ended or replies, key=lambda reply: reply.startswith(b"-NOTBUSY"))[0]


# --- FUNCTION ---------------------------------------------------------------------------------------------------


async def _function_stats(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """The statistics of the shard on which a function runs, of any other where none does."""
    members = [shard.leading for shard in router.topology.shards]
    asked = (ask_aside(member, router, router.options, argv, caller.protocol) for member in members)
    replies = await asyncio.gather(*asked)
    return sorted(replies, key=_rank)[0]


def _rank(reply: bytes) -> int:
    """0 for statistics that name a running script, 1 for others, 2 for an error."""
    if reply[:1] == b"-":
        return 2
    reader = hiredis.Reader()
    reader.feed(reply)
    stats = reader.gets()
    fields = stats if isinstance(stats, dict) else dict(zip(stats[::2], stats[1::2], strict=True))
    return 1 if fields.get(b"running_script") is None else 0


HANDLERS: dict[str, Handler] = {
    "script|load": working(_script_load),
    "script|exists": working(_script_exists),
    "script|flush": working(_script_flush),
    "script|show": working(_script_show),
    "script|kill": working(_kill),
    "function|load": working(everywhere),
    "function|delete": working(everywhere),
    "function|flush": working(everywhere),
    "function|restore": working(everywhere),
    "function|list": _at_home,
    "function|dump": _at_home,
    "function|stats": working(_function_stats),
    "function|kill": working(_kill),
}
