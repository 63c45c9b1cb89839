"""How many connections a router opens at a time, and what time each of them has for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from helios.router.options import RouterOptions
from helios.router.upstream.connection import in_time

_USUAL = 8  # as many are opened in the usual time


class Opening:
    """Gives the connections that are being opened the more time the more they are.

    A hundred need a hundred times the work of one, in every router of a cluster that begins to serve. Where each had
    the time of one, all would be given up half-done, and begun anew. So would the first ones if only those behind them
    had more.
    """

    def __init__(self) -> None:
        self._begun: dict[asyncio.Timeout, float] = {}

    @asynccontextmanager
    async def in_time(self, options: RouterOptions) -> AsyncGenerator[None, None]:
        """Inside, one more is being opened. Raises a ConnectionError where it takes longer than it may."""
        async with in_time(options) as limit:
            self._begun[limit] = asyncio.get_running_loop().time()
            try:
                self._stretch(options.connect_timeout_s)
                yield
            finally:
                del self._begun[limit]

    def _stretch(self, usual_s: float) -> None:
        """Give the newest as much time as so many need, and the others, too, where that has become more."""
        before, patience = len(self._begun) - 1, -(-len(self._begun) // _USUAL)
        concerned = list(self._begun.items()) if before % _USUAL == 0 else [next(reversed(self._begun.items()))]
        for limit, began_s in concerned:
            ends_s = limit.when()
            if not limit.expired() and ends_s is not None and ends_s < began_s + patience * usual_s:
                limit.reschedule(began_s + patience * usual_s)
