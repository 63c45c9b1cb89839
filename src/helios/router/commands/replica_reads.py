"""READONLY and READWRITE: a client lets replicas answer what it reads, or no longer; and what of it they may answer."""

from __future__ import annotations

from functools import partial

from helios.resp.commands import ELEMENT_SCANS, SCRIPTS, TABLE, Command, How
from helios.resp.encoding import OK
from helios.router.commands.handlers import Answer, Handler, at_once
from helios.router.commands.lookup import recognise
from helios.router.context import RouterContext
from helios.router.frontend.caller import Caller, Slot

# TOUCH is there for what it does at the leader; cursors are one server's own; OBJECT tells of one server's copy.
_BY_LEADER = SCRIPTS | ELEMENT_SCANS | {"touch"}


def _is_read(command: Command) -> bool:
    """Whether any copy of its keys has the answer, and having it changes nothing."""
    if command.how not in (How.FORWARD, How.SPLIT) or command.writes or not command.notation:
        return False
    return "blocking" not in command.flags and command.name not in _BY_LEADER and command.name[:7] != "object|"


READS = frozenset(name for name, command in TABLE.items() if _is_read(command))
"""The commands that replicas may answer, where all keys are one shard's."""


def must_wait(caller: Caller, argv: list[bytes]) -> bool:
    """Whether the caller's command has to wait for what replicas have not answered yet.

    Reads at replicas and commands at leaders could overtake one another: a read would see what was written after it.
    """
    reader, command = caller.stale_reads, recognise(argv)
    if reader is None or (isinstance(command, Command) and command.name in READS):
        return False
    if reader.away and caller.replies:
        return True
    reader.away = False
    if isinstance(command, Command) and _may_write(command):
        reader.wrote = True
    return False


def _may_write(command: Command) -> bool:
    if command.how is How.ROUTER:
        return "write" in command.flags or command.name == "exec"
    return command.writes


def sent(router: RouterContext, caller: Caller, shard: str, raw: bytes, argv: list[bytes], command: Command) -> bool:
    """Whether a replica has been asked in the leader's place."""
    reader = caller.stale_reads
    if reader is None or command.name not in READS or caller.tracking is not None:
        return False  # what a client caches has to come from where its changes are noticed
    replicas = router.pool.replicas
    if reader.wrote and not caller.replies:
        reader.wrote, reader.since = False, router.clock.boottime()
    link = None if reader.wrote else replicas.link(shard, caller.variant, reader)
    if link is None:
        replicas.counts.by_leader += 1
        return False
    slot = Slot(caller)
    caller.replies.append(slot)
    reader.away = True
    link.ask(raw, slot, partial(_ask_again, router, raw, argv), router.totals.kind_of(command))
    return True


def _ask_again(router: RouterContext, raw: bytes, argv: list[bytes], slot: Slot) -> None:
    """Have the leader of now answer, when its keys may be asked for."""
    caller = slot.caller
    assert isinstance(caller, Caller), "only callers read"
    router.fill_later(slot, router.execute(argv, raw, like=caller))


def _let(router: RouterContext, caller: Caller, argv: list[bytes], *, wish: bool) -> bytes:
    caller.stale_wish = wish
    caller.become(caller.identity)
    return OK


ANSWERS: dict[str, Answer] = {"readonly": partial(_let, wish=True), "readwrite": partial(_let, wish=False)}
HANDLERS: dict[str, Handler] = {name: at_once(answer) for name, answer in ANSWERS.items()}
