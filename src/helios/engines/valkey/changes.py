"""The stream of changed keys, by the server's own invalidation messages."""

from __future__ import annotations

from contextlib import suppress

from helios.engines.valkey.connection import Connection, Endpoint, Reply, connect
from helios.errors import ChangesLost, EngineDenied, EngineUnreachable
from helios.ports.engine import QUIET_CHANNEL

# Beyond this the next copy round would not end sooner than copying everything again.
MAX_NAMED_BYTES = 256 * 1024 * 1024
_SET_ENTRY_BYTES = 100  # a bytes object and its place in a set, roughly


class TrackingStream:
    """A connection with CLIENT TRACKING ON BCAST; the keys named wait in a set until the next barrier."""

    def __init__(self, endpoint: Endpoint, timeout_s: float, max_bytes: int) -> None:
        self._endpoint = endpoint
        self._timeout_s = timeout_s
        self._max_bytes = max_bytes
        self._connection: Connection | None = None
        self._named: set[bytes] = set()
        self._named_bytes = 0
        self._broken: str | None = None

    @classmethod
    async def open(
        cls,
        endpoint: Endpoint,
        *,
        writer: Connection | None = None,
        beginning: bytes = b"",
        connect_timeout_s: float,
        timeout_s: float,
        max_bytes: int = MAX_NAMED_BYTES,
    ) -> TrackingStream:
        """A stream that names every key that begins so and changes, but for what `writer` was the last to write.

        Raises EngineUnreachable or EngineDenied.
        """
        stream = cls(endpoint, timeout_s, max_bytes)
        connection = await connect(endpoint, on_push=stream._pushed, timeout_s=connect_timeout_s)
        track = ("CLIENT", "TRACKING", "ON", *(("PREFIX", beginning) if beginning else ()))
        try:
            # Names that nobody fetches, since the coordinator is stopped, must not fill the server's memory.
            with suppress(EngineDenied):  # without the right to subscribe, its buffer has no bound
                await connection.execute("SUBSCRIBE", QUIET_CHANNEL, timeout_s=timeout_s)
            if writer is None:
                await connection.execute(*track, "BCAST", timeout_s=timeout_s)
            else:
                await writer.execute(*track, "REDIRECT", connection.client_id, "BCAST", "NOLOOP", timeout_s=timeout_s)
        except BaseException:
            await connection.close()
            raise
        stream._connection = connection
        return stream

    async def barrier(self) -> set[bytes]:
        """Every key named since the last call, at least those changed before this call was made.

        The server writes what it has to name before it answers the PING of this call. A call that fails
        with EngineUnreachable (no answer in time) or is cancelled takes nothing: the next one gives it.
        """
        if self._connection is None:
            raise ChangesLost(f"the change stream of {self._endpoint} is closed: copy everything again")
        if self._broken is None:
            try:
                await self._connection.execute("PING", timeout_s=self._timeout_s)
            except EngineUnreachable as error:
                if not self._connection.lost:
                    raise
                self._broken = self._broken or str(error)
        if self._broken is not None:
            raise ChangesLost(f"changes of {self._endpoint} went unseen, copy everything again: {self._broken}")
        named, self._named, self._named_bytes = self._named, set(), 0
        return named

    async def close(self) -> None:
        """Stop listening."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def _pushed(self, message: list[Reply]) -> None:
        if message[0] != b"invalidate" or self._broken is not None:
            return
        keys = message[1]
        if keys is None:
            self._break("the server was flushed")
            return
        for key in keys:
            if key not in self._named:
                self._named.add(key)
                self._named_bytes += len(key) + _SET_ENTRY_BYTES
        if self._named_bytes > self._max_bytes:
            self._break(f"more than {self._max_bytes} bytes of changed keys between two barriers")

    def _break(self, reason: str) -> None:
        self._broken = reason
        self._named = set()
