"""The connections of a router's clients: who gets a place, and who keeps it when users change."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

from helios.access.authenticator import Authenticator
from helios.access.rights import Nobody
from helios.router.frontend.caller import CLOSED
from helios.router.frontend.connection import ClientConnection
from helios.router.frontend.limits import MAX_CLIENTS, MAX_CLIENTS_REACHED, STOPPING, ClientLimits
from helios.router.options import RouterOptions

_LAST_REPLIES_S = 1.0


class ClientTable(dict[int, ClientConnection]):
    """The connections by their ids, in the order in which they came; `limits` ends those that are over one."""

    def __init__(
        self,
        options: RouterOptions,
        authenticator: Authenticator,
        subscribed: Callable[[ClientConnection], int],
        gone: Callable[[ClientConnection], None],
    ) -> None:
        """`subscribed`: how many bytes a client's subscriptions take; `gone` is told of each that has left."""
        super().__init__()
        self.options = options
        self.limits: ClientLimits[ClientConnection] = ClientLimits(self, options, subscribed)
        self.total = 0  # connections taken since the start, or since CONFIG RESETSTAT
        self.stopping = False  # nobody is let in any more
        self._authenticator = authenticator
        self._gone = gone
        self._nameless: dict[int, ClientConnection] = {}  # the oldest first; some may have logged in since
        self._ids = itertools.count(1)
        authenticator.listen(self._users_changed)

    def configure(self, options: RouterOptions) -> None:
        """Go by other limits: those of a single connection from the next one on."""
        self.options = self.limits.options = options

    def reset_counts(self) -> None:
        """Count connections from zero again."""
        self.total = 0
        self.limits.refused.clear()
        self.limits.ended.clear()

    def admit(self, client: ClientConnection) -> str | None:
        """Enter a connection, or say why not."""
        if self.stopping:
            self.limits.refused[STOPPING] += 1
            return "ERR the router is stopping"
        newcomer = self._authenticator.newcomer()
        if not self._has_place(client, isinstance(newcomer.rights, Nobody)):
            self.limits.refused[MAX_CLIENTS] += 1
            return MAX_CLIENTS_REACHED
        client.id = next(self._ids)
        client.since = client.last_at = client.outbox.now()
        client.become(newcomer)
        self[client.id] = client
        if client.nameless:
            self._nameless[client.id] = client
        self.total += 1
        return None

    def _has_place(self, client: ClientConnection, must_log_in: bool) -> bool:
        """Whether there is room for one more. Who has to log in may take the place of another who has not yet.

        The last places stay for administrators; who logs in there and is none is let go then.
        """
        count, most = len(self), self.options.clients
        if count < most:
            return True
        if not must_log_in:
            return False
        client.reserved = True
        if count < most + self.options.reserved_clients:
            return True
        for other in list(self._nameless.values()):
            if not other.nameless:
                del self._nameless[other.id]  # it has logged in since
            elif not other.stops & CLOSED:
                self.limits.end(other, MAX_CLIENTS)
                client.reserved = other.reserved
                return True
        return False

    def leave(self, client: ClientConnection) -> None:
        """A connection has ended."""
        self.pop(client.id, None)
        self._nameless.pop(client.id, None)
        self._gone(client)

    def unblock(self, client_id: int, *, as_error: bool) -> bool:
        """Let the command of a client go on that waits at a server; whether there was one.

        It is answered with UNBLOCKED, or as if its time had run out, unless something comes for it first.
        """
        client = self.get(client_id)
        if client is None or client.call is None:
            return False
        client.call.unblock(as_error=as_error)
        return True

    def _users_changed(self) -> None:
        """Every connection goes on with the rights that it has now, or ends where it could do more before."""
        for client in list(self.values()):
            identity = self._authenticator.still(client.identity)
            if identity is not None:
                client.become(identity)
            else:
                client.close_after_replies()
                # What it waits for (a command that blocks, say) may never be answered.
                asyncio.get_running_loop().call_later(_LAST_REPLIES_S, client.abort)
