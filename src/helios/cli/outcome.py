"""How a command of `helios` ends: what is wrong is told in a line and by the exit status, without a traceback."""

from __future__ import annotations

from collections.abc import Callable

import typer

NOT_IN_ORDER = 1  # the command did its work, and what it found or ended is not in order
WRONG_USE = 2  # the command could not do its work: wrong words, wrong settings, something in its way


def carry_out(start: Callable[[], None]) -> None:
    """Run what a command does."""
    from helios.errors import HeliosError

    try:
        start()
    except HeliosError as error:
        message = str(error)
    except OSError as error:
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    else:
        return
    from helios.runtime.lifecycle import complain

    complain(message)
    raise typer.Exit(WRONG_USE)
