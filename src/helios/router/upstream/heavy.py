"""Commands with such big replies or values that others should not wait behind them: they have a connection apart."""

from __future__ import annotations

from collections.abc import Callable

from helios.resp.commands import find
from helios.resp.wire import RequestParser

HEAVY_BYTES = 1 << 20  # of a command or a reply; a millisecond or two on the way
_REMEMBERED_S = 60.0
_MAX_KEYS = 1024
_LONGEST_BYTES = 16 * 1024  # of a command that is remembered, its key included


class HeavyCommands:
    """Which commands on which keys have had a big reply of late. `by_key` stays the same dict forever."""

    def __init__(self, now: Callable[[], float]) -> None:
        self.by_key: dict[bytes, dict[str, float]] = {}  # until when, by the command's name
        self._now = now

    def learn(self, raw: bytes) -> None:
        """The reply to this command was big."""
        if len(raw) > _LONGEST_BYTES:
            return
        parser = RequestParser()
        parser.feed(raw)
        ((_, argv),) = parser.take()
        command = find(argv[0])
        if command is None or not command.one_key or command.one_key >= len(argv):
            return
        key = argv[command.one_key]
        names = self.by_key.pop(key, {})
        names[command.name] = self._now() + _REMEMBERED_S
        self.by_key[key] = names
        if len(self.by_key) > _MAX_KEYS:
            del self.by_key[next(iter(self.by_key))]

    def has(self, name: str, key: bytes) -> bool:
        """Whether this command on this key is one of them."""
        names = self.by_key.get(key)
        if names is None or name not in names:
            return False
        if names[name] > self._now():
            return True
        del names[name]
        if not names:
            del self.by_key[key]
        return False
