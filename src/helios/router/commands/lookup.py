"""What a command is, who owns its keys now, and whether it may go there now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from helios.placement.ring import hash_tag
from helios.placement.routing import Routes
from helios.resp.commands import Command, How, find, find_subcommand, looked_up
from helios.resp.encoding import error_reply
from helios.router.commands.slices import LONG, in_slices, prepared
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply, unknown_command, unknown_subcommand, wrong_number
from helios.router.frontend.caller import DONE, HOLD, PREPARE, SLOW, Caller


def find_owners(router: RouterContext, caller: Caller, keys: Sequence[bytes], *, writes: bool) -> list[str] | int:
    """The owner of each key; or what becomes of the caller, where the command cannot go now.

    Where that is DONE the caller has been answered. Without keys there is no owner, but the same obstacles. Where there
    are many keys, each owner is named once.
    """
    reason = router.reason()
    if reason is not None:
        caller.answer(error_reply(f"CLUSTERDOWN {reason}; nothing was executed"))
        return DONE
    routes = router.routes
    assert routes is not None
    if len(keys) > LONG:
        return _find_many(router, caller, keys, writes=writes)
    if routes.has_fence and (any(map(routes.fenced, keys)) if keys else routes.holds(routes.home)):
        return HOLD
    if writes and routes.has_slow and must_slow(caller, max(map(routes.slow_s, keys), default=0.0)):
        return SLOW
    return [routes.owner(key) for key in keys]


def _find_many(router: RouterContext, caller: Caller, keys: Sequence[bytes], *, writes: bool) -> list[str] | int:
    try:
        found = prepared(router, caller, lambda routes: _owners(routes, keys))
    except ErrorReply as error:
        caller.answer(error.raw)
        return DONE
    if found is None:
        return PREPARE
    if found.fenced:
        return HOLD
    return SLOW if writes and must_slow(caller, found.slow_s) else found.owners


@dataclass(slots=True)
class KeysOwners:
    """The owners of many keys, and what stands in the way of a command for them."""

    owners: list[str] = field(default_factory=list)
    fenced: bool = False
    slow_s: float = 0.0

    def add(self, routes: Routes, keys: Sequence[bytes]) -> list[str]:
        """Note these keys, too; gives their owners."""
        self.fenced = self.fenced or (routes.has_fence and any(map(routes.fenced, keys)))
        if routes.has_slow:
            self.slow_s = max(self.slow_s, *map(routes.slow_s, keys))
        owners = [routes.owner(key) for key in keys]
        self.owners += owners
        return owners


async def _owners(routes: Routes, keys: Sequence[bytes]) -> KeysOwners:
    found = KeysOwners()
    async for part in in_slices(keys):
        found.add(routes, part)
        found.owners = list(dict.fromkeys(found.owners))
    return found


def must_slow(caller: Caller, slow_s: float) -> bool:
    """Whether a write has yet to wait its time, so that the copy of its key can catch up."""
    if caller.slowed or not slow_s:
        caller.slowed = False
        return False
    caller.slow_s = slow_s
    return True


def looks_across(routes: Routes, command: Command, argv: Sequence[bytes]) -> bool:
    """Whether the patterns of a SORT may stand for keys of other shards than that of its key.

    They surely do not where every such key has the hash tag of the key that is sorted, and no rule tells them apart.
    """
    patterns = looked_up(command, argv)
    if not patterns:
        return False
    tag, transition = hash_tag(argv[1]), routes.topology.transition
    beginnings = [pattern.partition(b"*")[0] for pattern in patterns]
    tagged = all(hash_tag(beginning) == tag != beginning for beginning in beginnings)
    return not tagged or bool(routes.topology.placement.rules or (transition and transition.next.rules))


def recognise(argv: Sequence[bytes]) -> Command | bytes:
    """The command (or subcommand) that is asked for; or why it is none that can be carried out, as a reply."""
    command = find(argv[0])
    if command is None:
        return unknown_command(argv)
    if command.container and len(argv) > 1:
        inner = find_subcommand(command, argv[1])
        if inner is not None:
            command = inner
        elif command.name != "cluster":
            return unknown_subcommand(command.name, argv[1])
    if not command.fits(len(argv)):
        return wrong_number(command.name)
    if command.how is How.REFUSED:
        return error_reply(f"ERR {command.reason}")
    return command


def shown(command: Command) -> str:
    """The command's name as people write it."""
    return command.name.replace("|", " ").upper()
