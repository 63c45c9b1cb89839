"""Where the processes of a cluster listen for each other: on this machine alone, or for its other hosts, too."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass

from helios.model.ids import Address
from helios.node.ports import is_wildcard, one_address, outward_host
from helios.ports.location import StoreLocation

_LOOK_S = 0.5


@dataclass(frozen=True, slots=True)
class Reach:
    """The host to listen on, and the host by which the cluster's other processes reach that."""

    host: str = "127.0.0.1"
    by: str = "127.0.0.1"


def reach(location: StoreLocation, listen: Address, advertise: Address | None = None) -> Reach:
    """How processes of the store at `location` reach what belongs to a process that takes clients at `listen`.

    Those of one machine need no other way than its loopback. Raises StartError where `listen` is not of this machine.
    """
    if not location.spans_hosts:
        return Reach()
    return Reach(one_address(listen.host), advertised(listen, advertise).host)


def advertised(listen: Address, advertise: Address | None) -> Address:
    """The address that others are told of what listens at `listen`."""
    if advertise is not None:
        return advertise
    return Address(outward_host(listen.host), listen.port) if is_wildcard(listen.host) else listen


async def once_resolved(host: str, tell: Callable[[str], None]) -> None:
    """Return when the system can tell whether it knows `host`, which it may not yet while it boots."""
    loop = asyncio.get_running_loop()
    told = False
    while True:
        try:
            await loop.getaddrinfo(host, 0, type=socket.SOCK_STREAM)
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN:
                return  # whoever listens there says what is wrong
            if not told:
                tell(f"waiting for the name {host} to be resolved: {error.strerror}")
            told = True
            await asyncio.sleep(_LOOK_S)
        else:
            return
