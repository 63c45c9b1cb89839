"""TCP ports on this machine: whether one is free, and one that is."""

from __future__ import annotations

import errno
import random
import socket
from pathlib import Path

from helios.errors import StartError
from helios.model.ids import Address

MEMBER_PORT_OFFSET = 10000
_OUTGOING = Path("/proc/sys/net/ipv4/ip_local_port_range")
_PRIVILEGED = 1023
_LAST = 65535
_TRIES = 500
_UNCHOSEN = range(20_000, 22_000)  # those that people choose lie below


def resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    """The local addresses behind `host`; raises StartError if it names none."""
    # Text goes through the codec for international names, whose tables would stay in memory.
    name = host.encode() if host.isascii() else host
    try:
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise StartError(f"{host!r} is not an address of this machine: {error.strerror or error}") from error
    unique = {(family, (str(address[0]), int(address[1]))) for family, _, _, _, address in found}
    return sorted(unique)


def one_address(host: str) -> str:
    """The first local address behind `host`, for what listens on one; raises StartError if it names none."""
    return host if is_wildcard(host) else resolve(host, 0)[0][1][0]


def is_wildcard(host: str) -> bool:
    """Whether `host` stands for every address of this machine."""
    return host in ("0.0.0.0", "::")


def taken(host: str, port: int) -> str | None:
    """None if a server could listen there now, else the reason why not."""
    usable = 0
    for family, address in resolve(host, port):
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            # Connections of an earlier server that are still winding down do not make a port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind(address)
                usable += 1
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    return _why_not(error, host, port)
    return None if usable else f"{host} is not an address of this machine"


def _why_not(error: OSError, host: str, port: int) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is taken by another process"
    if error.errno == errno.EACCES:
        return f"port {port} on {host} needs more rights than this user has"
    return f"cannot listen on {host}:{port}: {error.strerror}"


def free_ports(count: int) -> int:
    """The first of `count` adjoining loopback ports that nobody listens on now, nor 10000 above, where servers go.

    They lie below those that the system gives to outgoing connections, which could take one meanwhile.
    """
    while True:
        first = random.choice(_UNCHOSEN)
        if unused_ports(first, count):
            return first


def unused_ports(first: int, count: int) -> bool:
    """Whether nobody listens on `count` adjoining loopback ports now, nor 10000 above."""
    ports = [first + offset + n for n in range(count) for offset in (0, MEMBER_PORT_OFFSET)]
    return not any(taken("127.0.0.1", port) for port in ports)


class Reservation:
    """Keeps a port from everybody but routers of this user, which share it (SO_REUSEPORT). It takes no connections.

    So nobody, be it an outgoing connection, takes the port between the check and the start, or while a
    router is started again. Raises StartError.
    """

    def __init__(self, address: Address) -> None:
        self._sockets: list[socket.socket] = []
        for family, where in resolve(address.host, address.port):
            try:
                self._sockets.append(_bound(family, where))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    self.release()
                    raise StartError(_why_not(error, address.host, address.port)) from error

    def release(self) -> None:
        """Let go of the port."""
        for holder in self._sockets:
            holder.close()
        self._sockets.clear()


def _bound(family: socket.AddressFamily, where: tuple[str, int]) -> socket.socket:
    # With SO_REUSEADDR a bound port could be bound by others with it, as long as nobody listens. So it is
    # used only where the remains of an earlier server's connections leave no other way.
    for options in ((socket.SO_REUSEPORT,), (socket.SO_REUSEPORT, socket.SO_REUSEADDR)):
        holder = socket.socket(family, socket.SOCK_STREAM)
        for option in options:
            holder.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            holder.bind(where)
            return holder
        except OSError as error:
            holder.close()
            if error.errno != errno.EADDRINUSE or socket.SO_REUSEADDR in options:
                raise
    raise AssertionError("the last attempt returns or raises")


def outgoing_ports() -> range:
    """The ports that the system gives to outgoing connections, of which any may be taken at any moment."""
    try:
        first, last = map(int, _OUTGOING.read_text(encoding="ascii").split())
    except (OSError, ValueError):
        return range(MEMBER_PORT_OFFSET, MEMBER_PORT_OFFSET)
    return range(first, last + 1)


def choose_member_port(host: str, wished: int = 0) -> int:
    """A free port for a data server: the wished one, or the same place below the node's, or any other.

    Where there is a choice it is none that an outgoing connection could take before the server listens there, or while
    it is started again.
    """
    outgoing = outgoing_ports()
    near = [wished, wished - 2 * MEMBER_PORT_OFFSET]
    # Above those of the system first: below them lie those that people choose.
    places = range(outgoing.stop, _LAST + 1), range(MEMBER_PORT_OFFSET, outgoing.start)
    far = [random.choice(place) for place in places if place for _ in range(_TRIES)]
    for port in [*near, *far]:
        if _PRIVILEGED < port <= _LAST and port not in outgoing and taken(host, port) is None:
            return port
    with socket.socket(resolve(host, 0)[0][0], socket.SOCK_STREAM) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def inward_host(bind: str) -> str:
    """The host by which a process of this machine reaches what is bound to `bind`."""
    if not is_wildcard(bind):
        return bind
    return "::1" if ":" in bind else "127.0.0.1"


def outward_host(bind: str) -> str:
    """The host by which others reach what is bound to `bind`; for a wildcard, the address that leads outward."""
    if not is_wildcard(bind):
        return bind
    family, far = (socket.AF_INET6, "2001:db8::1") if ":" in bind else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((far, 9))  # sends nothing: it only asks which way the route leads
        except OSError:
            return "localhost"
        return str(probe.getsockname()[0])
