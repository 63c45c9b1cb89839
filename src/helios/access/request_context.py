"""Who the present request comes from: what is remembered of it, and what it may do and see beyond its command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from helios.access.authenticator import OWNER, Identity
from helios.access.rights import HIDDEN, Need
from helios.errors import NotPermitted

_requester: ContextVar[Identity] = ContextVar("requester", default=OWNER)


def requester() -> str:
    """The name of the user; empty where nobody has logged in, and for what Helios does by itself."""
    user = _requester.get().user
    return "" if user is None else user.name


def may(need: Need) -> bool:
    """Whether who asks has this right, for all keys."""
    rights = _requester.get().rights
    return rights is None or (rights.has(need) and rights.sees_all)


def visible(key: str) -> str:
    """The name of a key as who asks may see it."""
    return key if may(Need.READ) else HIDDEN


def demand(need: Need, what: str) -> None:
    """Raise NotPermitted, naming the user and `what` it asked for, unless it has this right."""
    if not may(need):
        identity = _requester.get()
        role = "" if identity.user is None else f" with the role {identity.user.role}"
        raise NotPermitted(f"user {identity.name!r}{role} may not {what}")


@contextmanager
def asked_by(identity: Identity) -> Iterator[None]:
    """Within the block, and in what is awaited there, requests are this user's."""
    token = _requester.set(identity)
    try:
        yield
    finally:
        _requester.reset(token)


def noted(what: str, place: str) -> str:
    """Who asks in words: the user, where the request came from, and by which verb or interface."""
    return f"{requester() or 'somebody'} at {place} ({what})"
