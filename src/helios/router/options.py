"""What a router can be told: times and limits."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

from helios.resp.wire import Limits
from helios.router._fast_path import PARKS_READS, PARKS_WRITES


@dataclass(frozen=True, slots=True)
class RouterOptions:
    """Times in seconds, sizes in bytes. `node` is the id of the node whose address clients call."""

    node: str = ""
    version: str = "0"
    session_ttl_s: float = 10.0
    # A session ends for its router this much before the store lets it go, for what is between look and deed.
    session_margin_s: float = 0.3
    watches_scripts: bool = True  # whether it looks for scripts that write keys of other shards
    inspected: bool = True  # whether it listens at a second address for those who ask how it fares
    inspected_host: str = "127.0.0.1"  # where it listens for them
    inspected_at: str = "127.0.0.1"  # the host by which they reach that
    start_timeout_s: float = 15.0
    hold_timeout_s: float = 5.0
    hand_over_timeout_s: float = 2.0  # of a router that stops: for clients to go to another node
    login_timeout_s: float = 10.0  # of a connection that must log in
    handshake_timeout_s: float = 10.0  # of a client that speaks TLS
    server_tls: Callable[[], ssl.SSLContext] = ssl.create_default_context  # by which servers that speak TLS are known
    connect_timeout_s: float = 1.0
    # A server that has commands and answers none of them for so long counts as dead.
    member_timeout_s: float = 10.0
    # Of a shard with several members: what a majority of these has to have before it is told, and how long that waits.
    quorum: bool = True  # writes
    quorum_by_key: tuple[tuple[str, bool], ...] = ()  # writes to keys that match a pattern, the first that does
    linearizable: bool = False  # writes and reads
    ack_timeout_s: float = 1.0
    max_staleness_s: float = 1.0  # of what a replica answers to clients that let it
    # Of commands under way when a shard is to get another leader; then they are told as unknown.
    leader_grace_s: float = 0.3
    min_backoff_s: float = 0.05
    max_backoff_s: float = 1.0
    member_commands: int = 131_072  # sent to one server and unanswered
    member_bytes: int = 128 * 1024 * 1024
    reply_bytes: int = 1 << 30  # of a server; a bigger one is dropped, and an error stands for it
    dedicated: int = 1000  # connections to one server that a client has for itself, in use at a time
    idle_dedicated: int = 16  # of them, kept for the next client, for one server and RESP version
    transaction_commands: int = 65_536
    transaction_bytes: int = 64 * 1024 * 1024  # of its queued commands, or of the keys that it watches
    worker: int = 0  # which of the node's router processes it is
    clients: int = 10_000
    reserved_clients: int = 16  # beyond these, for administrators
    clients_of_user: int = 0  # who is no administrator; 0: no limit but that of all
    clients_of_host: int = 0  # that have one address; 0: no limit but that of all
    client_commands: int = 1024  # of one client, unanswered; beyond them it is not read
    client_bytes: int = 1024 * 1024 * 1024  # owed to one client or sent by it and not run; then it is disconnected
    clients_bytes: int = 2 * 1024 * 1024 * 1024  # the same of all; then those with the most are disconnected
    idle_timeout_s: float = 0.0  # of a client that sends nothing; 0: none
    command_timeout_s: float = 300.0  # of a client that does not go on with a command, or its first one; 0: none
    keepalive_s: float = 300.0  # 0: none
    turn_s: float = 0.005  # for which the commands of all clients, and then their replies, keep the loop; 0: no limit
    slow_s: float = 0.01  # commands that take so long stand in the slow log; 0: none
    slow_entries: int = 128
    limits: Limits = field(default_factory=Limits)

    @property
    def parks(self) -> int:
        """Whose replies wait for a majority, of a shard with several members."""
        if self.linearizable:
            return PARKS_READS | PARKS_WRITES
        return PARKS_WRITES * (self.quorum or any(quorum for _, quorum in self.quorum_by_key))
