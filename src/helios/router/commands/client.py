"""CLIENT: what can be asked and done about the connections of this router's clients."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from helios.errors import InvalidInput
from helios.resp.encoding import NULL, OK, bulk, encode, error_reply, integer
from helios.router.commands.handlers import Handler, at_once
from helios.router.context import RouterContext
from helios.router.frontend.caller import DONE, EVERY_REPLY, NEXT_REPLY, WAIT_ALL, Caller
from helios.router.frontend.connection import ClientConnection
from helios.router.pubsub.subscriptions import Kind

Fields = dict[str, object]
_TYPES = frozenset(("normal", "pubsub", "replica", "slave", "master", "primary"))
# By what CLIENT LIST and CLIENT KILL choose, beside ID, SKIPME, MAXAGE, IDLE and FLAGS: the field that must be equal.
_EQUAL = {"ADDR": "addr", "LADDR": "laddr", "USER": "user", "NAME": "name", "DB": "db", "LIB-NAME": "lib-name"}
_EQUAL |= {"LIB-VER": "lib-ver", "TYPE": "type", "IP": "ip"}
NO_TRACKING = (
    "ERR 'CLIENT TRACKING ON' is refused: the router cannot tell a client which of its keys others change; use "
    "times to live for what a client caches"
)


# --- its own connection -----------------------------------------------------------------------------------------


def is_name(name: bytes) -> bool:
    """Whether it can stand in CLIENT LIST: no spaces, no line breaks, nothing unprintable."""
    return all(33 <= byte <= 126 for byte in name)


def _set_name(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    if not is_name(argv[2]):
        return error_reply("ERR Client names cannot contain spaces, newlines or special characters.")
    caller.name = argv[2]
    return OK


def _get_name(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    return bulk(caller.name) if caller.name else NULL[caller.protocol]


def _set_info(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    attribute = argv[2].lower()
    if attribute not in (b"lib-name", b"lib-ver"):
        return error_reply(f"ERR Unrecognized option '{argv[2][:40].decode('utf-8', 'replace')}'")
    if not is_name(argv[3]):
        return error_reply(f"ERR {attribute.decode()} cannot contain spaces, newlines or special characters.")
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


def _switch(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """CLIENT NO-EVICT: others are let go first where memory is short. NO-TOUCH is accepted, and means nothing."""
    if argv[2].upper() not in (b"ON", b"OFF"):
        return error_reply("ERR syntax error")
    if argv[1].upper() == b"NO-EVICT" and isinstance(caller, ClientConnection):
        caller.spared = argv[2].upper() == b"ON"
    return OK


def _tracking(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    if argv[2].upper() == b"OFF":
        return OK
    return error_reply(NO_TRACKING if argv[2].upper() == b"ON" else "ERR syntax error")


def _tracking_info(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    return encode({"flags": ["off"], "redirect": -1, "prefixes": []}, caller.protocol)


def _caching(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    return error_reply(
        "ERR CLIENT CACHING can be called only when the client is in tracking mode with OPTIN or OPTOUT mode enabled"
    )


# --- all connections --------------------------------------------------------------------------------------------


def _fields(router: RouterContext, caller: Caller, now: float) -> Fields:
    """What CLIENT LIST says of a connection."""
    if not isinstance(caller, ClientConnection):
        return {"id": caller.id, "name": caller.name.decode()}
    kinds = [kind for kind, _ in router.hub.topics.of(caller)]
    flags = ("P" if kinds else "") + ("x" if caller.transaction else "") + ("b" if caller.call else "")
    return {
        "id": caller.id,
        "addr": caller.address,
        "laddr": caller.local_address,
        "fd": -1,
        "name": caller.name.decode(),
        "age": int(now - caller.since),
        "idle": int(now - caller.last_at),
        "flags": flags or "N",
        "db": 0,
        "sub": kinds.count(Kind.CHANNEL),
        "psub": kinds.count(Kind.PATTERN),
        "ssub": kinds.count(Kind.SHARD),
        "multi": -1 if caller.transaction is None else len(caller.transaction.frames),
        "watch": 0 if caller.watch is None else len(caller.watch.keys),
        "qbuf": len(caller.waiting),
        "omem": caller.unread_bytes,
        "events": "r" if not caller.stops else "",
        "cmd": caller.last_command,
        "user": caller.identity.name,
        "resp": caller.protocol,
        "lib-name": caller.library[b"lib-name"].decode(),
        "lib-ver": caller.library[b"lib-ver"].decode(),
    }


def _line(fields: Fields) -> bytes:
    return " ".join(f"{name}={value}" for name, value in fields.items()).encode()


def _info(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    return bulk(_line(_fields(router, caller, caller.outbox.now())) + b"\n")


def matches(fields: Fields, words: Sequence[str], me: int, *, skip_me: bool) -> bool:
    """Whether CLIENT LIST or KILL chooses the connection by these options. Raises InvalidInput."""
    chosen = True
    i = 0
    while i < len(words):
        option = words[i].upper()
        name = option.removeprefix("NOT-")
        values = list(words[i + 1 : i + 2])
        if name == "ID":
            values = _numbers(words[i + 1 :])
        if not values:
            raise InvalidInput("syntax error")
        i += 1 + len(values)
        if option == "SKIPME":
            if values[0].lower() not in ("yes", "no"):
                raise InvalidInput("syntax error")
            skip_me = values[0].lower() == "yes"
        else:
            chosen = chosen and _has(fields, name, values) is not option.startswith("NOT-")
    return chosen and not (skip_me and fields["id"] == me)


def _numbers(words: Iterable[str]) -> list[str]:
    found: list[str] = []
    for word in words:
        if not (word.isdecimal() and len(word) <= 20):
            break
        found.append(word)
    return found


def _has(fields: Fields, name: str, values: list[str]) -> bool:
    value = values[0]
    if name == "ID":
        return str(fields["id"]) in {str(int(each)) for each in values}
    if name in ("MAXAGE", "IDLE"):
        if not (value.isdecimal() and len(value) <= 20):
            raise InvalidInput("value is not an integer or out of range")
        return int(str(fields["age" if name == "MAXAGE" else "idle"])) >= int(value)
    if name == "FLAGS":
        return set(value) <= set(str(fields["flags"]))
    if name not in _EQUAL:
        raise InvalidInput("syntax error")
    if name == "TYPE":
        if value.lower() not in _TYPES:
            raise InvalidInput(f"Unknown client type '{value}'")
        return value.lower() == ("pubsub" if "P" in str(fields["flags"]) else "normal")
    if name == "IP":
        return str(fields["addr"]).rpartition(":")[0].strip("[]") == value
    return str(fields[_EQUAL[name]]) == value


def _chosen(router: RouterContext, caller: Caller, words: list[bytes], *, skip_me: bool) -> list[ClientConnection]:
    texts = [word.decode("utf-8", "replace") for word in words]
    now = caller.outbox.now()
    return [
        client
        for client in router.clients.values()
        if matches(_fields(router, client, now), texts, caller.id, skip_me=skip_me)
    ]


def _list(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    words = argv[2:]
    if len(words) == 1 or (len(words) > 1 and words[0].upper() == b"ID" and not words[1].isdigit()):
        return error_reply("ERR syntax error")
    try:
        chosen = _chosen(router, caller, words, skip_me=False)
    except InvalidInput as error:
        return error_reply(f"ERR {error}")
    now = caller.outbox.now()
    return bulk(b"".join(_line(_fields(router, client, now)) + b"\n" for client in chosen))


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
    if not (argv[2].isdigit() and len(argv[2]) <= 20):
        return error_reply("ERR value is not an integer or out of range")
    return integer(int(router.unblock(int(argv[2]), as_error=how == b"ERROR")))


HANDLERS: dict[str, Handler] = {
    "client|id": at_once(lambda router, caller, argv: integer(caller.id)),
    "client|setname": at_once(_set_name),
    "client|getname": at_once(_get_name),
    "client|setinfo": at_once(_set_info),
    "client|info": at_once(_info),
    "client|list": at_once(_list),
    "client|kill": _kill,
    "client|unblock": at_once(_unblock),
    "client|reply": _reply,
    "client|no-evict": at_once(_switch),
    "client|no-touch": at_once(_switch),
    "client|tracking": at_once(_tracking),
    "client|trackinginfo": at_once(_tracking_info),
    "client|getredir": at_once(lambda router, caller, argv: integer(-1)),
    "client|caching": at_once(_caching),
}
