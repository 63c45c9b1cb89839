"""Work that is too long for one turn of the loop: it is done in slices, between which others come in."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from helios.placement.routing import Routes
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply
from helios.router.frontend.caller import PREPARING, Caller

T = TypeVar("T")

LONG = 2048  # as many arguments or keys are worked on in a few thousandths of a second
_AT_ONCE = 512  # a few thousandths of a second at the most
_MAX_TRIES = 3


async def in_slices(items: Sequence[T], at_once: int = _AT_ONCE) -> AsyncIterator[Sequence[T]]:
    """All items, a few at a time; between two lots the loop turns."""
    for start in range(0, len(items), at_once):
        if start:
            await asyncio.sleep(0)
        yield items[start : start + at_once]


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
    """What `work` finds by the routes of now; None if that has only begun, and the verdict is to be PREPARE.

    The routes may have changed meanwhile: then it begins anew, but not for ever. Raises ErrorReply.
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
        except StopIteration as end:
            result: T = end.value
            return result
