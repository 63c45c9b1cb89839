"""What a command is, who owns its keys now, and whether it may go there now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from helios.resp.commands import Command, How, find, find_subcommand
from helios.resp.encoding import error
from helios.router.callers import DONE, HOLD, SLOW, Caller
from helios.router.refusals import unknown_command, unknown_subcommand, wrong_number

if TYPE_CHECKING:
    from helios.router.core import Router


def find_owners(router: Router, caller: Caller, keys: Sequence[bytes], *, writes: bool) -> list[str] | int:
    """The owner of each key; or what becomes of the caller, where the command cannot go now.

    Where that is DONE the caller has been answered. Without keys there is no owner, but the same obstacles.
    """
    reason = router.reason()
    if reason is not None:
        caller.answer(error(f"CLUSTERDOWN {reason}; nothing was executed"))
        return DONE
    routes = router.routes
    assert routes is not None
    if routes.has_fence and any(map(routes.fenced, keys)):
        return HOLD
    if writes and routes.has_slow and must_slow(caller, max(map(routes.slow_s, keys), default=0.0)):
        return SLOW
    return [routes.owner(key) for key in keys]


def must_slow(caller: Caller, slow_s: float) -> bool:
    """Whether a write has yet to wait its time, so that the copy of its key can catch up."""
    if caller.slowed or not slow_s:
        caller.slowed = False
        return False
    caller.slow_s = slow_s
    return True


def recognise(argv: Sequence[bytes]) -> Command | bytes:
    """The command (or subcommand) that is asked for; or why it is none that can be carried out, as a reply."""
    command = find(argv[0])
    if command is None:
        return unknown_command(argv)
    if command.container and len(argv) > 1:
        inner = find_subcommand(command, argv[1])
        if inner is not None:
            command = inner
        elif command.how not in (How.REFUSED, How.LATER):
            return unknown_subcommand(command.name, argv[1])
    if command.how is How.REFUSED:
        return error(f"ERR {command.reason}")
    if command.how is How.LATER:
        return error(f"ERR '{shown(command)}' is not supported by Helios yet")
    if not command.fits(len(argv)):
        return wrong_number(command.name)
    return command


def shown(command: Command) -> str:
    """The command's name as people write it."""
    return command.name.replace("|", " ").upper()
