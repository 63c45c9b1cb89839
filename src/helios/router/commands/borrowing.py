"""Commands that read keys of several shards and write one key at most: one shard borrows copies of what others own.

The owners give copies (DUMP), which need not be of one moment. In one transaction the shard restores them under names
that no client has, runs the command on these, and deletes them: nobody sees a copy, what the command says and stores is
the server's own work, and a stored result appears at once as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Iterable, Sequence
from dataclasses import dataclass
from time import perf_counter_ns

from helios.resp.commands import BORROWERS, Command
from helios.resp.encoding import error_reply
from helios.resp.wire import elements, encode_command
from helios.router._fast_path import OWN_READ, OWN_WRITE, CommandStats
from helios.router.commands.keyspace import decoded
from helios.router.commands.slices import LONG
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply, cross_shard
from helios.router.frontend.caller import WAIT_ALL, WAIT_REPLY, Caller, FutureReply
from helios.router.nowhere import nowhere

_MULTI, _EXEC = encode_command([b"MULTI"]), encode_command([b"EXEC"])
MAX_TRIES = 5


def borrows(command: Command, positions: Sequence[int]) -> bool:
    """Whether the command can run on copies. One with very many keys would keep the router from others."""
    return command.name in BORROWERS and len(positions) <= LONG


def borrow(router: RouterContext, caller: Caller, argv: list[bytes], command: Command, positions: Sequence[int]) -> int:
    """Run a command whose keys have several owners; what becomes of the caller is in the result."""
    if caller.replies:
        return WAIT_ALL  # the copies come over other connections, and must not overtake them
    work = _Borrowing(router, caller.variant, argv, command, positions).reply()
    router.spawn(caller, counted(router, command, work))
    return WAIT_REPLY


async def counted(router: RouterContext, command: Command, work: Awaitable[bytes]) -> bytes:
    """The reply that `work` gives, counted as a server counts its commands."""
    began_ns, kind = perf_counter_ns(), router.totals.kind_of(command)
    try:
        reply = await work
    except ErrorReply as error:
        reply = error.raw
    kind.latencies.record(perf_counter_ns() - began_ns)
    kind.failed += reply[:1] == b"-"
    return reply


async def owners_now(router: RouterContext, keys: Iterable[bytes]) -> dict[bytes, str]:
    """Who owns each key, in this turn of the loop, in which none is being handed over.

    Raises ErrorReply or Unavailable.
    """
    await router.unfenced()
    reason, routes = router.reason(), router.routes
    if reason is not None or routes is None:
        raise ErrorReply(error_reply(f"CLUSTERDOWN {reason or 'try again'}; nothing was executed"))
    return {key: routes.owner(key) for key in keys}


@dataclass(frozen=True, slots=True)
class Copy:
    """A key as its owner has it: what DUMP gives, and when it expires in Unix milliseconds (0: never)."""

    payload: bytes
    expires_ms: int

    def restored(self, name: bytes) -> bytes:
        """The command that makes it a key of this name."""
        return encode_command([b"RESTORE", name, b"%d" % self.expires_ms, self.payload, b"ABSTTL"])


class _Borrowing:
    """One command on its way."""

    def __init__(
        self, router: RouterContext, variant: int, argv: list[bytes], command: Command, positions: Sequence[int]
    ) -> None:
        self._router = router
        self._variant = variant
        self._argv = argv
        self._command = command
        self._positions = positions
        self._keys = [argv[position] for position in positions]

    async def reply(self) -> bytes:
        """Carry it out. Raises ErrorReply or Unavailable."""
        for _ in range(MAX_TRIES):
            owners = await owners_now(self._router, self._keys)
            host = self._host(owners)
            foreign = {key: owner for key, owner in owners.items() if owner != host}
            copies = await self._copies(owners, foreign)
            if self._written is not None and not await self._accepts(host, copies):
                return self._refusal(owners, "their servers have different versions")
            # Nothing is awaited between this look and the transaction.
            if {**await owners_now(self._router, self._keys), **foreign} == owners:
                return await self._run_on(host, owners, copies)
        return keys_move(self._command)

    @property
    def _written(self) -> bytes | None:
        place = BORROWERS[self._command.name]
        return None if place is None else self._keys[place]

    def _host(self, owners: dict[bytes, str]) -> str:
        """The shard that runs the command: where its result belongs, or where most keys are."""
        written = self._written
        return owners[written] if written is not None else Counter(owners.values()).most_common(1)[0][0]

    def _refusal(self, owners: dict[bytes, str], why: str) -> bytes:
        return cross_shard(owners.values(), f"'{self._command.name.upper()}'", f"; copies do not help: {why}")

    async def _copies(self, owners: dict[bytes, str], foreign: dict[bytes, str]) -> dict[bytes, Copy]:
        """Copies of those that exist. Raises ErrorReply."""
        asked: list[tuple[bytes, Exec]] = []
        for key, owner in foreign.items():
            frames = [encode_command([b"DUMP", key]), encode_command([b"PEXPIRETIME", key])]
            asked.append((key, transact(self._router, self._variant, owner, frames)))
        found: dict[bytes, Copy] = {}
        size = 0
        for key, reply in asked:
            payload, expires_ms = map(decoded, await reply.parts())
            if payload is not None:
                found[key] = Copy(payload, max(expires_ms, 0))
                size += len(payload)
        if size > self._router.options.transaction_bytes:
            raise ErrorReply(self._refusal(owners, f"they would have {size} bytes"))
        return found

    async def _accepts(self, host: str, copies: dict[bytes, Copy]) -> bool:
        """Whether the shard's server can restore copies of other servers, whose versions may be newer."""
        smallest = min(copies.values(), key=lambda copy: len(copy.payload), default=None)
        if smallest is None:
            return True
        frames = [smallest.restored(nowhere(0)), encode_command([b"UNLINK", nowhere(0)])]
        return (await transact(self._router, self._variant, host, frames).parts())[0][:1] != b"-"

    async def _run_on(self, host: str, owners: dict[bytes, str], copies: dict[bytes, Copy]) -> bytes:
        names = {key: nowhere(number) for number, key in enumerate(owners) if owners[key] != host}
        argv = list(self._argv)
        for position in self._positions:
            argv[position] = names.get(argv[position], argv[position])
        restored = [copy.restored(names[key]) for key, copy in copies.items()]
        frames = [*restored, encode_command(argv)]
        if copies:
            frames.append(encode_command([b"UNLINK", *(names[key] for key in copies)]))
        kind = OWN_READ if self._written is None else OWN_WRITE
        parts = await transact(self._router, self._variant, host, frames, kind).parts()
        if any(part[:1] == b"-" for part in parts[: len(restored)]):
            return self._refusal(owners, "their servers have different versions")
        return parts[len(restored)]


def keys_move(command: Command) -> bytes:
    """The reply where `MAX_TRIES` were in vain."""
    return error_reply(
        f"TRYAGAIN keys of '{command.name.upper()}' change their shard again and again; nothing was executed"
    )


class Exec:
    """Takes the replies to MULTI, to what is queued and to EXEC."""

    def __init__(self, count: int) -> None:
        self._left = count
        self._fault = b""
        self._last = FutureReply()

    def fill(self, reply: bytes) -> None:
        """Take one reply; each command gets one."""
        self._left -= 1
        if not self._left:
            self._last.fill(self._fault if self._fault and reply.startswith(b"-EXECABORT") else reply)
        elif reply[:1] == b"-" and not self._fault:
            self._fault = reply

    async def parts(self) -> list[bytes]:
        """The replies to what was queued. Raises ErrorReply where it was not carried out."""
        reply = await self._last
        if reply[:1] == b"-":
            raise ErrorReply(reply)
        return elements(reply)


def transact(
    router: RouterContext, variant: int, shard: str, frames: Sequence[bytes], kind: CommandStats = OWN_READ
) -> Exec:
    """Send a transaction to a shard, beside the connection behind which others wait."""
    reply = Exec(len(frames) + 2)
    router.pool.heavy_link(shard, variant).send_together([_MULTI, *frames, _EXEC], reply, kind)
    return reply
