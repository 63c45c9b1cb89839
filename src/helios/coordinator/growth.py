"""What a server has grown by that its count of keys does not explain: a value that is worth a search."""

from __future__ import annotations

from dataclasses import dataclass

from helios.ports.engine import BIG_VALUE_BYTES

_WORTH_PART = 0.01  # of all that the server holds; less is found as the samples go round


@dataclass(frozen=True, slots=True)
class Held:
    """What a server held at a look: its keys, and their bytes without those of values that are known to be big."""

    keys: int
    bytes: int


class Growth:
    """Tells by the looks at one server whether a big value has come that nobody has named: a script's, say.

    It is sought until as many keys have been looked at as the server held when the search began.
    """

    def __init__(self) -> None:
        self._before: Held | None = None
        self._unseen = 0  # keys that are still to be looked at

    @property
    def sought(self) -> bool:
        """Whether looks should be taken as fast as they may be."""
        return self._unseen > 0

    def looked(self, now: Held, looked_at: int) -> None:
        """A look has met so many keys of a server that holds this much."""
        self._unseen = max(0, self._unseen - looked_at)
        before = self._before
        if before is None or now.bytes < before.bytes:
            self._before = now
            return
        mean = before.bytes / before.keys if before.keys else 0.0
        unexplained = now.bytes - before.bytes - mean * max(0, now.keys - before.keys)
        if unexplained < max(BIG_VALUE_BYTES, _WORTH_PART * before.bytes):
            return
        self._before = now
        self._unseen = max(0, now.keys - looked_at)
