"""What scatter does, for commands with so many keys that the loop turns while they are parted and put together."""

from __future__ import annotations

from collections.abc import AsyncIterator

from helios.placement.routing import Routes
from helios.resp.commands import Command
from helios.resp.encoding import error_reply
from helios.resp.odd import ODD_REPLY
from helios.resp.wire import ReplySplitter, encode_command
from helios.router.commands.lookup import KeysOwners, must_slow
from helios.router.commands.scatter import Gathering, all_ok, send_parts, total
from helios.router.commands.slices import in_slices, joined, prepared
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply
from helios.router.frontend.caller import DONE, HOLD, PREPARE, SLOW, Caller, Slot, Waiter

_PIECE_BYTES = 64 * 1024


class Parts:
    """Each shard's part of a command with many keys, as it is encoded bit by bit."""

    def __init__(self, routes: Routes, argv: list[bytes], width: int) -> None:
        self.keys = KeysOwners()
        self._routes = routes
        self._argv = argv
        self._width = width
        self._counts: dict[str, int] = {}
        self._pieces: dict[str, list[bytes]] = {}
        self.frames: list[tuple[str, bytes]] = []  # what each shard gets

    async def encode(self) -> Parts:
        """Go through all keys."""
        width = self._width
        async for starts in in_slices(range(1, len(self._argv), width)):
            words: dict[str, list[bytes]] = {}
            owners = self.keys.add(self._routes, [self._argv[start] for start in starts])
            for start, owner in zip(starts, owners, strict=True):
                words.setdefault(owner, []).extend(self._argv[start : start + width])
            for owner, part in words.items():
                self._counts[owner] = self._counts.get(owner, 1) + len(part)
                self._pieces.setdefault(owner, []).append(encode_command(part).partition(b"\r\n")[2])
        name = encode_command(self._argv[:1]).partition(b"\r\n")[2]
        for owner, pieces in self._pieces.items():
            self.frames.append((owner, await joined([b"*%d\r\n" % self._counts[owner], name, *pieces])))
        return self


class _Interleaving(Gathering):
    """Puts many shards' elements at the places of their keys, which takes some turns of the loop."""

    __slots__ = ("_owners", "_router")

    def __init__(self, router: RouterContext, waiter: Waiter, shards: list[str], owners: list[str]) -> None:
        super().__init__(shards, waiter, all_ok)
        self._router = router
        self._owners = owners

    def _complete(self) -> None:
        failure = self._failure()
        if failure:
            self._waiter.fill(failure)
        else:
            self._router.fill_later(self._waiter, self._interleaved())

    async def _interleaved(self) -> bytes:
        try:
            parts = [[element async for element in _elements(reply)] for reply in self._replies]
        except ODD_REPLY:
            return self.misfit()
        if sum(map(len, parts)) != len(self._owners):
            return self.misfit()
        for part in parts:
            part.reverse()  # taken from its end, so that it is freed bit by bit
        found = {shard: part.pop for shard, part in zip(self._shards, parts, strict=True)}
        pieces = [b"".join([found[owner]() for owner in owners]) async for owners in in_slices(self._owners)]
        return await joined([b"*%d\r\n" % len(self._owners), *pieces])


async def _elements(reply: bytes) -> AsyncIterator[bytes]:
    """The elements of a long array."""
    splitter, start = ReplySplitter(), reply.index(b"\r\n") + 2
    async for at in in_slices(range(start, len(reply), _PIECE_BYTES), 1):
        for element in splitter.feed(reply[at[0] : at[0] + _PIECE_BYTES]):
            yield element


def split_many(router: RouterContext, caller: Caller, raw: bytes, argv: list[bytes], command: Command) -> int:
    """Carry out MGET, MSET, DEL, UNLINK, EXISTS or TOUCH on the shards that own its keys."""
    width = 2 if command.name == "mset" else 1
    if (len(argv) - 1) % width:
        caller.answer(error_reply(f"ERR wrong number of arguments for '{command.name}' command"))
        return DONE
    reason = router.reason()
    if reason is not None:
        caller.answer(error_reply(f"CLUSTERDOWN {reason}; nothing was executed"))
        return DONE
    try:
        parts = prepared(router, caller, lambda routes: Parts(routes, argv, width).encode())
    except ErrorReply as error:
        caller.answer(error.raw)
        return DONE
    if parts is None:
        return PREPARE
    if parts.keys.fenced:
        return HOLD
    if command.writes and must_slow(caller, parts.keys.slow_s):
        return SLOW
    frames, kind = parts.frames, router.totals.kind_of(command)
    slot = Slot(caller)
    caller.replies.append(slot)
    if len(frames) == 1:
        router.pool.link(frames[0][0], caller.variant).send_as(raw, slot, kind)
        return DONE
    gathering: Gathering
    if command.name == "mget":
        gathering = _Interleaving(router, slot, [shard for shard, _ in frames], parts.keys.owners)
    else:
        gathering = Gathering([shard for shard, _ in frames], slot, all_ok if command.name == "mset" else total)
    send_parts([(router.pool.link(shard, caller.variant), frame) for shard, frame in frames], gathering, kind)
    return DONE
