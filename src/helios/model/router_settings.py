"""The settings of routers."""

from __future__ import annotations

from helios.model.section import (
    Bytes,
    Seconds,
    Section,
    setting,
)


class RouterSettings(Section):
    """The processes that forward clients' commands to the data servers."""

    workers: int = setting(
        default=1,
        ge=1,
        le=64,
        description="Router processes per node; they share its port",
        restart="the processes run already",
        unit="processes",
    )
    hold_timeout: Seconds = setting(
        default=5.0,
        ge=0.05,
        le=300,
        description="How long a command waits for a key that changes servers before it fails without being executed",
        unit="duration",
    )
    session_ttl: Seconds = setting(
        default=10.0,
        ge=1,
        le=60,
        description="How long a router may serve after its last lease renewal, if the store is away",
        restart="the routers' leases were granted for that long",
        unit="duration",
    )
    server_timeout: Seconds = setting(
        default=10.0,
        ge=0.1,
        le=3600,
        description="How long a data server may stay silent before commands to it fail with an unknown outcome",
        unit="duration",
    )
    script_time_limit: Seconds = setting(
        default=5.0,
        ge=0,
        le=86400,
        description="How long a script or function may block a data server before Helios ends it, unless it has "
        "written; servers report one only after 5 s; 0 means for ever",
        unit="duration",
    )
    max_frame: Bytes = setting(
        default=512 << 20,
        ge=64 << 10,
        le=1 << 30,
        description="Largest command or argument that a router accepts from a client; holds for new connections",
        unit="size",
    )
    max_arguments: int = setting(
        default=1 << 20,
        ge=1024,
        le=16 << 20,
        description="Arguments that one command of a client may have",
        unit="arguments",
    )
    max_reply: Bytes = setting(
        default=1 << 30,
        ge=1 << 20,
        le=64 << 30,
        description="Largest reply of a data server that is forwarded; a bigger one becomes an error; "
        "holds for new connections to servers",
        unit="size",
    )
    max_clients: int = setting(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Client connections that a router process accepts; the system's file limit may allow fewer",
        unit="clients",
    )
    reserved_clients: int = setting(
        default=16,
        ge=0,
        le=1000,
        description="Connections beyond max_clients for administrators, if the cluster has users",
        unit="clients",
    )
    max_clients_per_user: int = setting(
        default=0,
        ge=0,
        le=1_000_000,
        description="Connections of one user, but for administrators, that a router process takes; "
        "0: as many as of all",
        unit="clients",
    )
    max_clients_per_address: int = setting(
        default=0,
        ge=0,
        le=1_000_000,
        description="Connections from one IP address that a router process takes; 0: as many as of all",
        unit="clients",
    )
    client_memory: Bytes = setting(
        default=1 << 30,
        ge=1 << 20,
        le=64 << 30,
        description="Memory for a client's unread replies and pending commands; a client beyond it is disconnected",
        unit="size",
    )
    clients_memory: Bytes = setting(
        default=2 << 30,
        ge=1 << 20,
        le=1 << 40,
        description="The same for all clients of a router process together; beyond it, the largest are disconnected",
        unit="size",
    )
    transaction_commands: int = setting(
        default=65_536,
        ge=1,
        le=16 << 20,
        description="Commands that a client may queue between MULTI and EXEC",
        unit="commands",
    )
    transaction_memory: Bytes = setting(
        default=64 << 20,
        ge=64 << 10,
        le=1 << 30,
        description="Memory for commands that a client queues in MULTI, and the same again for keys that it watches",
        unit="size",
    )
    max_lines: int = setting(
        default=1000,
        ge=1,
        le=1_000_000,
        description="Clients of a router process that may block or watch keys at one data server at the same time",
        unit="clients",
    )
    client_idle_timeout: Seconds = setting(
        default=0.0,
        ge=0,
        le=30 * 86400,
        description="How long a client may send nothing before it is disconnected; 0 means for ever",
        unit="duration",
    )
    client_command_timeout: Seconds = setting(
        default=300.0,
        ge=0,
        le=86400,
        description="How long a client may pause within a command, or before its first one; 0 means for ever",
        unit="duration",
    )
    tcp_keepalive: Seconds = setting(
        default=300.0,
        ge=0,
        le=86400,
        description="How long a connection may be silent before TCP keep-alive probes its client; 0 means never",
        unit="duration",
    )
    slowlog_threshold: Seconds = setting(
        default=0.01,
        ge=0,
        le=3600,
        description="Commands that take this long or longer go into the slow log; 0 means none",
        unit="duration",
    )
    slowlog_length: int = setting(
        default=128,
        ge=0,
        le=100_000,
        description="Commands that a router process keeps in its slow log",
        unit="commands",
    )
