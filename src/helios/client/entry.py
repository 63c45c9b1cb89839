"""What a connection begins with: TLS, if it is wanted, and who one is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from helios.errors import HeliosError, InvalidInput, NotAuthenticated, Unavailable, WrongPassword

if TYPE_CHECKING:
    from ssl import SSLContext


@dataclass(frozen=True, slots=True)
class Entry:
    """How to be let in. `password` alone is that of the user `default`.

    With `tls`, the node's certificate is compared with the CAs in the PEM file `cacert` (or the system's), unless
    `insecure` says to take any; `cert` and `key` are one's own, for nodes that ask for one.
    """

    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False
    cacert: str = ""
    insecure: bool = False
    cert: str = ""
    key: str = ""

    def greeting(self) -> tuple[bytes, ...]:
        """The first command of a connection."""
        if not self.user and not self.password:
            return (b"HELLO", b"3")
        return (b"HELLO", b"3", b"AUTH", (self.user or "default").encode(), self.password.encode())

    def context(self) -> SSLContext | None:
        """What the standard library needs for TLS; None without it. Raises InvalidInput naming a file of no use."""
        if not self.tls:
            return None
        import ssl  # only here: a call of the command line is shorter without it

        name = self.cacert
        try:
            context = ssl.create_default_context(cafile=self.cacert or None)
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.cert:
                name = self.cert
                context.load_cert_chain(self.cert, self.key or None)
        except OSError as error:
            raise InvalidInput(f"{name} cannot be used for TLS: {error.strerror or error}") from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context


# How Valkey and Redis begin their answer to a HELLO before a login; nodes of Helios have other words.
_SERVERS_OWN = "HELLO must be called with the client already authenticated"


def refused(address: str, greeting: str) -> HeliosError:
    """The error for a greeting that was answered with one."""
    code, _, text = greeting.partition(" ")
    if code == NotAuthenticated.code and text.startswith(_SERVERS_OWN):
        return NotAuthenticated(
            f"{address} is a data server that needs a login, not a node of Helios: give the port at which a node "
            "listens to clients (helios-cli --port), or say who you are there (--user NAME)"
        )
    if code == NotAuthenticated.code:
        return NotAuthenticated(f"{address} lets in its users only: say who you are (helios-cli --user NAME)")
    if code == WrongPassword.code:
        return WrongPassword(f"{address} knows no such user with that password ({text})")
    return Unavailable(f"{address} does not take part: {greeting}")


def not_secured(address: str, error: Exception) -> Unavailable:
    """The error for a connection whose TLS did not come about."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        why = f"shows a certificate that is not trusted ({error.verify_message}): name its CA by --cacert"
    else:
        why = f"cannot be spoken to by TLS ({getattr(error, 'reason', None) or error}): is that a port with TLS?"
    return Unavailable(f"{address} {why}")
