"""Opens engines on Valkey and Redis servers."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from helios.engines.valkey.connection import Connection, Endpoint, connect
from helios.engines.valkey.engine import ValkeyEngine
from helios.model.ids import Address
from helios.model.topology import Member

Credentials: TypeAlias = Callable[[Member], Awaitable[tuple[str, str] | None]]


async def no_credentials(_member: Member) -> tuple[str, str] | None:
    """For servers without users: everyone is the default user."""
    return None


class ValkeyConnector:
    """Opens connections; `credentials` gives the administrator of a member, None where the default user will do.

    `tls` makes what servers that speak TLS are known by.

    A connection that ended with commands unanswered may leave them in the buffers of a stalled server, to run
    late and overwrite what was written since. So opening again as the same user first ends it at the server.
    """

    def __init__(
        self,
        credentials: Credentials = no_credentials,
        *,
        connect_timeout_s: float = 2.0,
        timeout_s: float = 10.0,
        tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
    ) -> None:
        self._credentials = credentials
        self._tls = tls
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._opened: dict[tuple[Address, str | None], list[Connection]] = {}

    async def open(self, member: Member, *, user: str | None = None, password: str | None = None) -> ValkeyEngine:
        """Connect to a member; without a user, as its administrator (external: as its default user).

        Nothing that earlier engines of this connector left unanswered there as the same user runs after this
        returns. Raises EngineUnreachable or EngineDenied, naming the member and its address.
        """
        endpoint = await self.endpoint(member, user=user, password=password)
        user = endpoint.user
        connection = await connect(endpoint, timeout_s=self._connect_timeout_s)
        opened = self._opened.setdefault((member.address, user), [])
        try:
            for former in [former for former in opened if former.lost]:
                if former.unanswered:
                    await self._end(former, by=connection)
                if former in opened:  # another open may have been quicker
                    opened.remove(former)
        except BaseException:
            await connection.close()
            raise
        opened.append(connection)
        return ValkeyEngine(connection, connect_timeout_s=self._connect_timeout_s, timeout_s=self._timeout_s)

    async def endpoint(self, member: Member, *, user: str | None = None, password: str | None = None) -> Endpoint:
        """Where a connection to a member leads, and as whom: without a user, its administrator."""
        if user is None and (administrator := await self._credentials(member)) is not None:
            user, password = administrator
        return Endpoint(member.id, member.address, user, password, self._tls)

    async def _end(self, former: Connection, *, by: Connection) -> None:
        # The id may have been given again if the server was restarted: the user's name keeps strangers out of this.
        user = former.endpoint.user or "default"
        await by.execute("CLIENT", "KILL", "ID", former.client_id, "USER", user, timeout_s=self._timeout_s)
