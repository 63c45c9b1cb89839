"""Who a connection is: before it says so, after a login, and when the users change under it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from helios.access.logins import Logins
from helios.access.rights import Nobody, Rights
from helios.errors import WrongPassword
from helios.model.users import DEFAULT_USER, ReadFrom, Role, User

logger = logging.getLogger(__name__)
NO_USERS = (
    "other machines can reach this port and no users are configured: nothing is served here until "
    "security.users has some"
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is. `rights` is None for who may do everything, `user` where nobody has logged in."""

    name: str
    user: User | None
    rights: Rights | None

    @property
    def reads_replicas(self) -> bool:
        """Whether replicas may answer what it reads, unless it says otherwise."""
        return self.user is not None and self.user.read_from is ReadFrom.REPLICA


OWNER: Final = Identity(DEFAULT_USER, None, None)
"""Whoever connects if there are no users; Helios itself."""


class Authenticator:
    """The current users. Owned by one event loop.

    Without users everybody may do everything, except where other machines can connect (`exposed`): there nobody may
    do anything, and a `default` user without a password lets nobody in.
    """

    def __init__(self, *, exposed: bool = False, logins: Logins | None = None) -> None:
        self.users: Mapping[str, User] = {}
        self.logins = logins or Logins()
        self._exposed = exposed
        self._listeners: list[Callable[[], None]] = []

    @property
    def guarded(self) -> bool:
        """Whether one has to be somebody to do anything."""
        return bool(self.users) or self._exposed

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` whenever the users have changed."""
        self._listeners.append(listener)

    def apply(self, users: Iterable[User]) -> None:
        """These are the users from now on."""
        self.users = {user.name: user for user in users}
        self.logins.forget(set(self.users))
        for listener in self._listeners:
            listener()

    def knows(self, name: str) -> bool:
        """Whether a connection can be this user."""
        return name == DEFAULT_USER or name in self.users

    def newcomer(self) -> Identity:
        """Who a connection is that has not logged in."""
        if not self.guarded:
            return OWNER
        default = self.users.get(DEFAULT_USER)
        if default is not None and not default.password_hash and not self._exposed:
            return _identity(default)
        return Identity(DEFAULT_USER, None, Nobody() if self.users else Nobody(NO_USERS))

    def still(self, identity: Identity) -> Identity | None:
        """Who somebody is by the current users; None where the connection must end, because it could do more before."""
        if identity.user is None:
            now = self.newcomer()
            return None if identity.rights is None and now.rights is not None else now
        user = self.users.get(identity.user.name)
        if user is None:
            return None if self.guarded else OWNER
        return _identity(user) if user.still_may(identity.user) else None

    async def login(self, name: str, password: bytes, source: str, *, first: bool = False) -> Identity:
        """Who it is. `source` is the address that an attempt comes from; `first` where the connection's first one.

        Without users the default user takes any password, as a server's does that has none.
        Raises WrongPassword, or Unavailable where too many logins are being checked.
        """
        if not self.guarded and name == DEFAULT_USER:
            return OWNER
        user = self.users.get(name)
        if user is not None and not user.password_hash and not self._exposed:
            return _identity(user)
        stored = user.password_hash if user is not None and user.password_hash else None
        right = await self.logins.right(name, password, stored, source, first=first)
        if not right or user is None or self.users.get(name) != user:
            logger.warning("login refused: user=%s from=%s", name if user is not None else "(unknown)", source)
            raise WrongPassword("invalid username-password pair or user is disabled.")
        return _identity(user)


def _identity(user: User) -> Identity:
    return Identity(user.name, user, None if user.role is Role.ADMIN else Rights(user))
