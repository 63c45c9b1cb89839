"""What a command handler is, and the shape that most of them have."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from helios.router.context import RouterContext
from helios.router.frontend.caller import DONE, Caller

Handler: TypeAlias = Callable[[RouterContext, Caller, list[bytes]], int]
Answer: TypeAlias = Callable[[RouterContext, Caller, list[bytes]], bytes]


def at_once(answer: Answer) -> Handler:
    """A handler that answers with the bytes that `answer` gives."""

    def handler(router: RouterContext, caller: Caller, argv: list[bytes]) -> int:
        caller.answer(answer(router, caller, argv))
        return DONE

    return handler
