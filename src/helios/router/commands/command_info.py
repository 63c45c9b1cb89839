"""COMMAND, and the HELP of what the router answers: the servers' own words, of the commands that there are."""

from __future__ import annotations

from helios.errors import Unavailable
from helios.placement.glob import LONGEST_PATTERN, Glob
from helios.resp.commands import TABLE, Command, How
from helios.resp.encoding import EMPTY_ARRAY, array, bulk, encode, integer, simple
from helios.resp.wire import elements
from helios.router.commands.handlers import Work, awaited
from helios.router.commands.keyspace import decoded
from helios.router.commands.slices import in_slices, joined
from helios.router.context import RouterContext
from helios.router.errors import PATTERN_TOO_LONG
from helios.router.frontend.caller import Caller

_VERBS = [command for command in TABLE.values() if command.how is How.VERB]


async def _ask(router: RouterContext, argv: list[bytes], protocol: int) -> bytes:
    """The raw reply of the server that answers for all. Raises Unavailable."""
    reason = router.reason()
    if reason is not None or router.routes is None:
        raise Unavailable(f"{reason}; nothing was executed")
    return await router.pool.ask(router.routes.home, argv, protocol)


def _is_offered(name: str) -> bool:
    """Whether the servers' command of this name can be used here."""
    command = TABLE.get(name)
    return command is not None and command.how not in (How.REFUSED, How.VERB)


def _offered() -> list[Command]:
    """The commands that can be used, containers without their subcommands."""
    return [command for command in TABLE.values() if "|" not in command.name and command.how is not How.REFUSED]


def _name_of(row: bytes) -> str:
    """The command that an element of COMMAND's reply describes; empty for a null."""
    parts = row.split(b"\r\n", 3)
    return parts[2].decode("latin-1") if row[:1] == b"*" and len(parts) > 2 else ""


def _described(verb: Command, protocol: int) -> bytes:
    """An element of COMMAND's reply: name, arity, flags, first and last key and step; the rest is empty."""
    kind = b"~" if protocol == 3 else b"*"
    flags = b"%b%d\r\n" % (kind, len(verb.flags)) + b"".join(map(simple, sorted(verb.flags)))
    nothing = kind + b"0\r\n"
    rest = [nothing, nothing, nothing, EMPTY_ARRAY]  # categories, tips, where the keys are; subcommands
    return array([bulk(verb.name.encode()), integer(verb.arity), flags, *map(integer, verb.key_range), *rest])


async def _command(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Every command."""
    reply = await _ask(router, [b"COMMAND"], caller.protocol)
    if reply[:1] != b"*":
        return reply
    rows = [row for row in elements(reply) if _is_offered(_name_of(row))]
    return array([*rows, *(_described(verb, caller.protocol) for verb in _VERBS)])


async def _count(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    names = decoded(await _ask(router, [b"COMMAND", b"LIST"], 2))
    offered = [name for name in names if b"|" not in name and _is_offered(name.decode("latin-1"))]
    return integer(len(offered) + len(_VERBS))


async def _info(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Each command that is named; the server is asked for each of them once."""
    if len(argv) == 2:
        return await _command(router, caller, argv)
    rows = {verb.name.encode(): _described(verb, caller.protocol) for verb in _VERBS}
    pieces: list[bytes] = []
    async for part in in_slices(argv[2:]):
        names = [word.lower() for word in part]
        fresh = [name for name in dict.fromkeys(names) if name not in rows]
        if fresh:
            reply = await _ask(router, [*argv[:2], *fresh], caller.protocol)
            if reply[:1] != b"*":
                return reply
            rows.update(zip(fresh, elements(reply), strict=True))
        pieces.append(b"".join([rows[name] for name in names]))
    return await joined([b"*%d\r\n" % (len(argv) - 2), *pieces])


async def _list(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    if max(map(len, argv)) > LONGEST_PATTERN:
        return PATTERN_TOO_LONG
    reply = await _ask(router, argv, 2)
    if reply[:1] != b"*":
        return reply
    names = [name.decode("latin-1") for name in decoded(reply)]
    verbs = [verb.name for verb in _VERBS]
    if len(argv) > 4:  # a filter, of which a server knows that it is one
        by_name = argv[3].upper() == b"PATTERN"
        glob = Glob(argv[4])
        verbs = [verb async for (verb,) in in_slices(verbs, 1) if by_name and glob.match(verb.encode())]
    return encode([*filter(_is_offered, names), *verbs], caller.protocol)


async def _docs(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """The servers' own documentation of what Helios passes on, and some of its own of the verbs."""
    return await _documented(router, caller.protocol, argv[2:])


async def _documented(router: RouterContext, protocol: int, words: list[bytes]) -> bytes:
    wanted: dict[str, Command] = {}
    async for part in in_slices(words):
        names = [word.decode("latin-1").lower() for word in part]
        wanted.update((name, TABLE[name]) for name in names if name in TABLE)
    commands = [command for command in (wanted.values() if words else _offered()) if command.how is not How.REFUSED]
    verbs = [command for command in commands if command.how is How.VERB]
    others = [command.name.encode() for command in commands if command.how is not How.VERB]
    count, known = 0, b""
    if others:
        reply = await _ask(router, [b"COMMAND", b"DOCS", *others], protocol)
        if reply[:1] not in (b"%", b"*"):
            return reply
        line, _, known = reply.partition(b"\r\n")
        count = int(line[1:])
    own = [bulk(verb.name.encode()) + encode(_about(verb), protocol) for verb in verbs]
    count += len(own) if protocol == 3 else 2 * len(own)
    return b"%b%d\r\n" % (b"%" if protocol == 3 else b"*", count) + known + b"".join(own)


def _about(verb: Command) -> dict[str, object]:
    return {
        "summary": f"Administers the cluster, as 'helios-cli {verb.name}' does.",
        "since": "0.1.0",
        "group": "server",
        "arity": verb.arity,
    }


async def _help(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """What a server says of a container's subcommands, and which of them are refused here."""
    container = argv[0].decode("latin-1").lower()
    inner = [command for name, command in sorted(TABLE.items()) if name.startswith(f"{container}|")]
    names = [(command.name.partition("|")[2].upper(), command.how) for command in inner]
    refused = [name for name, how in names if how is How.REFUSED]
    reply = await _ask(router, argv, 2)
    if reply.startswith(b"-NOPERM"):
        # The router may not even read about what it may not do: the names have to be enough.
        head = f"{container.upper()} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
        reply = array([simple(line) for line in (head, *(name for name, how in names if how is not How.REFUSED))])
    if reply[:1] != b"*":
        return reply
    lines = elements(reply)
    return array([*lines, simple(f"Refused by Helios: {', '.join(refused)}.")] if refused else lines)


WORKS: dict[str, Work] = {
    "command": _command,
    "command|count": _count,
    "command|info": _info,
    "command|docs": _docs,
    "command|list": _list,
    **{f"{container}|help": _help for container in ("acl", "client", "command", "config", "function", "memory")},
    **{f"{container}|help": _help for container in ("module", "pubsub", "script")},
}
HANDLERS = {name: awaited(work) for name, work in WORKS.items()}
