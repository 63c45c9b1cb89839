"""Commands that the router answers itself, as a single server would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from helios.access.rights import Nobody
from helios.errors import Unavailable, WrongPassword
from helios.model.users import DEFAULT_USER
from helios.placement.glob import LONGEST_PATTERN, Glob
from helios.resp.encoding import OK, array, bulk, encode, error_reply, integer
from helios.router.commands import info
from helios.router.commands.client import is_name
from helios.router.commands.handlers import Handler, at_once
from helios.router.commands.pubsub import end_denied
from helios.router.context import RouterContext
from helios.router.errors import PATTERN_TOO_LONG
from helios.router.frontend.caller import DONE, IN_NO_DATABASE, IN_SUBSCRIPTION, WAIT_ALL, WAIT_REPLY, Caller
from helios.router.frontend.connection import ClientConnection
from helios.router.frontend.limits import MAX_CLIENTS_REACHED
from helios.router.pubsub.subscriptions import in_parts

_NO_USERS = "no users are configured (see security.users): connect without a password"


def _ping(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    if len(argv) > 2:
        return error_reply("ERR wrong number of arguments for 'ping' command")
    if caller.modes & IN_SUBSCRIPTION:
        return array([bulk(b"pong"), bulk(argv[1] if len(argv) > 1 else b"")])
    return b"+PONG\r\n" if len(argv) == 1 else bulk(argv[1])


# What a connection may send that has asked for a database that does not exist, so as not to go on in another one.
ON_THE_WAY_BACK = frozenset((b"SELECT", b"RESET", b"QUIT", b"HELLO"))


def _select(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    if not choose_database(caller, argv[1]):
        return error_reply("ERR value is not an integer or out of range")
    if caller.database == b"0":
        return OK
    return error_reply(f"ERR 'SELECT {_database(caller)}' is refused: Helios has one database, number 0")


def choose_database(caller: Caller, number: bytes) -> bool:
    """Note the database that a client means from now on, whether or not it reads the reply; False for no number."""
    if not number.removeprefix(b"-").isdigit():
        return False
    caller.database = number
    caller.modes = caller.modes & ~IN_NO_DATABASE if number == b"0" else caller.modes | IN_NO_DATABASE
    return True


def no_database(caller: Caller, word: bytes) -> bytes:
    """The reply to a command that means another database than the one that there is."""
    return error_reply(
        f"ERR '{word[:40].decode('utf-8', 'replace').upper()}' is refused: this connection has asked for database "
        f"{_database(caller)}, and Helios has one database, number 0 (SELECT 0 or RESET goes on there)"
    )


def _database(caller: Caller) -> str:
    return caller.database[:20].decode()


def _time(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    microseconds = int(router.clock.wall() * 1_000_000)
    return encode([b"%d" % part for part in divmod(microseconds, 1_000_000)], 2)


def _role(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """What a server says that has no replicas; to clients, a router is one."""
    return encode(["master", 0, []], caller.protocol)


def _quit(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    caller.answer(OK)
    caller.close_after_replies()
    return DONE


def _reset(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    # A client's commands to one shard keep their order on one connection; each protocol has its own.
    if caller.protocol != 2 and caller.replies:
        return WAIT_ALL
    caller.let_go()
    if isinstance(caller, ClientConnection) and router.hub.topics.of(caller):
        router.spawn(caller, _reset_without_subscriptions(router, caller))
        return WAIT_REPLY
    caller.answer(_as_new(router, caller))
    return DONE


async def _reset_without_subscriptions(router: RouterContext, client: ClientConnection) -> bytes:
    for part in in_parts(list(router.hub.topics.of(client))):
        router.hub.leave(client, part)
        await asyncio.sleep(0)
    return _as_new(router, client)


def _as_new(router: RouterContext, caller: Caller) -> bytes:
    caller.protocol = 2
    caller.name = b""
    choose_database(caller, b"0")
    caller.become(router.authenticator.newcomer())
    return b"+RESET\r\n"


def _hello(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    protocol, name = caller.protocol, caller.name
    if len(argv) > 1:
        if not argv[1].isdigit():
            caller.answer(error_reply("ERR Protocol version is not an integer or out of range"))
            return DONE
        if argv[1] not in (b"2", b"3"):
            caller.answer(error_reply("NOPROTO unsupported protocol version"))
            return DONE
        protocol = int(argv[1])
    login: tuple[bytes, bytes] | None = None
    i = 2
    while i < len(argv):
        option = argv[i].upper()
        if option == b"SETNAME" and i + 1 < len(argv) and is_name(argv[i + 1]):
            name = argv[i + 1]
            i += 2
        elif option == b"AUTH" and i + 2 < len(argv):
            login = (argv[i + 1], argv[i + 2])
            i += 3
        else:
            caller.answer(error_reply(f"ERR Syntax error in HELLO option '{argv[i][:40].decode('utf-8', 'replace')}'"))
            return DONE
    if protocol != caller.protocol and caller.replies:
        return WAIT_ALL
    if login is not None:
        router.spawn(caller, _logged_in(router, caller, *login, lambda: _greeting(router, caller, protocol, name)))
        return WAIT_REPLY
    if isinstance(caller.rights, Nobody):
        caller.answer(
            error_reply("NOAUTH HELLO comes after a login here: write HELLO <protocol> AUTH <user> <password>")
        )
        return DONE
    caller.answer(_greeting(router, caller, protocol, name))
    return DONE


def _greeting(router: RouterContext, caller: Caller, protocol: int, name: bytes) -> bytes:
    """Switch to the protocol and say who answers."""
    caller.protocol, caller.name = protocol, name
    if isinstance(caller, ClientConnection):
        router.hub.guard(caller)
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


def _wait(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """How many replicas have what was written: shards have none, which is known without waiting."""
    for word, what in zip(argv[1:], ("value", "timeout"), strict=True):
        if not word.isdigit() or len(word) > 18:
            return error_reply(f"ERR {what} is not an integer or out of range")
    return integer(0)


# --- users ------------------------------------------------------------------------------------------------------


def _auth(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    if len(argv) > 3:
        caller.answer(error_reply("ERR wrong number of arguments for 'auth' command"))
        return DONE
    name, password = (DEFAULT_USER.encode(), argv[1]) if len(argv) == 2 else (argv[1], argv[2])
    router.spawn(caller, _logged_in(router, caller, name, password, lambda: OK))
    return WAIT_REPLY


async def _logged_in(
    router: RouterContext, caller: Caller, name: bytes, password: bytes, then: Callable[[], bytes]
) -> bytes:
    """Make the caller that user, then what `then` answers. Raises WrongPassword or Unavailable."""
    if not router.authenticator.guarded:
        return error_reply(f"ERR 'AUTH' is refused: {_NO_USERS}")
    client = caller if isinstance(caller, ClientConnection) else None
    source = client.address.rpartition(":")[0] if client is not None else ""
    first = client is not None and not client.failed_logins
    try:
        identity = await router.authenticator.login(name.decode("utf-8", "replace"), password, source, first=first)
    except (WrongPassword, Unavailable):
        if client is not None:
            client.failed_logins += 1
        raise
    if client is not None and client.reserved:
        if identity.rights is not None and len(router.clients) > router.options.clients:
            client.close_after_replies()
            return error_reply(f"{MAX_CLIENTS_REACHED}: the places that are left are for administrators")
        client.reserved = False
    caller.become(identity)
    end_denied(router, caller)
    return then()


# --- CONFIG, INFO -----------------------------------------------------------------------------------------------


def _config_get(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    if any(len(pattern) > LONGEST_PATTERN for pattern in argv[2:]):
        return PATTERN_TOO_LONG
    globs = [Glob(pattern.lower()) for pattern in argv[2:]]
    known = info.parameters(router)
    return encode(
        {name: value for name, value in known.items() if any(glob.match(name.encode()) for glob in globs)},
        caller.protocol,
    )


def _reset_statistics(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    router.reset_statistics()
    return OK


def _info(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    router.spawn(caller, info.reply(router, caller.protocol, [word.decode("latin-1").lower() for word in argv[1:]]))
    return WAIT_REPLY


HANDLERS: dict[str, Handler] = {
    "ping": at_once(_ping),
    "echo": at_once(lambda router, caller, argv: bulk(argv[1])),
    "acl|whoami": at_once(lambda router, caller, argv: bulk(caller.identity.name.encode())),
    "auth": _auth,
    "select": at_once(_select),
    "time": at_once(_time),
    "role": at_once(_role),
    # Commands of modules are unknown here, whatever the servers have.
    "module|list": at_once(lambda router, caller, argv: encode([], caller.protocol)),
    "quit": _quit,
    "reset": _reset,
    "hello": _hello,
    "info": _info,
    "wait": at_once(_wait),
    "config|get": at_once(_config_get),
    "config|resetstat": at_once(_reset_statistics),
}
