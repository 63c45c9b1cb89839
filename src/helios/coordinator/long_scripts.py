"""Scripts that keep a server from everybody else: ended after `router.script_time_limit`, where that can be done."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from helios.model.migration import Change, ChangeKind, ChangeStatus, Origin
from helios.model.settings import ClusterSettings
from helios.ports.clock import Clock
from helios.ports.engine import Engine, ScriptEnd
from helios.ports.ids import new_id

logger = logging.getLogger(__name__)

# A server says so of itself (`busy-reply-threshold`); before, it answers nothing at all.
_BUSY_AFTER_S = 5.0


class LongScripts:
    """What is known of the servers that are busy with a script, and what is done about it."""

    def __init__(
        self, clock: Clock, settings: Callable[[], ClusterSettings], note: Callable[[Change], Awaitable[None]]
    ) -> None:
        self._clock = clock
        self._settings = settings
        self._note = note
        self._since: dict[str, float] = {}  # when each of these nodes' servers was first seen busy
        self._unkillable: set[str] = set()  # of them, those of whose script the history knows that it cannot be ended

    def over(self, node: str) -> None:
        """The node's server answers as it should."""
        self._since.pop(node, None)
        self._unkillable.discard(node)

    async def end(self, node: str, engine: Engine) -> str:
        """End what its server is busy with, if that has run for too long; what is to be said of it otherwise.

        Empty once it has ended. Raises EngineError, or StoreError where it cannot be noted.
        """
        now = self._clock.monotonic()
        ran_s = _BUSY_AFTER_S + now - self._since.setdefault(node, now)
        limit_s = self._settings().router.script_time_limit
        if not limit_s or ran_s < limit_s:
            return f"a script or function has run there for {ran_s:.0f} s; SCRIPT KILL or FUNCTION KILL ends it"
        end = await engine.end_script()
        if end is ScriptEnd.UNKILLABLE:
            what = (
                f"a script or function that has written has run there for {ran_s:.0f} s and cannot be ended: "
                "wait for it, or end the server's process, which undoes what it has written"
            )
            if node not in self._unkillable:
                logger.warning("script cannot be ended: node=%s ran_s=%.0f limit_s=%g", node, ran_s, limit_s)
                await self._note(self._change(node, ChangeStatus.FAILED, error=what))
                self._unkillable.add(node)
            return what
        self.over(node)
        if end is ScriptEnd.ENDED:
            reason = f"it had run for {ran_s:.0f} s (router.script_time_limit is {limit_s:g} s)"
            logger.warning("script ended: node=%s ran_s=%.0f limit_s=%g", node, ran_s, limit_s)
            await self._note(self._change(node, ChangeStatus.DONE, reason=reason))
        return ""

    def _change(self, node: str, status: ChangeStatus, reason: str = "", error: str | None = None) -> Change:
        """What the history says of it."""
        return Change(
            new_id(self._clock),
            ChangeKind.END_SCRIPT,
            status,
            node=node,
            origin=Origin.AUTOMATIC,
            reason=reason,
            error=error,
            requested_at=self._clock.wall(),
        )
