"""SUBSCRIBE, PUBLISH, PUBSUB and their kin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from itertools import groupby
from operator import itemgetter

from helios.placement.glob import LONGEST_PATTERN
from helios.ports.engine import QUIET_CHANNEL
from helios.resp.encoding import NULL, array, bulk, encode, error_reply, integer
from helios.resp.wire import encode_command
from helios.router.commands.handlers import Handler, Work, awaited
from helios.router.commands.keyspace import decoded, present_routes
from helios.router.context import RouterContext
from helios.router.errors import PATTERN_TOO_LONG, shown
from helios.router.frontend.caller import (
    CLOSED,
    DONE,
    HOLD,
    WAIT_REPLY,
    Caller,
    Confirmation,
    FutureReply,
    Slot,
    Waiter,
)
from helios.router.frontend.connection import ClientConnection
from helios.router.pubsub.subscriptions import AT_ONCE, Kind, Topic, in_parts

# What a client with RESP2 may send while it is subscribed to something.
ALLOWED = frozenset(f"{prefix}{verb}subscribe" for prefix in ("", "p", "s") for verb in ("", "un"))
ALLOWED |= {"ping", "quit", "reset"}
_KINDS = {"": Kind.CHANNEL, "p": Kind.PATTERN, "s": Kind.SHARD}


def not_now(name: str) -> bytes:
    """The reply to a command that a client with RESP2 may not send while it is subscribed."""
    return error_reply(
        f"ERR Can't execute '{name}': only (P|S)SUBSCRIBE / (P|S)UNSUBSCRIBE / PING / QUIT / RESET are allowed in "
        "this context"
    )


def _confirmation(protocol: int, word: bytes, name: bytes | None, count: int) -> bytes:
    kind = b">" if protocol == 3 else b"*"
    shown = NULL[protocol] if name is None else bulk(name)
    return kind + b"3\r\n" + bulk(word) + shown + integer(count)


def _subscriber(kind: Kind) -> Handler:
    def subscribe(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
        """Subscribe to channels or patterns; the replies come when no message can be missed any more."""
        if not isinstance(caller, ClientConnection):
            caller.answer(error_reply("ERR subscriptions need a connection of their own"))
            return DONE
        reason = router.reason()
        if reason is not None:
            caller.answer(error_reply(f"CLUSTERDOWN {reason}; nothing was subscribed"))
            return DONE
        if kind is Kind.PATTERN and any(len(name) > LONGEST_PATTERN for name in argv[1:]):
            caller.answer(PATTERN_TOO_LONG)
            return DONE
        slot = Confirmation(caller)
        caller.replies.append(slot)
        if len(argv) <= AT_ONCE:
            router.hub.join(caller, *_wished(router, caller, kind, argv[1:]), slot)
        else:
            router.fill_later(slot, _subscribed_in_parts(router, caller, kind, argv[1:]))
        return WAIT_REPLY

    return subscribe


def _wished(
    router: RouterContext, client: ClientConnection, kind: Kind, names: Sequence[bytes]
) -> tuple[list[Topic], bytes]:
    """The topics of a SUBSCRIBE, and how it is confirmed."""
    topics = router.hub.topics
    fresh: set[bytes] = set()
    count = topics.count(client, kind)
    confirmations = []
    for name in names:
        if name not in fresh and (kind, name) not in topics.of(client):
            fresh.add(name)
            count += 1
        confirmations.append(_confirmation(client.protocol, kind.subscribe, name, count))
    return [(kind, name) for name in names], b"".join(confirmations)


async def _subscribed_in_parts(
    router: RouterContext, client: ClientConnection, kind: Kind, names: list[bytes]
) -> bytes:
    """A SUBSCRIBE with many names. Each part waits for the servers, and what it takes counts as its client's."""
    confirmations: list[bytes] = []
    added: list[Topic] = []
    for part in in_parts(names):
        if client.stops & CLOSED:
            break
        topics, confirmation = _wished(router, client, kind, part)
        fresh = [topic for topic in topics if topic not in router.hub.topics.of(client)]
        reply = FutureReply()
        router.hub.join(client, topics, confirmation, reply)
        confirmations.append(await reply)
        if confirmations[-1][:1] == b"-":
            await _unsubscribed_in_parts(router, client, added)
            return confirmations[-1]
        added += fresh
    return b"".join(confirmations)


async def _unsubscribed_in_parts(router: RouterContext, client: ClientConnection, topics: list[Topic]) -> bytes:
    """End many subscriptions, and how that is confirmed."""
    replies: list[bytes] = []
    for part in in_parts(topics):
        replies += (
            _left(router, client, kind, [name for _, name in named]) for kind, named in groupby(part, itemgetter(0))
        )
        await asyncio.sleep(0)
    return b"".join(replies)


def _left(router: RouterContext, client: ClientConnection, kind: Kind, names: Sequence[bytes]) -> bytes:
    """End subscriptions of a kind, and how that is confirmed."""
    topics = router.hub.topics
    mine = {name for name in names if (kind, name) in topics.of(client)}
    count = topics.count(client, kind)
    confirmations = []
    for name in names:
        count -= name in mine
        mine.discard(name)
        confirmations.append(_confirmation(client.protocol, kind.unsubscribe, name, count))
    router.hub.leave(client, [(kind, name) for name in names])
    return b"".join(confirmations)


def _unsubscriber(kind: Kind) -> Handler:
    def unsubscribe(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
        """End subscriptions: those that are named, or all of the kind."""
        if not isinstance(caller, ClientConnection):
            caller.answer(_confirmation(caller.protocol, kind.unsubscribe, None, 0))
            return DONE
        topics = router.hub.topics
        names = argv[1:] or [name for each, name in topics.of(caller) if each is kind]
        slot = Confirmation(caller)
        caller.replies.append(slot)
        if not names:
            slot.fill(_confirmation(caller.protocol, kind.unsubscribe, None, topics.count(caller, kind)))
            return DONE
        if len(names) <= AT_ONCE:
            slot.fill(_left(router, caller, kind, names))
            return DONE
        router.fill_later(slot, _unsubscribed_in_parts(router, caller, [(kind, name) for name in names]))
        return WAIT_REPLY

    return unsubscribe


def end_denied(router: RouterContext, caller: Caller) -> None:
    """End the subscriptions that the caller, who is another user now, may not have, of each of which it is told.

    Its tracking ends, too, if it may not read.
    """
    if caller.rights is None or not isinstance(caller, ClientConnection):
        return
    for kind, name in list(router.hub.topics.of(caller)):
        if caller.rights.refusal([kind.subscribe, name]) is not None:
            router.hub.leave(caller, [(kind, name)])
            count = router.hub.topics.count(caller, kind)
            caller.push(_confirmation(caller.protocol, kind.unsubscribe, name, count))
    if caller.rights.refusal([b"CLIENT", b"TRACKING", b"ON"]) is not None:
        router.tracker.forget(caller)


class _Receivers:
    """Turns the server's count of receivers, which are routers, into one of clients as far as they are known."""

    __slots__ = ("_channel", "_router", "_shard", "_waiter")

    def __init__(self, router: RouterContext, waiter: Waiter, shard: str, channel: Topic) -> None:
        self._router = router
        self._waiter = waiter
        self._shard = shard
        self._channel = channel

    def fill(self, reply: bytes) -> None:
        """Take the server's reply."""
        if reply[:1] == b":":
            reply = integer(clients_reached(self._router, self._shard, self._channel, int(reply[1:-2])))
        self._waiter.fill(reply)


def clients_reached(router: RouterContext, shard: str, channel: Topic, connections: int) -> int:
    """How many messages clients get where the shard's server counts so many connections.

    This router's clients are counted each; of another router it is known only that it has some.
    """
    seen, clients = router.hub.reached(shard, channel)
    return max(0, connections - seen) + clients


def _publisher(kind: Kind) -> Handler:
    def publish(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
        """Publish at the shard that would own a key of the channel's name."""
        reason = router.reason()
        if reason is not None:
            caller.answer(error_reply(f"CLUSTERDOWN {reason}; nothing was executed"))
            return DONE
        routes, channel = router.routes, argv[1]
        assert routes is not None
        if routes.has_fence and routes.fenced(channel):
            return HOLD
        shard = routes.owner(channel)
        slot = Slot(caller)
        caller.replies.append(slot)
        waiter = _Receivers(router, slot, shard, (kind, channel))
        router.pool.link(shard, caller.protocol).send(encode_command(argv), waiter)
        return DONE

    return publish


# --- PUBSUB -----------------------------------------------------------------------------------------------------


def _asking(work: Callable[[RouterContext, int, list[bytes]], Coroutine[None, None, bytes]]) -> Work:
    """Work that asks the shards."""

    async def asked(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
        reason = router.reason()
        if reason is not None:
            return error_reply(f"CLUSTERDOWN {reason}; nothing was executed")
        return await work(router, caller.protocol, argv)

    return asked


async def _channels(router: RouterContext, protocol: int, argv: list[bytes]) -> bytes:
    """The channels that somebody is subscribed to, through any router."""
    if len(argv) > 3:
        return error_reply(
            b"ERR unknown subcommand or wrong number of arguments for '%b'. Try PUBSUB HELP." % shown(argv[1])
        )
    replies = await asyncio.gather(*(router.pool.ask(shard.id, argv) for shard in router.topology.shards))
    return encode(sorted({name for reply in replies for name in decoded(reply)} - {QUIET_CHANNEL}), protocol)


async def _patterns(router: RouterContext, protocol: int, argv: list[bytes]) -> bytes:
    """The number of different patterns: every shard knows them all."""
    replies = await asyncio.gather(*(router.pool.ask(shard.id, argv) for shard in router.topology.shards))
    return integer(max(decoded(reply) for reply in replies))


async def _counted(router: RouterContext, kind: Kind, words: list[bytes], names: Sequence[bytes]) -> dict[bytes, int]:
    """How many are subscribed to each of a few channels: each shard is asked once, for those that it would publish."""
    by_owner: dict[str, list[bytes]] = {}
    routes = present_routes(router)
    for name in names:
        by_owner.setdefault(routes.owner(name), []).append(name)
    replies = await asyncio.gather(*(router.pool.ask(owner, [*words, *named]) for owner, named in by_owner.items()))
    counts: dict[bytes, int] = {}
    for (owner, named), reply in zip(by_owner.items(), replies, strict=True):
        for name, connections in zip(named, decoded(reply)[1::2], strict=True):
            topic = kind, name
            here = router.hub.subscribed(owner, topic)
            mine = len(router.hub.topics.audience(topic)) if here else 0
            counts[name] = max(0, int(connections) - here) + mine
    return counts


def _counter(kind: Kind) -> Work:
    async def count(router: RouterContext, protocol: int, argv: list[bytes]) -> bytes:
        """For each channel how many clients are subscribed to it, those of other routers as one each."""
        flat: list[bytes] = []
        for names in in_parts(argv[2:]):
            counts = await _counted(router, kind, argv[:2], names)
            for name in names:
                flat += [bulk(name), integer(counts[name])]
        return array(flat)

    return _asking(count)


WORKS: dict[str, Work] = {
    "pubsub|channels": _asking(_channels),
    "pubsub|shardchannels": _asking(_channels),
    "pubsub|numpat": _asking(_patterns),
    "pubsub|numsub": _counter(Kind.CHANNEL),
    "pubsub|shardnumsub": _counter(Kind.SHARD),
}
HANDLERS: dict[str, Handler] = {
    **{f"{prefix}subscribe": _subscriber(kind) for prefix, kind in _KINDS.items()},
    **{f"{prefix}unsubscribe": _unsubscriber(kind) for prefix, kind in _KINDS.items()},
    **{name: awaited(work) for name, work in WORKS.items()},
    "publish": _publisher(Kind.CHANNEL),
    "spublish": _publisher(Kind.SHARD),
}
