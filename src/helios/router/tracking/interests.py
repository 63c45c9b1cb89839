"""Which clients have read which keys and are yet to be told of a change. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

# A dict's entry, a set and a bytes object, roughly; and a place in the set.
_KEY_BYTES = 350
_ITEM_BYTES = 40


class Interests:
    """Clients, by their ids, by the keys that they have read. It takes no more than about `max_bytes`.

    Who has been told of a key is forgotten with it: it has to read the key again to be told again. A client that has
    left is forgotten with its keys, not before: nothing here is by client.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._clients: dict[bytes, set[int]] = {}  # the key that was noted first comes first
        self._bytes = 0
        self.items = 0  # pairs of a key and a client

    def __len__(self) -> int:
        return len(self._clients)

    def __contains__(self, key: bytes) -> bool:
        return key in self._clients

    def note(self, key: bytes, client: int) -> None:
        """A client reads a key."""
        clients = self._clients.get(key)
        if clients is None:
            clients = self._clients[key] = set()
            self._bytes += len(key) + _KEY_BYTES
        if client not in clients:
            clients.add(client)
            self.items += 1
            self._bytes += _ITEM_BYTES

    def surplus(self) -> Iterator[tuple[bytes, Collection[int]]]:
        """What there is no room for: the oldest keys and their clients, which are forgotten and must be told."""
        while self._bytes > self._max_bytes:
            key = next(iter(self._clients))
            yield key, self.take(key)

    def take(self, key: bytes) -> Collection[int]:
        """Who is to be told of a change of the key; they are forgotten."""
        clients = self._clients.pop(key, None)
        if clients is None:
            return ()
        self.items -= len(clients)
        self._bytes -= len(key) + _KEY_BYTES + _ITEM_BYTES * len(clients)
        return clients

    def take_from(self, key: bytes, client: int) -> bool:
        """Whether one client is to be told of a change of the key; it is forgotten, and others are not."""
        clients = self._clients.get(key, ())
        if client not in clients:
            return False
        if len(clients) == 1:
            self.take(key)
            return True
        self._clients[key].discard(client)
        self.items -= 1
        self._bytes -= _ITEM_BYTES
        return True

    def clear(self) -> None:
        """Forget everything."""
        self._clients = {}
        self._bytes = self.items = 0
