"""Replies of a kind that a command never has become EngineErrors, whoever reads them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, Protocol, TypeVar

from helios.engines.valkey.connection import Connection
from helios.errors import EngineError
from helios.resp.odd import ODD_REPLY

Owner = TypeVar("Owner")


class Connected(Protocol):
    """What talks to one server."""

    @property
    def connection(self) -> Connection:
        """The connection on which it does."""


def understood(owner: type[Owner]) -> type[Owner]:
    """Let its methods raise an EngineError, naming the server, where replies are of another kind than they read."""
    for name, method in list(vars(owner).items()):
        if iscoroutinefunction(method) and not name.startswith("_"):
            setattr(owner, name, _guarded(method))
    return owner


def _guarded(method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    @wraps(method)
    async def guarded(self: Connected, *args: Any, **kwargs: Any) -> Any:
        try:
            return await method(self, *args, **kwargs)
        except ODD_REPLY as error:
            raise EngineError(
                f"{self.connection.endpoint} answered with what Helios does not understand "
                f"({method.__name__}: {error!r:.100})"
            ) from error

    return guarded
