"""Commands with keys on several shards: each shard gets its part, and the replies become one.

The parts are separate commands. MSET, DEL and UNLINK across shards are therefore not atomic: others may see
some of the keys changed before the rest, and if a shard fails, what went to the others stays done: the error says so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from helios.resp.commands import Command
from helios.resp.encoding import OK, array, error_reply, integer
from helios.resp.odd import ODD_REPLY
from helios.resp.wire import elements, encode_command
from helios.router._fast_path import OWN, CommandStats
from helios.router.context import RouterContext
from helios.router.errors import in_part
from helios.router.frontend.caller import Caller, Slot, Waiter
from helios.router.upstream.link import ServerConnection

Combine = Callable[[list[bytes]], bytes]


class Part:
    """One shard's part of a gathering."""

    __slots__ = ("_gathering", "_index")

    def __init__(self, gathering: Gathering, index: int) -> None:
        self._gathering = gathering
        self._index = index

    def fill(self, reply: bytes) -> None:
        """Take the shard's reply."""
        self._gathering.fill(self._index, reply)


class Gathering:
    """Replies of several shards on their way into one; an error of any of them is the reply, with the fate of all."""

    __slots__ = ("_combine", "_left", "_replies", "_shards", "_waiter")

    def __init__(self, shards: Sequence[str], waiter: Waiter, combine: Combine) -> None:
        self._shards = shards
        self._replies = [b""] * len(shards)
        self._left = len(shards)
        self._waiter = waiter
        self._combine = combine

    def fill(self, index: int, reply: bytes) -> None:
        """Take one reply; the last one completes the whole."""
        self._replies[index] = reply
        self._left -= 1
        if not self._left:
            self._complete()

    def _complete(self) -> None:
        self._waiter.fill(self._failure() or self._whole())

    def _failure(self) -> bytes:
        """The error of the whole, empty where no part has failed."""
        if any(reply[:1] == b"-" for reply in self._replies):
            return in_part(dict(zip(self._shards, self._replies, strict=True)))
        return b""

    def _whole(self) -> bytes:
        try:
            return self._combine(self._replies)
        except ODD_REPLY:
            return self.misfit()

    def misfit(self) -> bytes:
        """The error where no whole can be made of the parts."""
        return error_reply(f"ERR the shards' replies do not fit together: {self._replies[0][:40]!r}")


def total(replies: Sequence[bytes]) -> bytes:
    """The sum of integer replies."""
    return integer(sum(int(reply[1:-2]) for reply in replies))


def all_ok(replies: Sequence[bytes]) -> bytes:
    """OK, since no reply is an error."""
    return OK


def to_all(
    router: RouterContext,
    waiter: Waiter,
    variant: int,
    frames: Sequence[tuple[str, bytes]],
    combine: Combine,
    kind: CommandStats = OWN,
) -> None:
    """Send each shard its frame, all in this turn of the loop; the waiter gets the combined reply."""
    parts = [(router.pool.link(shard, variant), frame) for shard, frame in frames]
    send_parts(parts, Gathering([shard for shard, _ in frames], waiter, combine), kind)


def send_parts(parts: Sequence[tuple[ServerConnection, bytes]], gathering: Gathering, kind: CommandStats = OWN) -> None:
    """Send each frame over its connection; what becomes of the replies is the gathering's."""
    for index, (link, frame) in enumerate(parts):
        link.send_as(frame, Part(gathering, index), kind)


def split(router: RouterContext, caller: Caller, argv: list[bytes], command: Command, owners: list[str]) -> None:
    """Carry out MGET, MSET, DEL, UNLINK, EXISTS or TOUCH on the shards that own its keys, one owner for each key."""
    width = 2 if command.name == "mset" else 1
    if len(argv) != 1 + width * len(owners):
        caller.answer(error_reply(f"ERR wrong number of arguments for '{command.name}' command"))
        return
    parts: dict[str, list[bytes]] = {}
    places: dict[str, list[int]] = {}
    for index, owner in enumerate(owners):
        parts.setdefault(owner, [argv[0]]).extend(argv[1 + index * width : 1 + index * width + width])
        places.setdefault(owner, []).append(index)
    slot = Slot(caller)
    caller.replies.append(slot)
    if command.name == "mget":
        combine = _interleave(list(places.values()), len(owners))
    else:
        combine = all_ok if command.name == "mset" else total
    frames = [(owner, encode_command(part)) for owner, part in parts.items()]
    to_all(router, slot, caller.variant, frames, combine, router.totals.kind_of(command))


def _interleave(places: list[list[int]], count: int) -> Combine:
    """Puts the elements of each shard's array at the places of its keys."""

    def combine(replies: list[bytes]) -> bytes:
        found = [b""] * count
        for where, reply in zip(places, replies, strict=True):
            for place, element in zip(where, elements(reply), strict=True):
                found[place] = element
        return array(found)

    return combine
