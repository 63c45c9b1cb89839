"""Commands that take more than one step: a task works on each, and answers its caller in the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

from helios.errors import HeliosError
from helios.resp.encoding import error_reply
from helios.resp.odd import ODD_REPLY
from helios.router.errors import ErrorReply
from helios.router.frontend.caller import Caller, LastSlot, Waiter

logger = logging.getLogger(__name__)


class Answering:
    """The tasks of a router whose results are replies, and others that end with it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def spawn(self, caller: Caller, work: Coroutine[None, None, bytes]) -> None:
        """Answer the caller with what `work` returns; a HeliosError becomes an error reply."""
        slot = LastSlot(caller)
        caller.replies.append(slot)
        self.fill_later(slot, work)

    def fill_later(self, waiter: Waiter, work: Coroutine[None, None, bytes]) -> None:
        """Give a waiter what `work` returns; a HeliosError becomes an error reply."""
        self.keep(asyncio.create_task(_answer(waiter, work)))

    def keep(self, task: asyncio.Task[None]) -> None:
        """Let a task go on until it ends, or this does."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop(self, timeout_s: float) -> None:
        """End all of them; who still waits is told that the outcome is unknown."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_s)


async def _answer(waiter: Waiter, work: Coroutine[None, None, bytes]) -> None:
    reply = error_reply("UNKNOWN an internal error, which the router's log shows; the outcome is not known")
    try:
        reply = await work
    except asyncio.CancelledError:
        reply = error_reply("UNKNOWN the router is stopping; whether the command was carried out is not known")
        raise
    except ODD_REPLY as error:
        logger.exception("a data server's reply is not understood")
        reply = error_reply(f"UNKNOWN a data server's reply is not understood ({error!r:.100}); outcome unknown")
    except ErrorReply as error:
        reply = error.raw
    except HeliosError as error:
        reply = error_reply(f"{error.code} {error}")
    finally:
        waiter.fill(reply)
