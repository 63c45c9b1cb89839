"""Who the present request comes from, for what is remembered of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from helios.access.gate import Identity

_asking: ContextVar[str] = ContextVar("asking", default="")


def asking() -> str:
    """The name of the user; empty where nobody has logged in, and for what Helios does by itself."""
    return _asking.get()


@contextmanager
def asked_by(identity: Identity) -> Iterator[None]:
    """Within the block, and in what is awaited there, requests are this user's."""
    token = _asking.set("" if identity.user is None else identity.user.name)
    try:
        yield
    finally:
        _asking.reset(token)


def noted(what: str, place: str) -> str:
    """A request in words, with its user and where it came from."""
    user = asking()
    return f"{what} by {user} from {place}" if user else f"{what} from {place}"
