"""Which clients want to hear of every key that begins in a certain way. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable


class Prefixes:
    """Clients, by their ids, by the beginnings of keys that they have asked for; the empty one begins every key."""

    def __init__(self) -> None:
        self._clients: dict[bytes, set[int]] = {}
        self._lengths: Counter[int] = Counter()  # how many beginnings have so many bytes

    def __len__(self) -> int:
        return len(self._clients)

    def add(self, client: int, prefixes: Iterable[bytes]) -> None:
        """A client wants these, too."""
        for prefix in prefixes:
            clients = self._clients.setdefault(prefix, set())
            if not clients:
                self._lengths[len(prefix)] += 1
            clients.add(client)

    def remove(self, client: int, prefixes: Iterable[bytes]) -> None:
        """A client wants these no longer."""
        for prefix in prefixes:
            clients = self._clients.get(prefix, set())
            clients.discard(client)
            if not clients and self._clients.pop(prefix, None) is not None:
                self._lengths[len(prefix)] -= 1
                if not self._lengths[len(prefix)]:
                    del self._lengths[len(prefix)]

    def clients(self, prefix: bytes) -> Collection[int]:
        """Who wants a beginning."""
        return self._clients.get(prefix, ())

    def sort(self, keys: Iterable[bytes]) -> dict[bytes, list[bytes]]:
        """The keys by the beginnings that somebody wants; a key may stand under several."""
        found: dict[bytes, list[bytes]] = {}
        for key in keys:
            for length in self._lengths:
                prefix = key[:length]
                if len(prefix) == length and prefix in self._clients:
                    found.setdefault(prefix, []).append(key)
        return found
