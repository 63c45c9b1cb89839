"""What a router can be told: times and limits."""

from __future__ import annotations

from dataclasses import dataclass, field

from helios.resp.wire import Limits


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
    start_timeout_s: float = 15.0
    hold_timeout_s: float = 5.0
    login_timeout_s: float = 10.0  # of a connection that must log in
    handshake_timeout_s: float = 10.0  # of a client that speaks TLS
    connect_timeout_s: float = 1.0
    # A server that has commands and answers none of them for so long counts as dead.
    member_timeout_s: float = 10.0
    min_backoff_s: float = 0.05
    max_backoff_s: float = 1.0
    member_commands: int = 131_072  # sent to one server and unanswered
    member_bytes: int = 128 * 1024 * 1024
    reply_bytes: int = 1 << 30  # of a server; a bigger one is dropped, and an error stands for it
    dedicated: int = 1000  # connections to one server that a client has for itself, in use at a time
    idle_lines: int = 16  # of them, kept for the next client, for one server and RESP version
    transaction_commands: int = 65_536
    transaction_bytes: int = 64 * 1024 * 1024  # of its queued commands, or of the keys that it watches
    worker: int = 0  # which of the node's router processes it is
    clients: int = 10_000
    reserved_clients: int = 16  # beyond these, for administrators
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
