"""Messages of a channel stay in order while the channel goes from one shard to another. Pure.

What was published at the old owner may be read after what was published at the new one, since these are two
connections. So the new owner's messages wait until the epoch of the switch has been applied and the old owner has said
that everything it had sent before has been read.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

from helios.placement.routing import Routes

Message = TypeVar("Message")


@dataclass(frozen=True, slots=True, eq=False)
class Handover:
    """Channels that have gone from `source` to `target`; it lasts until the source has been read to the end."""

    source: str
    target: str
    before: Routes

    def concerns(self, channel: bytes) -> bool:
        """Whether it is one of the channels that have gone."""
        return self.before.pair(channel) == (self.source, self.target)


class InOrder(Generic[Message]):
    """Decides which messages wait. They leave by channel in the order in which their shard sent them.

    Beyond `max_bytes` of waiting messages, further ones are let through out of turn rather than kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._routes: Routes | None = None
        self._handovers: list[Handover] = []
        self._waiting: deque[tuple[str, bytes, Message, int]] = deque()
        self._bytes = 0
        self.out_of_turn = 0  # messages let through since the start because too many waited

    def __len__(self) -> int:
        return len(self._waiting)

    def apply(self, routes: Routes) -> list[Handover]:
        """Use these routes. Each handover that is given must be ended when its source has been read to the end."""
        before, self._routes = self._routes, routes
        if before is None or not before.has_fence:
            return []
        still = _fenced(routes)
        begun = [Handover(source, target, before) for source, target in sorted(_fenced(before) - still)]
        self._handovers += begun
        return begun

    def end(self, handover: Handover) -> None:
        """Its source has been read to the end, or nothing more can come from there."""
        self._handovers.remove(handover)

    def waits(self, shard: str, channel: bytes, message: Message, size: int) -> bool:
        """Take a message that came from a shard; False if it need not wait and was not kept."""
        if not self._must_wait(shard, channel):
            return False
        if self._bytes + size > self._max_bytes:
            self.out_of_turn += 1
            return False
        self._waiting.append((shard, channel, message, size))
        self._bytes += size
        return True

    def released(self) -> list[Message]:
        """The messages that need not wait any more, in order; to be asked for after `apply` and `end`."""
        free: list[Message] = []
        kept: deque[tuple[str, bytes, Message, int]] = deque()
        for item in self._waiting:
            shard, channel, message, size = item
            if self._must_wait(shard, channel):
                kept.append(item)
            else:
                free.append(message)
                self._bytes -= size
        self._waiting = kept
        return free

    def _must_wait(self, shard: str, channel: bytes) -> bool:
        routes = self._routes
        if routes is not None and routes.has_fence and routes.fenced(channel):
            pair = routes.pair(channel)
            # Others have applied the switch already: what its target publishes comes after all that its source did.
            if pair is not None and pair[1] == shard:
                return True
        return any(handover.target == shard and handover.concerns(channel) for handover in self._handovers)


def _fenced(routes: Routes) -> set[tuple[str, str]]:
    return {(fence.shard, fence.target) for fence in routes.topology.fences if not fence.whole}
