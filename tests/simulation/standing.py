"""What servers that follow each other answer to routers: who they are, who has how much, and what they refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

from helios.ports.engine import Replication
from helios.resp.encoding import array, bulk, error_reply, integer

if TYPE_CHECKING:
    from tests.simulation.servers import SimServer

STOOD_DOWN = error_reply(
    "UNBLOCKED force unblock from blocking operation, instance state changed (primary -> replica?)"
)
_READ_ONLY = "READONLY You can't write against a read only replica."
_LINK_DOWN = "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'."
_NO_WRITES = frozenset(
    (b"GET", b"EXISTS", b"LRANGE", b"XINFO", b"MGET", b"SCAN", b"KEYS", b"DBSIZE", b"WATCH", b"WAIT", b"PING")
)
_ALWAYS = frozenset((b"INFO", b"CLIENT", b"ROLE", b"SPUBLISH", b"MULTI", b"EXEC", b"DISCARD", b"UNWATCH", b"SCRIPT"))


def refusal(server: SimServer, name: bytes) -> str:
    """Why a server that does not lead refuses a command; empty where it does not."""
    if server.replication.leads or name in _ALWAYS:
        return ""
    if name not in _NO_WRITES:
        return _READ_ONLY
    return "" if server.replication.in_sync else _LINK_DOWN


def role(said: Replication) -> bytes:
    """The reply to ROLE."""
    if said.leads:
        followers = [
            array([bulk(one.address.host.encode()), bulk(b"%d" % one.address.port), bulk(b"%d" % one.offset)])
            for one in said.followers
            if one.online
        ]
        return array([bulk(b"master"), integer(said.offset), array(followers)])
    host, port = (b"127.0.0.1", 1) if said.leader is None else (said.leader.host.encode(), said.leader.port)
    state = b"connected" if said.in_sync else b"connect"
    return array([bulk(b"slave"), bulk(host), integer(port), bulk(state), integer(said.offset)])


def info(said: Replication) -> bytes:
    """The section of INFO. A leader that nobody has followed has a replication id that nobody knows."""
    lines = [f"role:{'master' if said.leads else 'slave'}", f"master_replid:{said.history or '0' * 40}"]
    lines += [
        f"slave{number}:ip={one.address.host},port={one.address.port},state=online,offset={one.offset},lag=0"
        for number, one in enumerate(said.followers)
    ]
    return "".join(f"{line}\r\n" for line in lines).encode()
