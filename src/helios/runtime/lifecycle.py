"""How a process of Helios begins and ends: its event loop, its signals, its parent's pipe, its exit status."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from helios.errors import HeliosError
from helios.ports.pulse import BEAT_S, offset_s
from helios.terminal import shown

logger = logging.getLogger(__name__)

COMPLAINT = "helios: "  # what is wrong begins so, for people and for the parent that reads a child's log
_FILES = 65536
_PIPE = 0  # a child's standard input


def run(
    main: Callable[[asyncio.Event], Coroutine[Any, Any, None]],
    *,
    parent_pipe: bool = False,
    reload: asyncio.Event | None = None,
) -> None:
    """Run `main` on a new uvloop. Its event is set by SIGINT, SIGTERM, and with `parent_pipe` by the parent's end.

    SIGHUP sets `reload`, and means nothing where there is none; but when the terminal is gone, it means the end.
    """

    async def whole() -> None:
        offset_s.set(random.random() * BEAT_S)
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        # Whoever started us by nohup means us to outlive the terminal.
        bound = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN and _has_terminal()

        def hung_up() -> None:
            if bound and not _has_terminal():
                stop.set()
            elif reload is not None:
                reload.set()

        loop.add_signal_handler(signal.SIGHUP, hung_up)
        if parent_pipe:
            _watch_parent(loop, stop)
        await main(stop)

    _allow_files()
    # What has been imported stays: it is no garbage, and to look at it again and again would be a pause each time.
    gc.freeze()
    gc.enable()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(whole())


def carry_out(start: Callable[[], None]) -> bool:
    """Run what a process is for. What is wrong is told in a line, without a traceback; whether nothing was."""
    try:
        start()
    except HeliosError as error:
        complain(str(error))
    except OSError as error:
        complain(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    else:
        return True
    return False


def _has_terminal() -> bool:
    """Whether there is a terminal that this process was started from and that has not been closed."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


def _allow_files() -> None:
    """Every client is a file to the system, whose usual limit of 1024 is meant for old programs."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _watch_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set `stop` when the parent's end of our standard input is closed, be it because the parent was killed."""

    def readable() -> None:
        try:
            data = os.read(_PIPE, 4096)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            loop.remove_reader(_PIPE)
            stop.set()

    os.set_blocking(_PIPE, False)
    loop.add_reader(_PIPE, readable)


def say(text: str) -> None:
    """Tell the person at the terminal. One who has gone away (a closed pipe) does not stop a server."""
    _write(sys.stdout, text)


def tell(text: str) -> None:
    """Tell the person at the terminal, and the log."""
    logger.info("told: %s", text)
    say(text)


def complain(text: str) -> None:
    """Tell the person at the terminal what is wrong."""
    _write(sys.stderr, COMPLAINT + text)


def _write(stream: Any, text: str) -> None:
    try:
        print(shown(text, stream), file=stream, flush=True)
    except (BrokenPipeError, ValueError):
        # The interpreter would flush again at its end and complain then.
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, stream.fileno())
        os.close(devnull)
