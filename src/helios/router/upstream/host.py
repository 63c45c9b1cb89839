"""What connections to data servers need of the router around them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from helios.router.frontend.caller import Waiter
from helios.router.stats.big_keys import BigKeys
from helios.router.stats.hot_keys import HotKeys
from helios.router.upstream.connection import Identities
from helios.router.upstream.heavy import HeavyCommands
from helios.router.upstream.opening import Opening

if TYPE_CHECKING:
    from helios.router.upstream.link import ServerConnection


class ConnectionHost(Identities, Protocol):
    """What a link needs of the router around it."""

    hot_keys: HotKeys
    big_keys: BigKeys
    heavy: HeavyCommands
    opening: Opening

    def reroute(self, link: ServerConnection) -> None:
        """A big reply flows over a link: what is sent from now on should not wait behind it."""

    def learned(self, product: dict[bytes, bytes]) -> None:
        """What a member says of its version."""

    def slow(self, frame: bytes, waiter: Waiter, took_s: float) -> None:
        """A command has taken long."""
