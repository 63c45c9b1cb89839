"""Callers whose next command touches a fenced key: they wait for the next epoch, but not forever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from helios.resp.encoding import error_reply
from helios.router.frontend.caller import HELD, Caller


class Holding:
    """Holds whole callers, so that each one's commands stay in order and memory stays bounded."""

    def __init__(self, timeout_s: float, why: Callable[[Sequence[bytes]], str], told: Callable[[float], None]) -> None:
        self.timeout_s = timeout_s  # for commands that are held from now on
        self._why = why  # why a command has been held, as the end of a sentence
        self._told = told  # how many seconds the longest was held, at each release
        self._callers: dict[Caller, asyncio.TimerHandle] = {}  # in the order in which they came
        self.total = 0  # commands held since the start
        self.delayed = 0  # commands slowed since the start

    def __len__(self) -> int:
        return len(self._callers)

    def callers(self) -> Iterable[Caller]:
        """Those that are held, in order of arrival."""
        return self._callers.keys()

    def hold(self, caller: Caller) -> None:
        """Keep the caller until release(). A command that is held again keeps its first deadline."""
        loop = asyncio.get_running_loop()
        if caller.hold_until is None:
            caller.hold_until = loop.time() + self.timeout_s
            self.total += 1
        self._callers[caller] = loop.call_at(caller.hold_until, self._give_up, caller)

    def delay(self, caller: Caller) -> None:
        """Keep the caller for its `slow_s`, whatever becomes of the topology meanwhile."""
        self.delayed += 1
        asyncio.get_running_loop().call_later(caller.slow_s, self._delay_over, caller)

    def _delay_over(self, caller: Caller) -> None:
        caller.slowed = True
        caller.go_on(HELD)

    def release(self) -> None:
        """The topology has changed: every held command is tried again, in order of arrival."""
        callers, self._callers = self._callers, {}
        first = next(iter(callers), None)
        if first is not None and first.hold_until is not None:
            self._told(asyncio.get_running_loop().time() - first.hold_until + self.timeout_s)
        for caller, timer in callers.items():
            timer.cancel()
            caller.go_on(HELD)

    def forget(self, caller: Caller) -> None:
        """The caller has gone; its held command will not run."""
        timer = self._callers.pop(caller, None)
        if timer is not None:
            timer.cancel()

    def _give_up(self, caller: Caller) -> None:
        del self._callers[caller]
        caller.hold_until = None
        _, argv = caller.waiting.pop(0)
        name = argv[0].decode("ascii", "replace").upper()
        caller.answer(
            error_reply(f"TRYAGAIN '{name}' was held for {self.timeout_s:g} s {self._why(argv)}; nothing was executed")
        )
        caller.gave_up()
        self._told(self.timeout_s)
        caller.go_on(HELD)
