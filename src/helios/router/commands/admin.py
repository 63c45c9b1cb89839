"""The cluster's administration as commands: ADDNODE, MIGRATE, CLUSTERSTATS and the rest.

Replies are maps of the fields that the views have (RESP2: fields and values in turn); errors carry the code of
the HeliosError.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from typing import Any

from helios.access.request_context import asked_by, noted
from helios.admin.service import AdminService
from helios.errors import InvalidInput
from helios.resp.encoding import encode, error_reply
from helios.router.context import RouterContext
from helios.router.frontend.caller import DONE, WAIT_REPLY, Caller

Words = list[str]


def run(router: RouterContext, caller: Caller, verb: str, argv: list[bytes]) -> int:
    """Carry out a verb; the caller waits for its reply."""
    if verb == "migrate" and (len(argv) > 5 or (len(argv) == 5 and argv[4].upper() != b"VERIFY")):
        caller.answer(
            error_reply(
                "ERR 'MIGRATE host port key ...' of the servers is refused: it blocks servers and can bring deleted "
                "keys back; use MIGRATE SOURCE TARGET [PATTERN [VERIFY]] to move keys between shards"
            )
        )
        return DONE
    router.spawn(caller, _as_its_user(router.admin, caller, verb, argv))
    return WAIT_REPLY


async def _as_its_user(admin: AdminService, caller: Caller, verb: str, argv: list[bytes]) -> bytes:
    with asked_by(caller.identity):
        host = caller.address.rpartition(":")[0]  # its port says nothing of who it is
        by = noted(verb.upper(), host or "this process")
        return await _reply(admin, caller.protocol, verb, argv, by)


async def _reply(admin: AdminService, protocol: int, verb: str, argv: list[bytes], by: str) -> bytes:
    if verb == "nodeforkey":
        return encode(_plain(await admin.node_for_key(argv[1])), protocol)
    try:
        words = [word.decode() for word in argv[1:]]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the arguments of {verb.upper()} must be UTF-8: {error}") from error
    remembered = _NOTED.get(verb)
    reply = remembered(admin, words, by) if remembered else _VERBS[verb](admin, words)
    return encode(_plain(await reply), protocol)


def _plain(value: Any) -> Any:
    """Views as mappings, in lists too."""
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


async def _add_node(admin: AdminService, words: Words) -> object:
    node, address, *rest = words
    return await admin.add_node(node, address, **_node_options(rest))


def _node_options(rest: Words) -> dict[str, Any]:
    """What stands behind ADDNODE ID ADDRESS."""
    options: dict[str, Any] = {}
    usage = "ADDNODE ID ADDRESS [WEIGHT w] [ZONE z] [IMPORT | FLUSH | ADOPT]"
    while rest:
        option = rest.pop(0).upper()
        if option in ("WEIGHT", "ZONE"):
            if not rest:
                raise InvalidInput(f"{option} needs a value: {usage}")
            value = rest.pop(0)
            options[option.lower()] = _number(value) if option == "WEIGHT" else value
        elif option in ("IMPORT", "FLUSH", "ADOPT"):
            options["import_keys" if option == "IMPORT" else option.lower()] = True
        else:
            raise InvalidInput(f"{option!r} is no option of ADDNODE: {usage}")
    return options


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InvalidInput(f"{text!r} is not a weight: use a number such as 1 or 0.5") from None


def _way(rest: Words, verb: str) -> dict[str, str]:
    """What stands behind REBALANCE and BALANCE."""
    options: dict[str, str] = {}
    while rest:
        option, *rest = rest
        if option.upper() not in ("STRATEGY", "BY") or not rest:
            raise InvalidInput(f"write {verb} [STRATEGY minimize_movement|uniform] [BY keys|bytes|ops]")
        options[option.lower()], *rest = rest
    return options


async def _history(admin: AdminService, words: Words) -> object:
    if len(words) > 1 or not all(word.isdecimal() for word in words):
        raise InvalidInput("what follows HISTORY is a number of entries or nothing")
    return await admin.history(*map(int, words))


async def _slow_commands(admin: AdminService, words: Words) -> object:
    if len(words) > 1 or not all(word.isdecimal() for word in words):
        raise InvalidInput("what follows SLOWCOMMANDS is a number of commands or nothing")
    return await admin.slow_commands(*map(int, words))


async def _migrate(admin: AdminService, words: Words) -> object:
    source, target, *rest = words
    return await admin.migrate(source, target, *rest[:1], verify=len(rest) > 1)


async def _check(admin: AdminService, words: Words) -> object:
    if words and (len(words) > 1 or words[0].upper() != "REPAIR"):
        raise InvalidInput("what follows CHECK is REPAIR or nothing")
    return await admin.check(repair=bool(words))


async def _setting(admin: AdminService, words: Words, by: str) -> object:
    if len(words) > 2:
        raise InvalidInput("write SETTING NAME to read and SETTING NAME VALUE to change a setting")
    return await (admin.setting(words[0]) if len(words) == 1 else admin.change_setting(words[0], words[1], by=by))


async def _roll_back(admin: AdminService, words: Words, by: str) -> object:
    if len(words) > 1 or not "".join(words or ["0"]).isdecimal():
        raise InvalidInput("what follows SETTINGROLLBACK is the number of a change in SETTINGHISTORY, or nothing")
    return await admin.roll_back_settings(int(words[0]) if words else None, by=by)


async def _preview(admin: AdminService, words: Words) -> object:
    verb, *rest = words
    match verb.upper(), len(rest):
        case "ADDNODE", count if count >= 2:
            options = _node_options(rest[2:])
            if options.keys() - {"weight", "import_keys", "flush"}:
                raise InvalidInput("PREVIEW ADDNODE takes WEIGHT, IMPORT and FLUSH alone")
            return await admin.preview_add_node(rest[0], rest[1], **options)
        case "REMOVENODE", 1:
            return await admin.preview_remove_node(rest[0])
        case "MIGRATE", 2 | 3:
            return await admin.preview_migrate(*rest)
        case "REBALANCE", _:
            return await admin.preview_rebalance(**_way(rest, "PREVIEW REBALANCE"))
        case "REWEIGHT", 2:
            return await admin.preview_reweight(rest[0], _number(rest[1]))
        case "DRAIN", 1:
            return await admin.preview_drain(rest[0])
        case "UNDRAIN", 1:
            return await admin.preview_undrain(rest[0])
    raise InvalidInput(
        "write PREVIEW ADDNODE ID ADDRESS [WEIGHT w] [IMPORT | FLUSH], PREVIEW REMOVENODE ID, "
        "PREVIEW MIGRATE SOURCE TARGET [PATTERN], PREVIEW REBALANCE [STRATEGY s] [BY b], "
        "PREVIEW REWEIGHT ID WEIGHT, PREVIEW DRAIN ID or PREVIEW UNDRAIN ID"
    )


_VERBS: dict[str, Callable[[AdminService, Words], Awaitable[object]]] = {
    "addnode": _add_node,
    "removenode": lambda admin, words: admin.remove_node(words[0]),
    "listnodes": lambda admin, words: admin.list_nodes(),
    "migrate": _migrate,
    "migrationstatus": lambda admin, words: admin.migration(words[0]),
    "clusterstats": lambda admin, words: admin.stats(),
    "rebalance": lambda admin, words: admin.rebalance(**_way(words, "REBALANCE")),
    "balance": lambda admin, words: admin.balance(**_way(words, "BALANCE")),
    "history": _history,
    "reweight": lambda admin, words: admin.reweight(words[0], _number(words[1])),
    "drain": lambda admin, words: admin.drain(words[0]),
    "undrain": lambda admin, words: admin.undrain(words[0]),
    "activemigrations": lambda admin, words: admin.active_migrations(),
    "allmigrations": lambda admin, words: admin.migrations(),
    "cancelmigration": lambda admin, words: admin.cancel_migration(words[0]),
    "cleanupmigrations": lambda admin, words: admin.cleanup_migrations(),
    "pausemigration": lambda admin, words: admin.pause_migration(words[0]),
    "resumemigration": lambda admin, words: admin.resume_migration(words[0]),
    "changestatus": lambda admin, words: admin.change(words[0]),
    "listrules": lambda admin, words: admin.rules(),
    "placement": lambda admin, words: admin.placement(),
    "routers": lambda admin, words: admin.routers(),
    "slowcommands": _slow_commands,
    "check": _check,
    "settings": lambda admin, words: admin.settings(),
    "settinghistory": lambda admin, words: admin.setting_history(),
    "preview": _preview,
}

# Those that are remembered together with who has sent them.
_NOTED: dict[str, Callable[[AdminService, Words, str], Awaitable[object]]] = {
    "setting": _setting,
    "settingrollback": _roll_back,
}
