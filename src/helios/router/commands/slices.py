"""Work that is too long for one turn of the loop: it is done in slices, between which others come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar, overload

from helios.placement.routing import Routes
from helios.resp.wire import Buffer
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply
from helios.router.frontend.caller import PREPARING, Caller

T = TypeVar("T")

LONG = 2048  # as many arguments or keys are worked on in a few thousandths of a second
_AT_ONCE = 512  # a few thousandths of a second at the most
_COPIED_AT_ONCE = 4 << 20  # bytes
_MAX_TRIES = 3


class Chosen(Sequence[bytes]):
    """Some of many arguments, which are not copied: each attempt at a long command would take the time for it."""

    def __init__(self, argv: list[bytes], positions: Sequence[int]) -> None:
        self._argv = argv
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    @overload
    def __getitem__(self, at: int) -> bytes: ...
    @overload
    def __getitem__(self, at: slice) -> list[bytes]: ...
    def __getitem__(self, at: int | slice) -> bytes | list[bytes]:
        if isinstance(at, slice):
            return [self._argv[position] for position in self._positions[at]]
        return self._argv[self._positions[at]]


async def in_slices(items: Sequence[T], at_once: int = _AT_ONCE) -> AsyncIterator[Sequence[T]]:
    """All items, a few at a time; between two lots the loop turns."""
    for start in range(0, len(items), at_once):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + at_once]


async def joined(pieces: Sequence[bytes]) -> bytes:
    """All pieces as one. Each should be short; they are copied a few at a time."""
    size = sum(map(len, pieces))
    if size <= _COPIED_AT_ONCE:
        return b"".join(pieces)
    buffer = Buffer(size)
    async for some in in_slices(pieces, max(1, len(pieces) * _COPIED_AT_ONCE // size)):
        for piece in some:
            buffer.append(piece)
    return buffer.whole()


class Preparation:
    """What has been found for a command that is to be tried again, and by which routes."""

    def __init__(self, caller: Caller, routes: Routes, tries: int) -> None:
        self.routes = routes
        self.tries = tries
        self.found: Any = None
        self.failure = b""
        self._caller = caller

    async def find(self, work: Coroutine[Any, Any, object]) -> bytes:
        """Do the work; the reply is empty unless it fails."""
        self.found = await work
        return b""

    def fill(self, reply: bytes) -> None:
        """Let the command be tried again."""
        self.failure = reply
        self._caller.go_on(PREPARING)


def prepared(router: RouterContext, caller: Caller, work: Callable[[Routes], Coroutine[Any, Any, T]]) -> T | None:
    """What `work` finds by the current routes; None if that has only begun, and the verdict is to be PREPARE.

    The routes may have changed meanwhile: then it starts over, but not forever. Raises ErrorReply.
    """
    routes, before = router.routes, caller.preparation
    assert routes is not None, "whoever asks has seen that the router serves"
    caller.preparation = None
    if before is not None and before.failure:
        raise ErrorReply(before.failure)
    if before is not None and before.routes is routes:
        found: T = before.found
        return found
    tries = 0 if before is None else before.tries + 1
    if tries > _MAX_TRIES:
        return _without_a_pause(work(routes))
    caller.preparation = Preparation(caller, routes, tries)
    router.fill_later(caller.preparation, caller.preparation.find(work(routes)))
    return None


def _without_a_pause(work: Coroutine[Any, Any, T]) -> T:
    """Do it in one go; it waits for nothing but the loop's next turn."""
    while True:
        try:
            work.send(None)
        except StopIteration as error:
            result: T = error.value
            return result
