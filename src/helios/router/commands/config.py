"""CONFIG: what servers call a parameter and Helios a setting of the cluster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from helios.access.request_context import asked_by, noted
from helios.placement.glob import LONGEST_PATTERN, Glob
from helios.resp.encoding import OK, encode, error_reply
from helios.resp.numbers import integer_of
from helios.router.commands import info
from helios.router.commands.handlers import Answer, Handler, Work, at_once, awaited
from helios.router.commands.slices import LONG, in_slices
from helios.router.context import RouterContext
from helios.router.errors import PATTERN_TOO_LONG
from helios.router.frontend.caller import Caller
from helios.router.options import RouterOptions


@dataclass(frozen=True, slots=True)
class _Parameter:
    """A setting of the cluster by a server's name.

    `value` turns a server's number into the setting's, `option` into what this router uses.
    """

    setting: str
    value: Callable[[int], str]
    option: Callable[[RouterOptions, int], RouterOptions]


def _threshold_s(microseconds: int) -> float:
    """As a setting, 0 stands for none; nothing takes less than a microsecond."""
    return max(microseconds, 1) / 1e6 if microseconds >= 0 else 0.0


_SETTABLE = {
    b"slowlog-log-slower-than": _Parameter(
        "router.slowlog_threshold",
        lambda number: f"{_threshold_s(number):f}",
        lambda options, number: replace(options, slow_s=_threshold_s(number)),
    ),
    b"slowlog-max-len": _Parameter(
        "router.slowlog_length", str, lambda options, number: replace(options, slow_entries=number)
    ),
    b"maxclients": _Parameter("router.max_clients", str, lambda options, number: replace(options, clients=number)),
    b"timeout": _Parameter(
        "router.client_idle_timeout", str, lambda options, number: replace(options, idle_timeout_s=float(number))
    ),
    b"tcp-keepalive": _Parameter(
        "router.tcp_keepalive", str, lambda options, number: replace(options, keepalive_s=float(number))
    ),
}


async def _get(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    patterns: dict[bytes, None] = {}  # each once, in order
    async for some in in_slices(argv[2:], LONG):
        if max(map(len, some)) > LONGEST_PATTERN:
            return PATTERN_TOO_LONG
        patterns.update(dict.fromkeys(some))
    known = {**await info.encodings(router), **info.parameters(router)}
    spelt: dict[str, str] = {}  # a name is given as it was asked for, as servers do it
    async for part in in_slices(list(patterns), 8):
        for pattern in part:
            name, glob = pattern.decode("latin-1"), Glob(pattern.lower())
            for each in [name.lower()] if name.lower() in known else known:
                if glob.match(each.encode()):
                    spelt.setdefault(each, name if each == name.lower() else each)
    found = {spelling: known[name] for name, spelling in spelt.items()}
    return encode(found, caller.protocol)


async def _set(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    """Change a setting of the cluster: this router uses it at once, other processes as soon as they hear of it."""
    if len(argv) % 2:
        return error_reply("ERR wrong number of arguments for 'config|set' command")
    name = argv[2].lower()
    parameter, number = _SETTABLE.get(name), integer_of(argv[3])
    if parameter is None or len(argv) > 4:
        settable = ", ".join(sorted(each.decode() for each in _SETTABLE))
        return error_reply(
            "ERR 'CONFIG SET' is refused: the servers' settings are the cluster's; they stand in its configuration "
            f"file. One of these can be set at a time: {settable}"
        )
    if number is None:
        shown = name.decode()
        return error_reply(
            f"ERR CONFIG SET failed (possibly related to argument '{shown}') - argument couldn't be parsed into an "
            "integer"
        )
    with asked_by(caller.identity):
        by = noted("CONFIG SET", caller.address or "this process")
        await router.admin.change_setting(parameter.setting, parameter.value(number), by=by)
    router.configure(parameter.option(router.options, number))
    return OK


def _reset_statistics(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    router.reset_statistics()
    return OK


ANSWERS: dict[str, Answer] = {"config|resetstat": _reset_statistics}
WORKS: dict[str, Work] = {"config|get": _get}
HANDLERS: dict[str, Handler] = {
    **{name: at_once(answer) for name, answer in ANSWERS.items()},
    **{name: awaited(work) for name, work in WORKS.items()},
    "config|set": awaited(_set),
}
