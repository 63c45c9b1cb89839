"""How long the REST server waits for a client that does not go on with its request."""

from __future__ import annotations

import asyncio

from h11 import DONE, IDLE, SEND_BODY
from uvicorn.protocols.http.h11_impl import H11Protocol

REQUEST_TIMEOUT_S = 30.0
_TOLD = b"the request has not ended in time"
_TOO_LATE = (
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_TOLD), _TOLD)
)


class PatientProtocol(H11Protocol):
    """One client of the REST interface, let go when it is too slow; without that it could keep a connection forever.

    The head of a request has to be there `patience_s` seconds after its first byte or the connection's beginning, and
    of a body something has to come every `patience_s`. What the server itself takes does not count.
    """

    request_timeout_s = REQUEST_TIMEOUT_S
    _limit: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has connected."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take what has come, and see what is still missing."""
        super().data_received(data)
        state = self.conn.their_state
        if state is IDLE:
            if self._limit is None:
                self._wait()
        elif state is not SEND_BODY:
            self._wait_no_more()
        elif self.conn.our_state is not DONE:  # A body that nobody needs any more gets no further time.
            self._wait_no_more()
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self._wait_no_more()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._limit = self.loop.call_later(self.request_timeout_s, self._late)

    def _wait_no_more(self) -> None:
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None

    def _late(self) -> None:
        self._limit = None
        if self.conn.their_state is SEND_BODY and self.flow.read_paused:
            self._wait()  # It is not read at the moment.
            return
        if self.conn.their_state is IDLE and self.conn.trailing_data[0]:
            self.transport.write(_TOO_LATE)
        self.transport.close()
