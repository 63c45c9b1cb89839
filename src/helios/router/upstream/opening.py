"""How many connections a router opens at a time, and what time each of them has for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from helios.router.options import RouterOptions
from helios.router.upstream.connection import in_time

_USUAL = 8  # as many are opened in the usual time


class Opening:
    """Counts the connections that are being opened.

    A hundred need a hundred times the work of one, in every router of a cluster that begins to serve. Where each had
    the time of one, all would be given up half-done, and begun anew.
    """

    def __init__(self) -> None:
        self._count = 0

    @asynccontextmanager
    async def in_time(self, options: RouterOptions) -> AsyncGenerator[None, None]:
        """Inside, one more is being opened. Raises a ConnectionError where it takes longer than it may."""
        self._count += 1
        try:
            async with in_time(options, max(1.0, self._count / _USUAL)):
                yield
        finally:
            self._count -= 1
