"""Commands that the router answers itself, as a single server would."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from helios.access.rights import Nobody
from helios.errors import InvalidInput
from helios.model.users import DEFAULT_USER
from helios.placement.glob import compile_glob
from helios.resp.commands import TABLE, Command, How, find, key_positions
from helios.resp.encoding import NULL, OK, array, bulk, encode, error, integer
from helios.router import info
from helios.router.callers import DONE, WAIT_ALL, WAIT_REPLY, Caller
from helios.router.server import ClientConnection

if TYPE_CHECKING:
    from helios.router.core import Router

Answer = Callable[["Router", Caller, list[bytes]], bytes]
Handler = Callable[["Router", Caller, list[bytes]], int]
_NO_USERS = "no users are configured (see security.users): connect without a password"


def _at_once(answer: Answer) -> Handler:
    """A handler that answers with the bytes that `answer` gives."""

    def handler(router: Router, caller: Caller, argv: list[bytes]) -> int:
        caller.answer(answer(router, caller, argv))
        return DONE

    return handler


def _ping(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    if len(argv) > 2:
        return error("ERR wrong number of arguments for 'ping' command")
    return b"+PONG\r\n" if len(argv) == 1 else bulk(argv[1])


def _select(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    if argv[1] == b"0":
        return OK
    if not argv[1].lstrip(b"-").isdigit():
        return error("ERR invalid DB index")
    return error(f"ERR 'SELECT {argv[1][:20].decode()}' is refused: Helios has one database, number 0")


def _time(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    microseconds = int(router.clock.wall() * 1_000_000)
    return encode([b"%d" % part for part in divmod(microseconds, 1_000_000)], 2)


def _quit(router: Router, caller: Caller, argv: list[bytes]) -> int:
    caller.answer(OK)
    caller.close_after_replies()
    return DONE


def _reset(router: Router, caller: Caller, argv: list[bytes]) -> int:
    # A client's commands to one shard keep their order on one connection; each protocol has its own.
    if caller.protocol != 2 and caller.replies:
        return WAIT_ALL
    caller.let_go()
    caller.protocol = 2
    caller.name = b""
    caller.become(router.gate.newcomer())
    caller.answer(b"+RESET\r\n")
    return DONE


def _hello(router: Router, caller: Caller, argv: list[bytes]) -> int:
    protocol, name = caller.protocol, caller.name
    if len(argv) > 1:
        if not argv[1].isdigit():
            caller.answer(error("ERR Protocol version is not an integer or out of range"))
            return DONE
        if argv[1] not in (b"2", b"3"):
            caller.answer(error("NOPROTO unsupported protocol version"))
            return DONE
        protocol = int(argv[1])
    login: tuple[bytes, bytes] | None = None
    i = 2
    while i < len(argv):
        option = argv[i].upper()
        if option == b"SETNAME" and i + 1 < len(argv) and _is_name(argv[i + 1]):
            name = argv[i + 1]
            i += 2
        elif option == b"AUTH" and i + 2 < len(argv):
            login = (argv[i + 1], argv[i + 2])
            i += 3
        else:
            caller.answer(error(f"ERR Syntax error in HELLO option '{argv[i][:40].decode('utf-8', 'replace')}'"))
            return DONE
    if protocol != caller.protocol and caller.replies:
        return WAIT_ALL
    if login is not None:
        router.spawn(caller, _logged_in(router, caller, *login, lambda: _greeting(router, caller, protocol, name)))
        return WAIT_REPLY
    if isinstance(caller.rights, Nobody):
        caller.answer(error("NOAUTH HELLO comes after a login here: write HELLO <protocol> AUTH <user> <password>"))
        return DONE
    caller.answer(_greeting(router, caller, protocol, name))
    return DONE


def _greeting(router: Router, caller: Caller, protocol: int, name: bytes) -> bytes:
    """Switch to the protocol and say who answers."""
    caller.protocol, caller.name = protocol, name
    fields = {
        "server": "redis",
        "version": info.redis_version(router),
        "proto": protocol,
        "id": caller.id,
        "mode": "standalone",
        "role": "master",
        "modules": [],
    }
    return encode(fields, protocol)


# --- users ------------------------------------------------------------------------------------------------------


def _auth(router: Router, caller: Caller, argv: list[bytes]) -> int:
    if len(argv) > 3:
        caller.answer(error("ERR wrong number of arguments for 'auth' command"))
        return DONE
    name, password = (DEFAULT_USER.encode(), argv[1]) if len(argv) == 2 else (argv[1], argv[2])
    router.spawn(caller, _logged_in(router, caller, name, password, lambda: OK))
    return WAIT_REPLY


async def _logged_in(router: Router, caller: Caller, name: bytes, password: bytes, then: Callable[[], bytes]) -> bytes:
    """Make the caller that user, then what `then` answers. Raises WrongPassword or Unavailable."""
    if not router.gate.guarded:
        return error(f"ERR 'AUTH' is refused: {_NO_USERS}")
    source = caller.address.rpartition(":")[0] if isinstance(caller, ClientConnection) else ""
    caller.become(await router.gate.login(name.decode("utf-8", "replace"), password, source))
    return then()


# --- CLIENT -----------------------------------------------------------------------------------------------------


def _is_name(name: bytes) -> bool:
    """Whether it can stand in CLIENT LIST: no spaces, no line breaks, nothing unprintable."""
    return all(33 <= byte <= 126 for byte in name)


def _set_name(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    if not _is_name(argv[2]):
        return error("ERR Client names cannot contain spaces, newlines or special characters.")
    caller.name = argv[2]
    return OK


def _get_name(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    return bulk(caller.name) if caller.name else NULL[caller.protocol]


def _set_info(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    attribute = argv[2].lower()
    if attribute not in (b"lib-name", b"lib-ver"):
        return error(f"ERR Unrecognized option '{argv[2][:40].decode('utf-8', 'replace')}'")
    if not _is_name(argv[3]):
        return error(f"ERR {attribute.decode()} cannot contain spaces, newlines or special characters.")
    caller.library[attribute] = argv[3]
    return OK


def _client_line(caller: Caller, now: float) -> bytes:
    """What CLIENT LIST says of a connection."""
    if not isinstance(caller, ClientConnection):
        return b"id=%d name=%b" % (caller.id, caller.name)
    fields: dict[str, object] = {
        "id": caller.id,
        "addr": caller.address,
        "laddr": caller.local_address,
        "fd": -1,
        "name": caller.name.decode(),
        "age": int(now - caller.since),
        "idle": int(now - caller.last_at),
        "flags": ("x" if caller.transaction else "") + ("b" if caller.call else "") or "N",
        "db": 0,
        "sub": 0,
        "psub": 0,
        "ssub": 0,
        "multi": -1 if caller.transaction is None else len(caller.transaction.frames),
        "watch": 0 if caller.watch is None else len(caller.watch.keys),
        "qbuf": len(caller.waiting),
        "omem": caller.owed,
        "events": "r" if not caller.stops else "",
        "cmd": caller.last_command,
        "user": caller.identity.name,
        "resp": caller.protocol,
        "lib-name": caller.library[b"lib-name"].decode(),
        "lib-ver": caller.library[b"lib-ver"].decode(),
    }
    return " ".join(f"{name}={value}" for name, value in fields.items()).encode()


def _list_clients(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    chosen = list(router.clients.values())
    if len(argv) > 2:
        option = argv[2].upper()
        if option == b"ID" and len(argv) > 3 and all(word.isdigit() for word in argv[3:]):
            wanted = {int(word[:20]) for word in argv[3:]}
            chosen = [client for client in chosen if client.id in wanted]
        elif option == b"TYPE" and len(argv) == 4 and argv[3].lower() in (b"normal", b"pubsub", b"replica", b"master"):
            chosen = chosen if argv[3].lower() == b"normal" else []
        else:
            return error("ERR syntax error")
    now = caller.outbox.now()
    return bulk(b"".join(_client_line(client, now) + b"\n" for client in chosen))


def _switch(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    """CLIENT NO-EVICT and NO-TOUCH: accepted, since they ask for less than nothing of a router."""
    return OK if argv[2].upper() in (b"ON", b"OFF") else error("ERR syntax error")


# --- COMMAND ----------------------------------------------------------------------------------------------------


def _offered() -> list[Command]:
    """The commands that can be used, containers without their subcommands."""
    return [
        command for command in TABLE.values() if "|" not in command.name and command.how not in (How.REFUSED, How.LATER)
    ]


def _described(command: Command, protocol: int) -> bytes:
    """One element of COMMAND's reply: name, arity, flags, first and last key and step; the rest is empty."""
    fields: list[object] = [command.name, command.arity, sorted(command.flags), *command.key_range, [], [], [], []]
    return encode(fields, protocol)


def _command(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    return array([_described(command, caller.protocol) for command in _offered()])


def _command_info(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    if len(argv) == 2:
        return _command(router, caller, argv)
    found = [TABLE.get(word.decode("latin-1").lower()) for word in argv[2:]]
    null = b"*-1\r\n" if caller.protocol == 2 else NULL[3]
    return array([null if command is None else _described(command, caller.protocol) for command in found])


def _command_list(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    names = [command.name for command in _offered()]
    if len(argv) == 5 and argv[2].upper() == b"FILTERBY" and argv[3].upper() == b"PATTERN":
        glob = compile_glob(argv[4].decode("utf-8", "replace"))
        names = [name for name in names if glob.match(name.encode())]
    elif len(argv) > 2:
        return error("ERR syntax error")
    return encode(names, caller.protocol)


def _command_keys(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    command = find(argv[2])
    inner = argv[2:]
    if command is not None and command.container and len(inner) > 1:
        command = TABLE.get(f"{command.name}|{inner[1].decode('latin-1').lower()}")
    if command is None:
        return error("ERR Invalid command specified")
    if not command.fits(len(inner)):
        return error("ERR Invalid number of arguments specified for command")
    try:
        positions = key_positions(command, inner)
    except InvalidInput as fault:
        return error(f"ERR {fault}")
    if not positions:
        return error("ERR The command has no key arguments")
    return encode([inner[position] for position in positions], caller.protocol)


# --- CONFIG, INFO -----------------------------------------------------------------------------------------------


def _config_get(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    globs = [compile_glob(pattern.decode("utf-8", "replace").lower()) for pattern in argv[2:]]
    known = info.parameters(router)
    return encode(
        {name: value for name, value in known.items() if any(glob.match(name.encode()) for glob in globs)},
        caller.protocol,
    )


def _reset_statistics(router: Router, caller: Caller, argv: list[bytes]) -> bytes:
    router.commands = router.clients_total = router.clients_refused = router.slow_readers = router.holding.total = 0
    return OK


def _info(router: Router, caller: Caller, argv: list[bytes]) -> int:
    router.spawn(caller, info.reply(router, caller.protocol, [word.decode("latin-1").lower() for word in argv[1:]]))
    return WAIT_REPLY


HANDLERS: dict[str, Handler] = {
    "ping": _at_once(_ping),
    "echo": _at_once(lambda router, caller, argv: bulk(argv[1])),
    "acl|whoami": _at_once(lambda router, caller, argv: bulk(caller.identity.name.encode())),
    "auth": _auth,
    "select": _at_once(_select),
    "time": _at_once(_time),
    "quit": _quit,
    "reset": _reset,
    "hello": _hello,
    "info": _info,
    "client|id": _at_once(lambda router, caller, argv: integer(caller.id)),
    "client|setname": _at_once(_set_name),
    "client|getname": _at_once(_get_name),
    "client|setinfo": _at_once(_set_info),
    "client|info": _at_once(lambda router, caller, argv: bulk(_client_line(caller, caller.outbox.now()) + b"\n")),
    "client|list": _at_once(_list_clients),
    "client|no-evict": _at_once(_switch),
    "client|no-touch": _at_once(_switch),
    "command": _at_once(_command),
    "command|count": _at_once(lambda router, caller, argv: integer(len(_offered()))),
    "command|info": _at_once(_command_info),
    # Documentation is what the servers' own is; clients take none for an answer.
    "command|docs": _at_once(lambda router, caller, argv: encode({}, caller.protocol)),
    "command|list": _at_once(_command_list),
    "command|getkeys": _at_once(_command_keys),
    "config|get": _at_once(_config_get),
    "config|resetstat": _at_once(_reset_statistics),
}
