"""One session after the other, for as long as the router runs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from helios.errors import HeliosError, Unavailable
from helios.router.session.session import RETRY_S, Session, SessionHost

logger = logging.getLogger(__name__)
_AFTER_ERROR_S = 1.5
_CANCEL_AGAIN_S = 0.2


class SessionKeeper:
    """Has a session whenever the store lets it: a new one as soon as the one before is over."""

    def __init__(self, make: Callable[[], Session], host: SessionHost) -> None:
        self._make = make
        self._host = host
        self.session: Session | None = None
        self.sessions = 0
        self._longest_gap_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def start(self) -> None:
        """Have sessions from now on, until `stop`."""
        if not self._stopped:
            self._task = asyncio.create_task(self.run(), name="session keeper")
            self._task.add_done_callback(self._start_again)

    def _start_again(self, task: asyncio.Task[None]) -> None:
        """After an error that nobody foresaw: say so, serve nothing, and begin with a new session."""
        if not self._stopped and not task.cancelled():
            logger.critical("the session ended by an internal error", exc_info=task.exception())
            self._host.session_over("an internal error, which the log shows")
            asyncio.get_running_loop().call_later(_AFTER_ERROR_S, self.start)

    async def stop(self) -> None:
        """Keep the session no longer; it has not ended yet."""
        self._stopped = True
        while self._task is not None and not self._task.done():
            # A cancellation that meets the end of a session by itself is lost in it.
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CANCEL_AGAIN_S)

    @property
    def longest_gap_s(self) -> float:
        """The longest time between two renewals of a lease, of all sessions so far."""
        return max(self._longest_gap_s, self.session.longest_gap_s if self.session else 0.0)

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            self._longest_gap_s = self.longest_gap_s
            self.session = session = self._make()
            self.sessions += 1
            try:
                await session.live()
            except HeliosError as error:
                logger.warning("session %s is over: %s", session.id, error)
                self._host.session_over(str(error))
            # One that has lived is followed by the next at once: clients wait for it.
            await asyncio.sleep(max(0.0, began + RETRY_S - loop.time()))

    def current(self) -> Session:
        """The session that is open; raises Unavailable where there is none."""
        if self.session is None:
            raise Unavailable("this router has no session yet")
        return self.session

    async def end(self, timeout_s: float, *, revoke: bool) -> None:
        """End the session, for a stop; gives up after a while."""
        if self.session is not None:
            try:
                async with asyncio.timeout(timeout_s):
                    await self.session.end(revoke=revoke)
            except TimeoutError:
                logger.info("the session's end was not confirmed within %g s", timeout_s)
