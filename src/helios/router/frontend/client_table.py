"""The connections of a router's clients: who gets a place, and who keeps it when users change."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import suppress

from helios.access.authenticator import Authenticator, Identity
from helios.access.rights import Nobody
from helios.router.frontend.caller import CLOSED
from helios.router.frontend.connection import ClientConnection
from helios.router.frontend.limits import MAX_CLIENTS, MAX_CLIENTS_REACHED, STOPPING, ClientLimits
from helios.router.options import RouterOptions

_LAST_REPLIES_S = 1.0
_EMPTY_S = 1.0


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
        self._of_host: Counter[str] = Counter()
        self._of_user: Counter[str] = Counter()  # who is no administrator
        self._ids = itertools.count((options.worker << 32) + 1)  # no other worker of the node has the same
        self._departed = asyncio.Event()
        self._arrived = asyncio.Event()
        authenticator.listen(self._users_changed)

    async def pause(self) -> None:
        """Wait until it is time to look at the clients' limits again: as long as there is none, that has time."""
        if not self:
            self._arrived.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(_EMPTY_S):
                    await self._arrived.wait()
        await asyncio.sleep(self.limits.pause_s)

    def configure(self, options: RouterOptions) -> None:
        """Use other limits: those of a single connection from the next one on."""
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
        name, most = _limited(newcomer), self.options.clients_of_user
        fits = not name or not most or self._of_user[name] < most
        if not fits or not self._has_place(client, isinstance(newcomer.rights, Nobody)):
            self.limits.refused[MAX_CLIENTS] += 1
            return MAX_CLIENTS_REACHED
        client.id = next(self._ids)
        client.since = client.last_at = client.outbox.now()
        self[client.id] = client
        self._arrived.set()
        self._of_host[client.host] += 1
        self.become(client, newcomer)
        if client.nameless:
            self._nameless[client.id] = client
        self.total += 1
        return None

    def _has_place(self, client: ClientConnection, must_log_in: bool) -> bool:
        """Whether there is room for one more. Who has to log in may take the place of another who has not yet.

        The last places stay for administrators; who logs in there and is none is let go then.
        """
        if not any(self._too_many(client, 1)):
            return True
        if not must_log_in:
            return False
        client.reserved = True
        of_all, of_host = self._too_many(client, 1 - self.options.reserved_clients)
        if not (of_all or of_host):
            return True
        for other in list(self._nameless.values()):
            if not other.nameless:
                del self._nameless[other.id]  # it has logged in since
            elif not other.stops & CLOSED and (not of_host or other.host == client.host):
                self.limits.end(other, MAX_CLIENTS)
                client.reserved = other.reserved
                return True
        return False

    def _too_many(self, client: ClientConnection, more: int) -> tuple[bool, bool]:
        """Whether so many more clients would be too many of all, and of those at the client's address."""
        options = self.options
        of_host = self._of_host[client.host] + more
        return len(self) + more > options.clients, 0 < options.clients_of_host < of_host

    def login(self, client: ClientConnection, identity: Identity) -> str | None:
        """Let a client be who it has proved to be, or say why there is no place for it."""
        name, most = _limited(identity), self.options.clients_of_user
        if not name:
            client.reserved = False
        elif client.reserved and any(self._too_many(client, 0)):
            return f"{MAX_CLIENTS_REACHED}: the places that are left are for administrators"
        elif most and name != client.counted_as and self._of_user[name] >= most:
            self.limits.refused[MAX_CLIENTS] += 1
            return f"{MAX_CLIENTS_REACHED}: the user has the {most} that router.max_clients_per_user allows"
        else:
            client.reserved = False
        self.become(client, identity)
        return None

    def become(self, client: ClientConnection, identity: Identity) -> None:
        """Let a client be that user from now on."""
        client.become(identity)
        self._count_as(client, _limited(identity))

    def _count_as(self, client: ClientConnection, name: str) -> None:
        if client.counted_as:
            _take(self._of_user, client.counted_as)
        if name:
            self._of_user[name] += 1
        client.counted_as = name

    def leave(self, client: ClientConnection) -> None:
        """A connection has ended."""
        if self.pop(client.id, None) is not None:
            _take(self._of_host, client.host)
            self._count_as(client, "")
        self._nameless.pop(client.id, None)
        self._departed.set()
        self._gone(client)

    async def without(self, clients: Collection[ClientConnection]) -> None:
        """Return when none of these is here any more."""
        while any(client.id in self for client in clients):
            self._departed.clear()
            await self._departed.wait()

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
                self.become(client, identity)
            else:
                client.close_after_replies()
                # What it waits for (a command that blocks, say) may never be answered.
                asyncio.get_running_loop().call_later(_LAST_REPLIES_S, client.abort)


def _limited(identity: Identity) -> str:
    """The user whose connections are counted; empty for who has not logged in, and for administrators."""
    return identity.user.name if identity.user is not None and identity.rights is not None else ""


def _take(counter: Counter[str], name: str) -> None:
    counter[name] -= 1
    if not counter[name]:
        del counter[name]
