"""Commands that the router answers itself, as a single server would."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from helios.access.rights import Nobody
from helios.errors import Unavailable, WrongPassword
from helios.model.users import DEFAULT_USER
from helios.resp.encoding import OK, array, bulk, encode, error_reply, integer
from helios.resp.numbers import integer_of
from helios.router.commands import info
from helios.router.commands.client import NO_NAME, is_name
from helios.router.commands.handlers import Answer, Handler, Work, at_once, awaited
from helios.router.commands.pubsub import end_denied
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply, shown
from helios.router.frontend.caller import DONE, IN_NO_DATABASE, IN_SUBSCRIPTION, WAIT_ALL, WAIT_REPLY, Caller
from helios.router.frontend.connection import ClientConnection
from helios.router.pubsub.subscriptions import in_parts

# Of a server whose default user needs no password, and of a router without users.
_NO_PASSWORD = (
    "ERR AUTH <password> called without any password configured for the default user. Are you sure your "
    "configuration is correct?"
)


def _ping(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    if len(argv) > 2:
        return error_reply("ERR wrong number of arguments for 'ping' command")
    if caller.modes & IN_SUBSCRIPTION:
        return array([bulk(b"pong"), bulk(argv[1] if len(argv) > 1 else b"")])
    return b"+PONG\r\n" if len(argv) == 1 else bulk(argv[1])


# What a connection may send that has asked for a database that does not exist, so as not to go on in another one.
ON_THE_WAY_BACK = frozenset((b"SELECT", b"RESET", b"QUIT", b"HELLO"))


def _select(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    if wrong := choose_database(caller, argv[1]):
        return error_reply(f"ERR {wrong}")
    if caller.database == b"0":
        return OK
    return error_reply(f"ERR 'SELECT {_database(caller)}' is refused: Helios has one database, number 0")


def choose_database(caller: Caller, number: bytes) -> str:
    """Note the database that a client means from now on, whether or not it reads the reply.

    No server has one of that number where something is returned, which is what servers say: then nothing changes.
    """
    index = integer_of(number)
    if index is None:
        return "value is not an integer or out of range"
    if index < 0:
        return "DB index is out of range"
    caller.database = number
    caller.modes = caller.modes & ~IN_NO_DATABASE if number == b"0" else caller.modes | IN_NO_DATABASE
    return ""


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
    # A client's commands to one shard keep their order on one connection; each variant has its own.
    if caller.variant != 2 and caller.replies:
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
    if isinstance(caller, ClientConnection):
        router.tracker.forget(caller)
    caller.protocol, caller.no_touch, caller.stale_wish = 2, False, None
    caller.name = b""
    if isinstance(caller, ClientConnection):
        caller.moving_endpoint = b""
    choose_database(caller, b"0")
    newcomer = router.authenticator.newcomer()
    if isinstance(caller, ClientConnection):
        router.clients.become(caller, newcomer)
    else:
        caller.become(newcomer)
    return b"+RESET\r\n"


@dataclass(frozen=True, slots=True)
class _Hello:
    """What HELLO asks for."""

    protocol: int
    name: bytes
    login: tuple[bytes, bytes] | None


def _asked_for(caller: Caller, argv: list[bytes]) -> _Hello | bytes:
    """What a HELLO asks for, or what is wrong with it."""
    protocol, name = caller.protocol, caller.name
    if len(argv) > 1:
        wanted = integer_of(argv[1])
        if wanted not in (2, 3):
            wrong = "ERR Protocol version is not an integer or out of range"
            return error_reply(wrong if wanted is None else "NOPROTO unsupported protocol version")
        protocol = wanted
    login: tuple[bytes, bytes] | None = None
    i = 2
    while i < len(argv):
        option = argv[i].upper()
        if option == b"SETNAME" and i + 1 < len(argv):
            if not is_name(argv[i + 1]):
                return error_reply(NO_NAME)
            name = argv[i + 1]
            i += 2
        elif option == b"AUTH" and i + 2 < len(argv):
            login = (argv[i + 1], argv[i + 2])
            i += 3
        else:
            return error_reply(b"ERR Syntax error in HELLO option '%b'" % shown(argv[i]))
    if login is None and isinstance(caller.rights, Nobody):
        return error_reply("NOAUTH HELLO comes after a login here: write HELLO <protocol> AUTH <user> <password>")
    return _Hello(protocol, name, login)


def _hello(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    asked = _asked_for(caller, argv)
    if isinstance(asked, _Hello) and asked.protocol != caller.protocol and caller.replies:
        return WAIT_ALL
    router.spawn(caller, _greeted(router, caller, argv))
    return WAIT_REPLY


async def _greeted(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Do what HELLO asks for, and say who answers."""
    asked = _asked_for(caller, argv)
    if isinstance(asked, bytes):
        return asked
    if asked.login is not None:
        await _log_in(router, caller, *asked.login)
    await info.learn_product(router)
    return _greeting(router, caller, asked.protocol, asked.name)


async def _greeted_inside(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """The same within a transaction, whose replies are in one protocol."""
    asked = _asked_for(caller, argv)
    if isinstance(asked, _Hello) and asked.protocol != caller.protocol:
        return error_reply("ERR 'HELLO' with another protocol is refused inside a transaction")
    return await _greeted(router, caller, argv)


def _greeting(router: RouterContext, caller: Caller, protocol: int, name: bytes) -> bytes:
    """Switch to the protocol and say who answers."""
    caller.protocol, caller.name = protocol, name
    if isinstance(caller, ClientConnection):
        router.hub.guard(caller)
    product, version = info.product(router)
    fields = {
        "server": product,
        "version": version,
        "proto": protocol,
        "id": caller.id,
        "mode": "standalone",
        "role": "master",
        "modules": [],
    }
    return encode(fields, protocol)


def _wait(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """How many replicas have what was written: shards have none, which is known without waiting."""
    replicas, timeout = map(integer_of, argv[1:])
    if replicas is None or timeout is None:
        return error_reply(f"ERR {'value' if replicas is None else 'timeout'} is not an integer or out of range")
    return integer(0) if timeout >= 0 else error_reply("ERR timeout is negative")


# --- users ------------------------------------------------------------------------------------------------------


async def _auth(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    if len(argv) > 3:
        return error_reply("ERR syntax error")
    if len(argv) == 2 and not router.authenticator.guarded:
        return error_reply(_NO_PASSWORD)
    name, password = (DEFAULT_USER.encode(), argv[1]) if len(argv) == 2 else (argv[1], argv[2])
    await _log_in(router, caller, name, password)
    return OK


async def _log_in(router: RouterContext, caller: Caller, name: bytes, password: bytes) -> None:
    """Make the caller that user. Raises WrongPassword, Unavailable, or ErrorReply where there is no place for it."""
    client = caller if isinstance(caller, ClientConnection) else None
    source = client.host if client is not None else ""
    first = client is not None and not client.failed_logins
    try:
        identity = await router.authenticator.login(name.decode("utf-8", "replace"), password, source, first=first)
    except (WrongPassword, Unavailable):
        if client is not None:
            client.failed_logins += 1
        raise
    if client is None:
        caller.become(identity)
    elif refusal := router.clients.login(client, identity):
        client.close_after_replies()
        raise ErrorReply(error_reply(refusal))
    end_denied(router, caller)


# --- INFO ---------------------------------------------------------------------------------------------------------


async def _info(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    return await info.reply(router, caller.protocol, [word.decode("latin-1").lower() for word in argv[1:]])


async def _last_save(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    return integer(await info.last_save(router))


def _acl_users(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """The users of the cluster; a server lists its `default` user, too, whether or not it lets anybody in."""
    return encode(sorted({DEFAULT_USER, *router.authenticator.users}), caller.protocol)


ANSWERS: dict[str, Answer] = {
    "ping": _ping,
    "echo": lambda router, caller, argv: bulk(argv[1]),
    "acl|whoami": lambda router, caller, argv: bulk(caller.identity.name.encode()),
    "acl|users": _acl_users,
    "select": _select,
    "time": _time,
    "role": _role,
    # Commands of modules are unknown here, whatever the servers have.
    "module|list": lambda router, caller, argv: encode([], caller.protocol),
    "wait": _wait,
}
WORKS: dict[str, Work] = {"info": _info, "auth": _auth, "lastsave": _last_save}
HANDLERS: dict[str, Handler] = {
    **{name: at_once(answer) for name, answer in ANSWERS.items()},
    **{name: awaited(work) for name, work in WORKS.items()},
    "quit": _quit,
    "reset": _reset,
    "hello": _hello,
}
# Within a transaction, where none of its replies may be of another protocol than the others.
INSIDE: dict[str, Work] = {"hello": _greeted_inside}
