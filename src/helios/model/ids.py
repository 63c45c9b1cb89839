"""Ids and addresses: what may be written where a node, shard or server is named."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from helios.errors import InvalidInput

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")

_TLS = "rediss"
_SCHEMES = ("redis", _TLS)


def check_id(what: str, value: str) -> str:
    """`value` itself if it can name a `what` ("node", "migration"): 1 to 64 letters, digits, `.`, `_` or `-`.

    Raises InvalidInput. An id starts with a letter or digit and never contains `#`, which separates
    a shard from the number of its point on the ring.
    """
    if not _ID.match(value):
        raise InvalidInput(
            f"{value!r} cannot be the id of a {what}: use 1 to 64 letters, digits, '.', '_' or '-', "
            "beginning with a letter or digit"
        )
    return value


def founder_id(node_id: str) -> str:
    """The id of the member that a node founds its shard with."""
    return f"{node_id}.0"


def replica_id(shard_id: str, node_id: str) -> str:
    """The id of the member that a node carries of a shard which another node has founded."""
    return f"{shard_id}@{node_id}"


def is_replica(member_id: str) -> bool:
    """Whether the node of this member has not founded its shard."""
    return "@" in member_id


def shard_of_replica(member_id: str) -> str:
    """The shard of such a member."""
    return member_id.partition("@")[0]


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a server listens. Written `host:port`; an IPv6 host is written in brackets.

    That of a data server which speaks TLS is written `rediss://host:port`, as clients write it.
    """

    host: str
    port: int
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> Address:
        """The address that `text` names; raises InvalidInput with what is wrong."""
        host, colon, port_text = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise InvalidInput(f"{text!r} is not an address: write an IPv6 host in brackets, as in [::1]:6379")
        if not colon or not host or any(c.isspace() for c in host):
            raise InvalidInput(f"{text!r} is not an address: write host:port, as in localhost:6379")
        if not port_text.isascii() or not port_text.isdigit() or not 1 <= int(port_text) <= 65535:
            raise InvalidInput(f"{text!r} is not an address: the port must be a number from 1 to 65535")
        return cls(host, int(port_text))

    @classmethod
    def of_server(cls, text: str) -> Address:
        """The address of a data server: `host:port`, `redis://host:port` or, with TLS, `rediss://host:port`."""
        scheme, separator, place = text.partition("://")
        if not separator:
            return cls.parse(text)
        if scheme not in _SCHEMES:
            raise InvalidInput(
                f"{text!r} is not the address of a server: write host:port, or rediss://host:port for TLS"
            )
        return replace(cls.parse(place.removesuffix("/")), tls=scheme == _TLS)

    def __str__(self) -> str:
        place = f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
        return f"{_TLS}://{place}" if self.tls else place
