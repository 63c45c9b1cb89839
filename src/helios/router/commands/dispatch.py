"""From a command's arguments to who carries it out. Nothing is sent before all of its keys have been looked at."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from time import perf_counter_ns

from helios.errors import InvalidInput
from helios.placement.routing import Routes
from helios.resp.blocking import timeout_of
from helios.resp.commands import ELEMENT_SCANS, ONE_KEY, Command, How, find, find_subcommand, key_positions, objection
from helios.resp.encoding import error_reply
from helios.resp.keys import Malformed
from helios.router._fast_path import CommandStats, FastPath
from helios.router.commands import (
    admin,
    client,
    command_info,
    config,
    keyspace,
    latency,
    memory,
    pubsub,
    replica_reads,
    scan,
    scatter,
    scatter_many,
    scripting,
    server,
    tracking,
    transactions,
    watching,
)
from helios.router.commands.argument_check import refuse_cross_shard
from helios.router.commands.blocking import block
from helios.router.commands.borrowing import borrow, borrows
from helios.router.commands.handlers import Handler
from helios.router.commands.lookup import find_owners, looks_across, must_slow, recognise
from helios.router.commands.queueing import queue
from helios.router.commands.slices import LONG, Chosen
from helios.router.commands.sorting import sort_across
from helios.router.context import RouterContext
from helios.router.frontend.caller import (
    DONE,
    HOLD,
    IN_MULTI,
    IN_NO_DATABASE,
    IN_SUBSCRIPTION,
    SLOW,
    WAIT_ALL,
    WAIT_REPLY,
    Caller,
    LastSlot,
    Slot,
)
from helios.router.frontend.connection import ClientConnection
from helios.router.upstream.heavy import HEAVY_BYTES

_ENDS_OF_TRANSACTIONS = frozenset((b"EXEC", b"DISCARD"))
# Passwords, and what is meant to take long, do not stand in the slow log.
_NOT_LOGGED = frozenset(("auth", "hello", "exec", "wait"))
_ATTACKS = frozenset((b"POST", b"HOST:"))
HANDLERS: dict[str, Handler] = {
    **server.HANDLERS,
    **config.HANDLERS,
    **keyspace.HANDLERS,
    **transactions.HANDLERS,
    **watching.HANDLERS,
    **pubsub.HANDLERS,
    **scripting.HANDLERS,
    **command_info.HANDLERS,
    **client.HANDLERS,
    **tracking.HANDLERS,
    **memory.HANDLERS,
    **latency.HANDLERS,
    **replica_reads.HANDLERS,
    "scan": scan.scan,
}


def _leads_back(caller: Caller, word: bytes) -> bool:
    """Whether a connection may send this that means a database that there is not."""
    return word in server.ON_THE_WAY_BACK or (caller.transaction is not None and word in _ENDS_OF_TRANSACTIONS)


class Dispatcher:
    """Carries out every command.

    Those with one key take the compiled fast path where it is open, from the same table and the same links.
    """

    def __init__(self, router: RouterContext) -> None:
        self._router = router
        self._lasts = router.lease.lasts
        self._links = router.pool.links
        self._heavy = router.heavy
        self.fast_path = FastPath(ONE_KEY, self._links[2], self._links[3], self._heavy.by_key)

    def serve(self, routes: Routes) -> None:
        """Open the fast path where every command with one key goes at once to the shard that has the key."""
        if routes.empty or routes.has_fence or routes.has_slow:
            self.fast_path.serve(None, None)
        else:
            self.fast_path.serve(routes, routes.owners)

    def dispatch(self, caller: Caller, raw: bytes, argv: list[bytes]) -> int:
        """Carry out one command; what becomes of the caller is in the result (see callers)."""
        verdict = self._carry_out(caller, raw, argv)
        if caller.tracking is not None and verdict in (DONE, WAIT_REPLY):
            tracking.note(self._router, caller, argv)
        return verdict

    def _carry_out(self, caller: Caller, raw: bytes, argv: list[bytes]) -> int:
        router = self._router
        if caller.reroutes != self.fast_path.reroutes:
            if caller.replies:
                return WAIT_ALL  # they are on a link that is used no longer, and must not be overtaken
            caller.reroutes = self.fast_path.reroutes
        self.fast_path.commands += 1
        if caller.rights is not None:
            refusal = caller.rights.refusal(argv)
            if refusal is not None:
                if caller.transaction is not None:
                    caller.transaction.fail()
                caller.answer(error_reply(refusal))
                return DONE
        if caller.modes & IN_NO_DATABASE and not _leads_back(caller, argv[0].upper()):
            if caller.transaction is not None:
                caller.transaction.fail()
            caller.answer(server.no_database(caller, argv[0]))
            return DONE
        if caller.stale_reads is not None and replica_reads.must_wait(caller, argv):
            return WAIT_ALL
        if caller.modes & IN_MULTI:
            return self._queue(caller, raw, argv)
        command = find(argv[0])
        if caller.modes & IN_SUBSCRIPTION and (command is None or command.name not in pubsub.ALLOWED):
            named = recognise(argv)
            caller.answer(named if isinstance(named, bytes) else pubsub.not_now(named.name))
            return DONE
        if command is None or not command.one_key or not command.fits(len(argv)):
            return self._other(caller, raw, argv)
        routes = router.routes
        if routes is None or not self._lasts():
            return self._down(caller)
        key = argv[command.one_key]
        try:
            shard = routes.owner(key)
        except IndexError:
            return self._down(caller)
        if routes.has_fence and routes.fenced(key):
            return HOLD
        if routes.has_slow and command.writes and must_slow(caller, routes.slow_s(key)):
            return SLOW
        if len(raw) >= HEAVY_BYTES or self._heavy.has(command.name, key):
            return self._send_apart(caller, shard, raw, command)
        self._send(caller, shard, raw, argv, command, (key,))
        return DONE

    def _send(
        self, caller: Caller, shard: str, raw: bytes, argv: list[bytes], command: Command, keys: Sequence[bytes]
    ) -> None:
        if caller.stale_reads is not None and replica_reads.sent(self._router, caller, shard, raw, argv, command):
            return
        link = self._links[caller.variant].get(shard)
        if link is None:
            link = self._router.pool.link(shard, caller.variant)
        slot = Slot(caller) if caller.tracking is None else tracking.place(self._router, caller, shard, command, keys)
        caller.replies.append(slot)
        link.send_as(raw, slot, self.fast_path.kind_of(command.name, int(command.writes)))

    def _send_apart(self, caller: Caller, shard: str, raw: bytes, command: Command) -> int:
        """Send what is big so that others need not wait behind it; its own caller's commands keep their order."""
        if caller.replies:
            return WAIT_ALL
        slot = LastSlot(caller)
        caller.replies.append(slot)
        link = self._router.pool.heavy_link(shard, caller.variant)
        link.send_as(raw, slot, self.fast_path.kind_of(command.name, int(command.writes)))
        return WAIT_REPLY

    def _down(self, caller: Caller) -> int:
        caller.answer(error_reply(f"CLUSTERDOWN {self._router.reason() or 'try again'}; nothing was executed"))
        return DONE

    def _queue(self, caller: Caller, raw: bytes, argv: list[bytes]) -> int:
        """A command of a caller in MULTI."""
        command = recognise(argv)
        if isinstance(command, Command) and command.name == "select":
            server.choose_database(caller, argv[1])
        if isinstance(command, Command) and command.name in transactions.AT_ONCE:
            return self._answer(caller, raw, argv, command)
        if isinstance(command, bytes):
            self._reject(argv)
        if isinstance(command, bytes) and argv[0].upper() == b"EXEC":
            transactions.abort(caller, command)
        else:
            queue(self._router.options, caller, raw, argv)
        return DONE

    def _other(self, caller: Caller, raw: bytes, argv: list[bytes]) -> int:
        """Everything but a well-formed command with one key."""
        command = recognise(argv)
        if isinstance(command, bytes):
            self._reject(argv)
            if argv[0].upper() in _ATTACKS and isinstance(caller, ClientConnection):
                # A web page can make a browser send these to a server that should not be reached from it.
                caller.abort()
            elif argv[0].upper() == b"EXEC":
                transactions.abort(caller, command)
            else:
                caller.answer(command)
            return DONE
        if "|" in command.name:
            caller.last_word = command.name.encode()  # CLIENT LIST tells subcommands apart
        if command.how is How.ROUTER:
            return self._answer(caller, raw, argv, command)
        if command.how is How.VERB:
            return admin.run(self._router, caller, command.name, argv)
        return self._keyed(caller, raw, argv, command)

    def _answer(self, caller: Caller, raw: bytes, argv: list[bytes], command: Command) -> int:
        """A command that the router carries out itself."""
        began_ns = perf_counter_ns()
        verdict = HANDLERS[command.name](self._router, caller, argv)
        if verdict in (DONE, WAIT_REPLY):  # else it is given again
            kind = self.fast_path.kind_of(command.name, int(command.writes))
            slot = caller.last_slot()
            counted = partial(self._count, kind, raw, began_ns, slot)
            if isinstance(slot, LastSlot) and slot.reply is None:
                slot.filled = counted
            else:
                counted()
        return verdict

    def _count(self, kind: CommandStats, raw: bytes, began_ns: int, slot: Slot | None) -> None:
        """Note how long a command took that the router has carried out itself, and whether it failed."""
        took_s = (perf_counter_ns() - began_ns) / 1e9
        kind.latencies.record(int(took_s * 1e9))
        if slot is not None and slot.reply is not None and slot.reply[:1] == b"-":
            kind.failed += 1
        if slot is not None and kind.name not in _NOT_LOGGED and 0 < self._router.options.slow_s <= took_s:
            self._router.slow(raw, slot, took_s)

    def _reject(self, argv: list[bytes]) -> None:
        """Count a command that is not carried out, if it is one."""
        command = find(argv[0])
        if command is not None and command.container and len(argv) > 1:
            command = find_subcommand(command, argv[1])
        if command is not None:
            self.fast_path.kind_of(command.name, int(command.writes)).rejected += 1

    def _keyed(self, caller: Caller, raw: bytes, argv: list[bytes], command: Command) -> int:
        """Commands that shards carry out, with any number of keys."""
        try:
            refusal = objection(command, argv)
            if refusal is not None:
                caller.answer(error_reply(f"ERR {refusal}"))
                return DONE
            if command.how is How.SPLIT and len(argv) > LONG:
                return scatter_many.split_many(self._router, caller, raw, argv, command)
            positions = key_positions(command, argv)
            timeout = timeout_of(command, argv) if command.how is How.BLOCKING else None
        except Malformed:
            positions, timeout = [], None  # any server says what is wrong, in its own words
        except InvalidInput as error:
            caller.answer(error_reply(f"ERR {error}"))
            return DONE
        if timeout is not None:
            return block(self._router, caller, raw, argv, command, timeout, positions)
        keys = Chosen(argv, positions) if len(positions) > LONG else [argv[position] for position in positions]
        owners = find_owners(self._router, caller, keys, writes=command.writes)
        if isinstance(owners, int):
            return owners
        assert self._router.routes is not None
        if looks_across(self._router.routes, command, argv):
            return sort_across(self._router, caller, argv, command, positions)
        if not owners:
            # Scripts and HELP texts need no key; where a key is missing, any server says so in its own words.
            owners = [self._router.routes.home]
        first = owners[0]
        if owners.count(first) == len(owners):
            if command.name in ELEMENT_SCANS:
                scan.scan_elements(self._router, caller, argv, first)
            elif command.name in scripting.CALLS:
                scripting.call(self._router, caller, first, raw, argv, command)
            else:
                self._send(caller, first, raw, argv, command, keys)
        elif command.how is How.SPLIT:
            scatter.split(self._router, caller, argv, command, owners)
        elif borrows(command, positions):
            return borrow(self._router, caller, argv, command, positions)
        else:
            return refuse_cross_shard(self._router, caller, argv, command, positions, owners)
        return DONE
