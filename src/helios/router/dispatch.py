"""From a command's arguments to who carries it out. Nothing is sent before all of its keys have been looked at."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from helios.errors import InvalidInput
from helios.placement.routing import Routes
from helios.resp.commands import ONE_KEY, Command, How, find, find_subcommand, key_positions, objection
from helios.resp.encoding import error
from helios.router import gather, keyspace, local, verbs
from helios.router._lanes import ShortWay
from helios.router.callers import DONE, HOLD, SLOW, Caller, Slot
from helios.router.server import ClientConnection

if TYPE_CHECKING:
    from helios.router.core import Router

_ATTACKS = frozenset((b"POST", b"HOST:"))
Handler = Callable[["Router", Caller, list[bytes]], int]
HANDLERS: dict[str, Handler] = {**local.HANDLERS, **keyspace.HANDLERS}


class Dispatcher:
    """The way of every command.

    Those with one key take the compiled short way where it is open, from the same table and the same links.
    """

    def __init__(self, router: Router) -> None:
        self._router = router
        self._now = router.clock.monotonic
        self._links = router.pool.links
        self.way = ShortWay(ONE_KEY, self._links[2], self._links[3])

    def serve(self, routes: Routes) -> None:
        """Open the short way where every command with one key goes at once to the shard that has the key."""
        if routes.empty or routes.has_fence or routes.has_slow:
            self.way.serve(None, None)
        else:
            self.way.serve(routes, routes.points)

    def dispatch(self, caller: Caller, raw: bytes, argv: list[bytes]) -> int:
        """Carry out one command; what becomes of the caller is in the result (see callers)."""
        router = self._router
        self.way.commands += 1
        if caller.rights is not None:
            refusal = caller.rights.refusal(argv)
            if refusal is not None:
                caller.answer(error(refusal))
                return DONE
        command = find(argv[0])
        if command is None or not command.one_key or not command.fits(len(argv)):
            return self._other(caller, raw, argv, command)
        routes = router.routes
        if routes is None or self._now() >= router.deadline:
            return self._down(caller)
        key = argv[command.one_key]
        try:
            shard = routes.owner(key)
        except IndexError:
            return self._down(caller)
        if routes.has_fence and routes.fenced(key):
            return HOLD
        if routes.has_slow and command.writes and self._must_slow(caller, routes.slow_s(key)):
            return SLOW
        self._send(caller, shard, raw)
        return DONE

    def _must_slow(self, caller: Caller, slow_s: float) -> bool:
        """Whether a write has yet to wait its time, so that the copy of its key can catch up."""
        if caller.slowed or not slow_s:
            caller.slowed = False
            return False
        caller.slow_s = slow_s
        return True

    def _send(self, caller: Caller, shard: str, raw: bytes) -> None:
        link = self._links[caller.protocol].get(shard)
        if link is None:
            link = self._router.pool.link(shard, caller.protocol)
        slot = Slot(caller)
        caller.replies.append(slot)
        link.send(raw, slot)

    def _down(self, caller: Caller) -> int:
        caller.answer(error(f"CLUSTERDOWN {self._router.reason() or 'try again'}; nothing was executed"))
        return DONE

    def _other(self, caller: Caller, raw: bytes, argv: list[bytes], command: Command | None) -> int:
        """Everything but a well-formed command with one key."""
        if command is None:
            return _unknown(caller, argv)
        if command.container and len(argv) > 1:
            inner = find_subcommand(command, argv[1])
            if inner is not None:
                command = inner
            elif command.how not in (How.REFUSED, How.LATER):
                word = argv[1][:128].decode("utf-8", "replace")
                caller.answer(error(f"ERR unknown subcommand '{word}'. Try {command.name.upper()} HELP."))
                return DONE
        name = command.name.replace("|", " ").upper()
        if command.how is How.REFUSED:
            caller.answer(error(f"ERR {command.reason}"))
        elif command.how is How.LATER:
            caller.answer(error(f"ERR '{name}' is not supported by Helios yet"))
        elif not command.fits(len(argv)):
            caller.answer(error(f"ERR wrong number of arguments for '{command.name}' command"))
        elif command.how is How.ROUTER:
            return HANDLERS[command.name](self._router, caller, argv)
        elif command.how is How.VERB:
            return verbs.run(self._router, caller, command.name, argv)
        else:
            return self._keyed(caller, raw, argv, command)
        return DONE

    def _keyed(self, caller: Caller, raw: bytes, argv: list[bytes], command: Command) -> int:
        """Commands that shards carry out, with any number of keys."""
        try:
            refusal = objection(command, argv)
            if refusal is not None:
                caller.answer(error(f"ERR {refusal}"))
                return DONE
            positions = key_positions(command, argv)
        except InvalidInput as fault:
            caller.answer(error(f"ERR {fault}"))
            return DONE
        if self._router.reason() is not None:
            return self._down(caller)
        routes = self._router.routes
        assert routes is not None
        owners = [routes.owner(argv[position]) for position in positions]
        if routes.has_fence and any(routes.fenced(argv[position]) for position in positions):
            return HOLD
        if routes.has_slow and command.writes:
            slow_s = max((routes.slow_s(argv[position]) for position in positions), default=0.0)
            if self._must_slow(caller, slow_s):
                return SLOW
        if not owners:
            # Scripts and HELP texts need no key; where a key is missing, any server says so in its own words.
            owners = [self._router.topology.shards[0].id]
        first = owners[0]
        if all(owner == first for owner in owners):
            self._send(caller, first, raw)
        elif command.how is How.SPLIT:
            gather.split(self._router, caller, argv, command, owners)
        else:
            shards = sorted(set(owners))
            caller.answer(
                error(
                    f"CROSSSHARD keys are owned by {', '.join(shards[:-1])} and {shards[-1]}: "
                    f"'{command.name.upper()}' works within one shard; keys with the same {{tag}} share one"
                )
            )
        return DONE


def _unknown(caller: Caller, argv: list[bytes]) -> int:
    if argv[0].upper() in _ATTACKS and isinstance(caller, ClientConnection):
        # A web page can make a browser send these to a server that should not be reached from it.
        caller.abort()
        return DONE
    shown = " ".join(f"'{argument[:128].decode('utf-8', 'replace')}'" for argument in argv[1:20])
    name = argv[0][:128].decode("utf-8", "replace")
    caller.answer(error(f"ERR unknown command '{name}', with args beginning with: {shown[:256]}"))
    return DONE
