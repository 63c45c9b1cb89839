"""COMMAND, and the HELP of what the router answers: what there is, from the table of commands."""

from __future__ import annotations

from helios.errors import InvalidInput
from helios.placement.glob import LONGEST_PATTERN, Glob
from helios.resp.commands import TABLE, Command, How, find, key_positions
from helios.resp.encoding import EMPTY_ARRAY, NULL, array, bulk, encode, error_reply, integer, simple
from helios.router.commands.handlers import Answer, Handler, at_once
from helios.router.context import RouterContext
from helios.router.errors import PATTERN_TOO_LONG
from helios.router.frontend.caller import DONE, WAIT_REPLY, Caller


def _offered() -> list[Command]:
    """The commands that can be used, containers without their subcommands."""
    return [command for command in TABLE.values() if "|" not in command.name and command.how is not How.REFUSED]


def _described(command: Command, protocol: int) -> bytes:
    """One element of COMMAND's reply: name, arity, flags, first and last key and step; the rest is empty."""
    kind = b"~" if protocol == 3 else b"*"
    flags = b"%b%d\r\n" % (kind, len(command.flags)) + b"".join(map(simple, sorted(command.flags)))
    numbers = map(integer, command.key_range)
    nothing = kind + b"0\r\n"
    rest = [nothing, nothing, nothing, EMPTY_ARRAY]  # categories, tips, where the keys are; subcommands
    return array([bulk(command.name.encode()), integer(command.arity), flags, *numbers, *rest])


def _command(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    return array([_described(command, caller.protocol) for command in _offered()])


def _info(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    if len(argv) == 2:
        return _command(router, caller, argv)
    found = [TABLE.get(word.decode("latin-1").lower()) for word in argv[2:]]
    null = NULL[caller.protocol]
    return array([null if command is None else _described(command, caller.protocol) for command in found])


def _list(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    names = [command.name for command in _offered()]
    if len(argv) == 5 and argv[2].upper() == b"FILTERBY" and argv[3].upper() == b"PATTERN":
        if len(argv[4]) > LONGEST_PATTERN:
            return PATTERN_TOO_LONG
        glob = Glob(argv[4])
        names = [name for name in names if glob.match(name.encode())]
    elif len(argv) > 2:
        return error_reply("ERR syntax error")
    return encode(names, caller.protocol)


def _keys(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    command = find(argv[2])
    inner = argv[2:]
    if command is not None and command.container and len(inner) > 1:
        command = TABLE.get(f"{command.name}|{inner[1].decode('latin-1').lower()}")
    if command is None:
        return error_reply("ERR Invalid command specified")
    if not command.fits(len(inner)):
        return error_reply("ERR Invalid number of arguments specified for command")
    try:
        positions = key_positions(command, inner)
    except InvalidInput as error:
        return error_reply(f"ERR {error}")
    if not positions:
        return error_reply("ERR The command has no key arguments")
    return encode([inner[position] for position in positions], caller.protocol)


def _docs(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
    """The servers' own documentation of what Helios passes on, and some of its own of the verbs."""
    reason = router.reason()
    if reason is not None:
        caller.answer(error_reply(f"CLUSTERDOWN {reason}; nothing was executed"))
        return DONE
    names = [word.decode("latin-1").lower() for word in argv[2:]]
    named = [TABLE[name] for name in names if name in TABLE] if names else _offered()
    router.spawn(caller, _documented(router, caller.protocol, [c for c in named if c.how is not How.REFUSED]))
    return WAIT_REPLY


async def _documented(router: RouterContext, protocol: int, commands: list[Command]) -> bytes:
    verbs = [command for command in commands if command.how is How.VERB]
    others = [command.name.encode() for command in commands if command.how is not How.VERB]
    count, known = 0, b""
    if others:
        assert router.routes is not None
        reply = await router.pool.ask(router.routes.home, [b"COMMAND", b"DOCS", *others], protocol)
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


def _help_of(container: str) -> Answer:
    """What can be written behind a container's name, and what of it is refused."""
    inner = [command for name, command in sorted(TABLE.items()) if name.startswith(f"{container}|")]
    dedicated = [f"{container.upper()} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"]
    dedicated += [command.name.partition("|")[2].upper() for command in inner if command.how is not How.REFUSED]
    refused = [command for command in inner if command.how is How.REFUSED]
    if refused:
        dedicated += ["Refused, each with its reason:"]
        dedicated += [command.name.partition("|")[2].upper() for command in refused]
    reply = array([simple(line) for line in dedicated])
    return lambda router, caller, argv: reply


HANDLERS: dict[str, Handler] = {
    "command": at_once(_command),
    "command|count": at_once(lambda router, caller, argv: integer(len(_offered()))),
    "command|info": at_once(_info),
    "command|docs": _docs,
    "command|list": at_once(_list),
    "command|getkeys": at_once(_keys),
    **{
        name: at_once(_help_of(name.removesuffix("|help")))
        for name, command in TABLE.items()
        if name.endswith("|help") and command.how is How.ROUTER
    },
}
