"""Error replies of a node as the errors that they stand for."""

from __future__ import annotations

from helios import errors
from helios.client.connection import CommandRefused
from helios.errors import HeliosError

_CLASSES: dict[str, type[HeliosError]] = {
    kind.code: kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HeliosError) and kind is not HeliosError
}
# What routers answer when a part does not serve at the moment.
_CLASSES |= dict.fromkeys(("CLUSTERDOWN", "TRYAGAIN", "NOREPLICAS", "OVERLOADED", "LOADING"), errors.Unavailable)


def error_of(reply: str) -> HeliosError:
    """The error that a reply stands for by its first word; CommandRefused, with that word as code, for any other."""
    code, _, sentence = reply.partition(" ")
    kind = _CLASSES.get(code)
    return CommandRefused(reply) if kind is None else kind(sentence)


def knows_no_wait(refused: CommandRefused) -> bool:
    """Whether a node of the release before was asked to wait, which it cannot: it tells how a change stands."""
    return "wrong number of arguments" in str(refused)
