"""CLIENT: what can be asked and done about the connections of this router's clients."""

from __future__ import annotations

from helios.errors import InvalidInput
from helios.resp.encoding import NULL, OK, bulk, error_reply, integer, verbatim
from helios.resp.numbers import integer_of
from helios.router.commands import client_filter
from helios.router.commands.handlers import Answer, Handler, at_once
from helios.router.commands.tracking import redirect
from helios.router.context import RouterContext
from helios.router.errors import shown
from helios.router.frontend.caller import DONE, EVERY_REPLY, NEXT_REPLY, WAIT_ALL, Caller
from helios.router.frontend.connection import ClientConnection
from helios.router.frontend.hand_over import ENDPOINT_TYPES
from helios.router.pubsub.subscriptions import Kind

Fields = dict[str, object]
NO_NAME = "ERR Client names cannot contain spaces, newlines or special characters."


# --- its own connection -----------------------------------------------------------------------------------------


def is_name(name: bytes) -> bool:
    """Whether it can stand in CLIENT LIST: no spaces, no line breaks, nothing unprintable."""
    return all(33 <= byte <= 126 for byte in name)


def _set_name(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    if not is_name(argv[2]):
        return error_reply(NO_NAME)
    caller.name = argv[2]
    return OK


def _get_name(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    return bulk(caller.name) if caller.name else NULL[caller.protocol]


def _set_info(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    attribute = argv[2].lower()
    if attribute not in (b"lib-name", b"lib-ver"):
        return error_reply(b"ERR Unrecognized option '%b'" % shown(argv[2]))
    if not is_name(argv[3]):
        return error_reply(f"ERR {argv[2].decode()} cannot contain spaces, newlines or special characters.")
    caller.library[attribute] = argv[3]
    return OK


def _reply(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """Leave replies out from now on, or the next one. What came before it is answered first."""
    wish = argv[2].upper()
    if wish not in (b"ON", b"OFF", b"SKIP") or not isinstance(caller, ClientConnection):
        caller.answer(error_reply("ERR syntax error"))
    elif caller.replies:
        return WAIT_ALL
    elif wish == b"ON":
        caller.muted = 0
        caller.answer(OK)
    elif wish == b"OFF":
        caller.muted = EVERY_REPLY
    else:
        caller.muted = caller.muted or NEXT_REPLY
    return DONE


def _no_evict(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Let others go first where memory is short."""
    if argv[2].upper() not in (b"ON", b"OFF"):
        return error_reply("ERR syntax error")
    if isinstance(caller, ClientConnection):
        caller.spared = argv[2].upper() == b"ON"
    return OK


def _no_touch(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """From now on its commands go over connections that touch no key, or over the others again."""
    wish = argv[2].upper()
    if wish not in (b"ON", b"OFF"):
        caller.answer(error_reply("ERR syntax error"))
        return DONE
    if caller.replies:
        return WAIT_ALL  # They may be on another connection, and it must not overtake them.
    caller.no_touch = wish == b"ON"
    caller.become(caller.identity)
    caller.answer(OK)
    return DONE


def _capabilities(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """What a client says that it can do; what is not known is ignored, as servers do it."""
    if b"redirect" in [word.lower() for word in argv[2:]]:
        caller.capabilities = "r"
    return OK


def _maintenance(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Whether it wants to be sent to another node before this router stops, and how it is told of that node."""
    words = [word.lower() for word in argv[2:]]
    if words == [b"off"]:
        endpoint = b""
    elif words[0] == b"on" and len(words) in (1, 3) and words[1:2] in ([], [b"moving-endpoint-type"]):
        endpoint = words[2] if len(words) == 3 else b"internal-ip"
        if endpoint not in ENDPOINT_TYPES:
            return error_reply(
                f"ERR moving-endpoint-type must be one of {', '.join(map(bytes.decode, sorted(ENDPOINT_TYPES)))}"
            )
        if caller.protocol != 3:
            return error_reply("ERR CLIENT MAINT_NOTIFICATIONS needs RESP3: send HELLO 3 first")
    else:
        return error_reply("ERR syntax error")
    if isinstance(caller, ClientConnection):
        caller.moving_endpoint = endpoint
    return OK


# --- all connections --------------------------------------------------------------------------------------------


def _fields(router: RouterContext, caller: Caller, now: float) -> Fields:
    """What CLIENT LIST says of a connection."""
    if not isinstance(caller, ClientConnection):
        return {"id": caller.id, "name": caller.name.decode()}
    kinds = [kind for kind, _ in router.hub.topics.of(caller)]
    multi_bytes = 0 if caller.transaction is None else caller.transaction.size
    return {
        "id": caller.id,
        "addr": caller.address,
        "laddr": caller.local_address,
        "fd": -1,
        "name": caller.name.decode(),
        "age": int(now - caller.since),
        "idle": int(now - caller.last_at),
        "flags": _flags(caller, subscribed=bool(kinds)),
        "capa": caller.capabilities,
        "db": 0,
        "sub": kinds.count(Kind.CHANNEL),
        "psub": kinds.count(Kind.PATTERN),
        "ssub": kinds.count(Kind.SHARD),
        "multi": -1 if caller.transaction is None else len(caller.transaction.frames),
        "watch": 0 if caller.watch is None else len(caller.watch.keys),
        "qbuf": caller.received_bytes,
        "qbuf-free": 0,
        "argv-mem": sum(len(raw) for raw, _ in caller.waiting),
        "multi-mem": multi_bytes,
        # A router gives no client a buffer of a size of its own: replies leave as they come.
        "rbs": 0,
        "rbp": 0,
        "obl": 0,
        "oll": len(caller.replies),
        "omem": caller.unread_bytes,
        "tot-mem": caller.held_bytes,
        "events": "r" if not caller.stops else "",
        "cmd": caller.last_command or "NULL",
        "user": caller.identity.name,
        "redir": redirect(caller),
        "resp": caller.protocol,
        "lib-name": caller.library[b"lib-name"].decode(),
        "lib-ver": caller.library[b"lib-ver"].decode(),
        "tot-net-in": caller.bytes_in,
        "tot-net-out": caller.bytes_out,
        "tot-cmds": caller.commands,
    }


def _flags(client: ClientConnection, *, subscribed: bool) -> str:
    """Its state in the servers' letters."""
    letters = {
        "P": subscribed,
        "x": client.transaction is not None,
        "b": client.call is not None,
        "e": client.spared,
        "r": client.stale_reads is not None,
        "T": client.no_touch,
    }
    tracked = "" if client.tracking is None else client.tracking.letters
    return "".join(letter for letter, holds in letters.items() if holds) + tracked or "N"


def _line(fields: Fields) -> bytes:
    return " ".join(f"{name}={value}" for name, value in fields.items()).encode()


def _info(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    return verbatim(_line(_fields(router, caller, caller.outbox.now())) + b"\n", caller.protocol)


def _chosen(router: RouterContext, caller: Caller, words: list[bytes], *, skip_me: bool) -> list[ClientConnection]:
    """The connections that the options choose. Raises InvalidInput."""
    texts = [word.decode("utf-8", "replace") for word in words]
    chosen = client_filter.parse(texts, router.authenticator.knows, skip_me=skip_me)
    now = caller.outbox.now()
    return [client for client in router.clients.values() if chosen.chooses(_fields(router, client, now), caller.id)]


def _list(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    try:
        chosen = _chosen(router, caller, argv[2:], skip_me=False)
    except InvalidInput as error:
        return error_reply(f"ERR {error}")
    now = caller.outbox.now()
    return verbatim(b"".join(_line(_fields(router, client, now)) + b"\n" for client in chosen), caller.protocol)


def _kill(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """End connections: one by its address, or all that are chosen, of which the number is answered."""
    by_address = len(argv) == 3
    try:
        words = [b"ADDR", argv[2]] if by_address else argv[2:]
        chosen = _chosen(router, caller, words, skip_me=not by_address)
    except InvalidInput as error:
        caller.answer(error_reply(f"ERR {error}"))
        return DONE
    if by_address:
        caller.answer(OK if chosen else error_reply("ERR No such client"))
    else:
        caller.answer(integer(len(chosen)))
    for client in chosen:
        if client is caller:
            client.close_after_replies()
        else:
            client.abort()
    return DONE


def _unblock(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Let a client's blocking command go on."""
    how = argv[3].upper() if len(argv) > 3 else b"TIMEOUT"
    if len(argv) > 4 or how not in (b"TIMEOUT", b"ERROR"):
        return error_reply("ERR CLIENT UNBLOCK reason should be TIMEOUT or ERROR")
    client_id = integer_of(argv[2])
    if client_id is None:
        return error_reply("ERR value is not an integer or out of range")
    return integer(int(router.clients.unblock(client_id, as_error=how == b"ERROR")))


ANSWERS: dict[str, Answer] = {
    "client|id": lambda router, caller, argv: integer(caller.id),
    "client|setname": _set_name,
    "client|getname": _get_name,
    "client|setinfo": _set_info,
    "client|info": _info,
    "client|list": _list,
    "client|unblock": _unblock,
    "client|no-evict": _no_evict,
    "client|capa": _capabilities,
    "client|maint_notifications": _maintenance,
}
HANDLERS: dict[str, Handler] = {
    **{name: at_once(answer) for name, answer in ANSWERS.items()},
    "client|kill": _kill,
    "client|reply": _reply,
    "client|no-touch": _no_touch,
}
