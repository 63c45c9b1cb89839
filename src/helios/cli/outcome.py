"""How a command of `helios` ends: what is wrong is told in a line and by the exit status, without a traceback."""

from __future__ import annotations

from collections.abc import Callable

import typer

NOT_IN_ORDER = 1  # the command did its work, and what it found or ended is not in order
WRONG_USE = 2  # the command could not do its work: wrong words, wrong settings, something in its way


def carry_out(start: Callable[[], None]) -> None:
    """Run what a command does."""
    from helios.runtime import lifecycle

    if not lifecycle.carry_out(start):
        raise typer.Exit(WRONG_USE)
