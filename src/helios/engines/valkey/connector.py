"""Opens engines on Valkey and Redis servers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from helios.engines.valkey.connection import Endpoint, connect
from helios.engines.valkey.engine import ValkeyEngine
from helios.model.topology import Member

Credentials: TypeAlias = Callable[[Member], Awaitable[tuple[str, str] | None]]


async def no_credentials(_member: Member) -> tuple[str, str] | None:
    """For servers without users: everyone is the default user."""
    return None


class ValkeyConnector:
    """Opens connections; `credentials` gives the administrator of a member, None where the default user will do."""

    def __init__(
        self, credentials: Credentials = no_credentials, *, connect_timeout_s: float = 2.0, timeout_s: float = 10.0
    ) -> None:
        self._credentials = credentials
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s

    async def open(self, member: Member, *, user: str | None = None, password: str | None = None) -> ValkeyEngine:
        """Connect to a member; without a user, as its administrator (external: as its default user).

        Raises EngineUnreachable or EngineDenied, naming the member and its address, within `connect_timeout_s`.
        """
        if user is None and (administrator := await self._credentials(member)) is not None:
            user, password = administrator
        endpoint = Endpoint(member.id, member.address, user, password)
        connection = await connect(endpoint, timeout_s=self._connect_timeout_s)
        return ValkeyEngine(connection, connect_timeout_s=self._connect_timeout_s, timeout_s=self._timeout_s)
