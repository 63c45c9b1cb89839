"""SLOWLOG and LATENCY: what took long in this router process."""

from __future__ import annotations

from collections.abc import Sequence

from helios.access.rights import Need, without_arguments
from helios.resp.encoding import OK, array, encode, error_reply, integer, simple
from helios.router.commands.handlers import Answer, at_once
from helios.router.context import RouterContext
from helios.router.frontend.caller import Caller
from helios.router.stats.slowlog import COMMAND, HELD

_SHOWN = 10


_SLOWLOG_HELP = (
    "SLOWLOG <subcommand> [<arg> ...]. Subcommands are:",
    "GET [<count>]",
    "    The last <count> slow commands of this router process (10 unless given, -1 for all): id, time, microseconds,",
    "    arguments, client's address, client's name.",
    "HELP",
    "    This text.",
    "LEN",
    "    How many commands the log has.",
    "RESET",
    "    Empty the log.",
)
_LATENCY_HELP = (
    "LATENCY <subcommand> [<arg> ...]. Subcommands are:",
    "DOCTOR",
    "    A few sentences on what took long in this router process.",
    "HELP",
    "    This text.",
    "HISTOGRAM [<command> ...]",
    "    How often commands took how long, from their arrival here to the server's reply.",
    "HISTORY <event>",
    "    The worst delays of an event: 'command' (in the slow log) or 'held' (waiting for keys to be handed over).",
    "LATEST",
    "    For each event when it was last, how long it took then, and its worst; in milliseconds.",
    "RESET [<event> ...]",
    "    Forget the delays of these events, or of all.",
)


def _slowlog_get(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    count = _SHOWN
    if len(argv) > 2:
        if not argv[2].removeprefix(b"-").isdigit() or int(argv[2][:20]) < -1:
            return error_reply("ERR count should be greater than or equal to -1")
        count = int(argv[2][:20])
    entries = [
        [slow.id, int(slow.at), int(slow.took_s * 1e6), _seen(caller, slow.arguments), slow.client, slow.name]
        for slow in router.slowlog.last(count)
    ]
    return encode(entries, caller.protocol)


def _seen(caller: Caller, arguments: Sequence[bytes]) -> list[bytes]:
    """The arguments for who may read keys; the command's name alone for others."""
    if caller.rights is None or caller.rights.has(Need.READ):
        return list(arguments)
    return without_arguments(arguments)


def _slowlog_reset(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    router.slowlog.commands.clear()
    return OK


def _latest(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    log = router.slowlog
    rows = [
        [event, int(moments[-1].at), _ms(moments[-1].took_s), _ms(log.worst_s[event])]
        for event, moments in log.moments.items()
    ]
    return encode(rows, caller.protocol)


def _history(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    moments = router.slowlog.moments.get(argv[2].decode("latin-1").lower(), ())
    return encode([[int(moment.at), _ms(moment.took_s)] for moment in moments], caller.protocol)


def _reset(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    return integer(router.slowlog.forget_moments([word.decode("latin-1").lower() for word in argv[2:]]))


def _histogram(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    wanted = {word.decode("latin-1").lower() for word in argv[2:]}
    found: dict[str, object] = {}
    for name, kind in sorted(router.totals.kinds.items()):
        counted = kind.latencies.counted()
        if not counted or (wanted and wanted.isdisjoint((name, name.partition("|")[0]))):
            continue
        # As the servers show it: how many commands took at most so many microseconds, in powers of two.
        usec: dict[int, int] = {}
        calls = 0
        for bound_ns, count in counted:
            calls += count
            usec[_next_power(bound_ns / 1000)] = calls
        found[name] = {"calls": calls, "histogram_usec": usec}
    return encode(found, caller.protocol)


def _next_power(number: float) -> int:
    power = 1
    while power < number:
        power *= 2
    return power


def _doctor(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    log = router.slowlog
    if not log.threshold_s:
        return encode("The slow log is off: set router.slowlog_threshold to have delays noticed.", caller.protocol)
    said = []
    if COMMAND in log.worst_s:
        said.append(
            f"{log.total} commands took {log.threshold_s * 1000:g} ms or longer, the slowest "
            f"{log.worst_s[COMMAND] * 1000:.0f} ms: SLOWLOG GET names them. Look for commands on big values, and for "
            "servers that are short of processor time or wait for their disks."
        )
    if HELD in log.worst_s:
        said.append(
            f"Commands were held for up to {log.worst_s[HELD] * 1000:.0f} ms while their keys were handed over to "
            "another shard: ALLMIGRATIONS names the pauses."
        )
    return encode(" ".join(said) or f"Nothing took {log.threshold_s * 1000:g} ms or longer.", caller.protocol)


def _graph(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
    return error_reply(
        "ERR 'LATENCY GRAPH' is refused: a router draws no pictures; use LATENCY HISTORY or `helios-cli top`"
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _text(lines: Sequence[str]) -> Answer:
    reply = array([simple(line) for line in lines])
    return lambda router, caller, argv: reply


ANSWERS: dict[str, Answer] = {
    "slowlog|help": _text(_SLOWLOG_HELP),
    "latency|help": _text(_LATENCY_HELP),
    "slowlog|get": _slowlog_get,
    "slowlog|len": lambda router, caller, argv: integer(len(router.slowlog.commands)),
    "slowlog|reset": _slowlog_reset,
    "latency|latest": _latest,
    "latency|history": _history,
    "latency|reset": _reset,
    "latency|histogram": _histogram,
    "latency|doctor": _doctor,
    "latency|graph": _graph,
}
HANDLERS = {name: at_once(answer) for name, answer in ANSWERS.items()}
