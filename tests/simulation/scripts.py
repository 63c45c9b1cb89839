"""The scripts and functions of clients, and what a server does when they are called."""

from __future__ import annotations

import re
from collections.abc import Callable
from hashlib import sha1
from typing import TYPE_CHECKING, TypeAlias

from tests.simulation.data import Answer, Fault, Status, raw

from helios.resp.encoding import OK, bulk, error_reply

if TYPE_CHECKING:
    from tests.simulation.servers import SimServer

FLUSH_SCRIPT = b"return redis.call('FLUSHALL')"
BOTH_SCRIPT = b"return {redis.call('GET',KEYS[1]),redis.call('GET',KEYS[2])}"
COUNT_SCRIPT = b"return redis.call('INCR',KEYS[1])"
APPEND_SCRIPT = b"return redis.call('APPEND',KEYS[1],ARGV[1])"
# Writes a key that it does not declare.
UNDECLARED_SCRIPT = b"redis.call('SET',ARGV[1],ARGV[2]) return redis.call('GET',KEYS[1])"

LIBRARY = b"sim"
NO_FUNCTION = Fault(b"ERR Function not found")
_NO_LIBRARY = Fault(b"ERR Library not found")
_NO_SCRIPT = Fault(b"NOSCRIPT No matching script.")
_CODE = re.compile(rb"#!lua name=(\w+)\n-- version (\d+)")


def code(version: int) -> bytes:
    """The library of functions, which do what the scripts do and say this version."""
    return b"#!lua name=%b\n-- version %d" % (LIBRARY, version)


def sha_of(body: bytes) -> bytes:
    """The name by which EVALSHA calls a script."""
    return sha1(body, usedforsecurity=False).hexdigest().encode()


def carry_out(server: SimServer, user: str, argv: list[bytes]) -> bytes:
    """EVAL, EVALSHA, FCALL, SCRIPT or FUNCTION."""
    return _COMMANDS[argv[0].upper()](server, user, argv)


def _eval(server: SimServer, user: str, argv: list[bytes]) -> bytes:
    server.scripts[sha_of(argv[1])] = argv[1]
    return raw(_run(server, user, argv[1], argv[2:]))


def _evalsha(server: SimServer, user: str, argv: list[bytes]) -> bytes:
    body = server.scripts.get(argv[1])
    return raw(_NO_SCRIPT if body is None else _run(server, user, body, argv[2:]))


def _fcall(server: SimServer, user: str, argv: list[bytes]) -> bytes:
    found = _CODE.match(server.libraries.get(LIBRARY, b""))
    if found is None:
        return raw(NO_FUNCTION)
    body = {b"append": APPEND_SCRIPT, b"undeclared": UNDECLARED_SCRIPT}[argv[1]]
    return raw([found[2], _run(server, user, body, argv[2:])])


def _script(server: SimServer, _: str, argv: list[bytes]) -> bytes:
    """SCRIPT LOAD."""
    server.scripts[sha_of(argv[2])] = argv[2]
    return bulk(sha_of(argv[2]))


def _function(server: SimServer, _: str, argv: list[bytes]) -> bytes:
    """FUNCTION LOAD REPLACE and FUNCTION DELETE."""
    libraries = dict(server.libraries)
    if argv[1].upper() == b"DELETE":
        if libraries.pop(argv[2], None) is None:
            return raw(_NO_LIBRARY)
        server.replace_libraries(libraries)
        return OK
    found = _CODE.match(argv[-1])
    if found is None:
        return error_reply("ERR Missing library metadata")
    server.replace_libraries({**libraries, found[1]: argv[-1]})
    return bulk(found[1])


_Call: TypeAlias = "Callable[[SimServer, str, list[bytes], list[bytes]], Answer]"


def _run(server: SimServer, user: str, body: bytes, words: list[bytes]) -> Answer:
    """Run a script that is given its keys and arguments as commands have them."""
    server.script_calls += 1
    count = int(words[0])
    return _SCRIPTS[body](server, user, words[1 : 1 + count], words[1 + count :])


def _flush(server: SimServer, user: str, _: list[bytes], __: list[bytes]) -> Answer:
    if not server.may_flush(user):
        return Fault(b"NOPERM this user may not flush")
    server.empty()
    return Status(b"OK")


def _both(server: SimServer, user: str, keys: list[bytes], _: list[bytes]) -> Answer:
    return [server.act(user, "GET", key, ()) for key in keys]


def _count(server: SimServer, user: str, keys: list[bytes], _: list[bytes]) -> Answer:
    return server.act(user, "INCR", keys[0], ())


def _append(server: SimServer, user: str, keys: list[bytes], arguments: list[bytes]) -> Answer:
    return server.act(user, "APPEND", keys[0], (arguments[0],))


def _undeclared(server: SimServer, user: str, keys: list[bytes], arguments: list[bytes]) -> Answer:
    held = server.act(user, "GET", keys[0], ())
    server.write_undeclared(*arguments)
    return held


_SCRIPTS: dict[bytes, _Call] = {
    FLUSH_SCRIPT: _flush,
    BOTH_SCRIPT: _both,
    COUNT_SCRIPT: _count,
    APPEND_SCRIPT: _append,
    UNDECLARED_SCRIPT: _undeclared,
}
_COMMANDS: dict[bytes, Callable[[SimServer, str, list[bytes]], bytes]] = {
    b"EVAL": _eval,
    b"EVALSHA": _evalsha,
    b"FCALL": _fcall,
    b"SCRIPT": _script,
    b"FUNCTION": _function,
}
COMMANDS = frozenset(_COMMANDS)
