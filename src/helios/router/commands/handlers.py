"""What a command handler is, and the shapes that most of them have: answered at once, or by work that is waited for.

Either kind can be queued in a transaction, and is carried out when the shard has carried out the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TypeAlias

from helios.router.context import RouterContext
from helios.router.frontend.caller import DONE, WAIT_REPLY, Caller

Handler: TypeAlias = Callable[[RouterContext, Caller, list[bytes]], int]
Answer: TypeAlias = Callable[[RouterContext, Caller, list[bytes]], bytes]
Work: TypeAlias = Callable[[RouterContext, Caller, list[bytes]], Coroutine[None, None, bytes]]


def at_once(answer: Answer) -> Handler:
    """A handler that answers with the bytes that `answer` gives."""

    def handler(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
        caller.answer(answer(router, caller, argv))
        return DONE

    return handler


def awaited(work: Work) -> Handler:
    """A handler whose caller waits for the bytes that `work` returns."""

    def handler(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
        router.spawn(caller, work(router, caller, argv))
        return WAIT_REPLY

    return handler


def as_work(answer: Answer) -> Work:
    """The same answer, as something that is waited for."""

    async def work(router: RouterContext, caller: Caller, argv: list[bytes]) -> bytes:
        return answer(router, caller, argv)

    return work
