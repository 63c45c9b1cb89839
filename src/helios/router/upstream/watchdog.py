"""A queue of commands to one server that notices when nothing is answered any more."""

from __future__ import annotations

import asyncio

from helios.router._fast_path import CommandQueue
from helios.router.options import RouterOptions
from helios.router.upstream.connection import Wire

LOOKS = 4  # within the time that a server may be silent


class WatchedQueue(CommandQueue):
    """It aborts its connection when the server has been silent for `member_timeout_s` with commands unanswered."""

    _options: RouterOptions
    _loop: asyncio.AbstractEventLoop
    _wire: Wire | None
    _watchdog: asyncio.TimerHandle | None

    def _watch(self, answered: int, kept_bytes: int = 0, looks: int = 0) -> None:
        """Look again soon; so often nothing has come at the last looks."""
        # In parts of the time: silence is noticed not much later than it should be, and after a stall of this very
        # process what has come meanwhile is read before the server is given up.
        later_s = self._options.member_timeout_s / LOOKS
        self._watchdog = self._loop.call_later(later_s, self._look, answered, kept_bytes, looks + 1)

    def _look(self, answered_then: int, kept_then: int, looks: int) -> None:
        """See whether the server has answered anything since the last looks, be it a part of a reply.

        A reply that is too big grows no more, so one without an end is silence.
        """
        self._watchdog = None
        if len(self.waiters) == len(self.out) or self._wire is None:
            return
        kept_bytes = self._wire.kept_bytes
        if self.answered != answered_then:
            self._watch(self.answered)
        elif kept_bytes > kept_then:
            self._watch(answered_then, kept_bytes)
        elif looks < LOOKS:
            self._watch(answered_then, kept_then, looks)
        else:
            self._wire.abort(self._wire.silence(self._options.member_timeout_s, self.oldest()))

    def _unwatch(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
