"""The settings of routers."""

from __future__ import annotations

from pydantic import Field

from helios.model.section import (
    Bytes,
    Seconds,
    Section,
    restart,
    unit,
)


class RouterSettings(Section):
    """The processes that forward clients' commands to the data servers."""

    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Router processes per node; they share its port",
        json_schema_extra=restart("the processes run already", "processes"),
    )
    hold_timeout: Seconds = Field(
        default=5.0,
        ge=0.05,
        le=300,
        description="How long a command waits for a key that changes servers before it fails without being executed",
        json_schema_extra=unit("duration"),
    )
    session_ttl: Seconds = Field(
        default=10.0,
        ge=1,
        le=60,
        description="How long a router may serve after its last lease renewal, if the store is away",
        json_schema_extra=restart("the routers' leases were granted for that long", "duration"),
    )
    server_timeout: Seconds = Field(
        default=10.0,
        ge=0.1,
        le=3600,
        description="How long a data server may stay silent before commands to it fail with an unknown outcome",
        json_schema_extra=unit("duration"),
    )
    script_time_limit: Seconds = Field(
        default=5.0,
        ge=0,
        le=86400,
        description="How long a script or function may block a data server before Helios ends it, unless it has "
        "written; servers report one only after 5 s; 0 means for ever",
        json_schema_extra=unit("duration"),
    )
    max_frame: Bytes = Field(
        default=512 << 20,
        ge=64 << 10,
        le=1 << 30,
        description="Largest command or argument that a router accepts from a client; holds for new connections",
        json_schema_extra=unit("size"),
    )
    max_arguments: int = Field(
        default=1 << 20,
        ge=1024,
        le=16 << 20,
        description="Arguments that one command of a client may have",
        json_schema_extra=unit("arguments"),
    )
    max_reply: Bytes = Field(
        default=1 << 30,
        ge=1 << 20,
        le=64 << 30,
        description="Largest reply of a data server that is forwarded; a bigger one becomes an error; "
        "holds for new connections to servers",
        json_schema_extra=unit("size"),
    )
    max_clients: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Client connections that a router process accepts; the system's file limit may allow fewer",
        json_schema_extra=unit("clients"),
    )
    reserved_clients: int = Field(
        default=16,
        ge=0,
        le=1000,
        description="Connections beyond max_clients for administrators, if the cluster has users",
        json_schema_extra=unit("clients"),
    )
    max_clients_per_user: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Connections of one user, but for administrators, that a router process takes; "
        "0: as many as of all",
        json_schema_extra=unit("clients"),
    )
    max_clients_per_address: int = Field(
        default=0,
        ge=0,
        le=1_000_000,
        description="Connections from one IP address that a router process takes; 0: as many as of all",
        json_schema_extra=unit("clients"),
    )
    client_memory: Bytes = Field(
        default=1 << 30,
        ge=1 << 20,
        le=64 << 30,
        description="Memory for a client's unread replies and pending commands; a client beyond it is disconnected",
        json_schema_extra=unit("size"),
    )
    clients_memory: Bytes = Field(
        default=2 << 30,
        ge=1 << 20,
        le=1 << 40,
        description="The same for all clients of a router process together; beyond it, the largest are disconnected",
        json_schema_extra=unit("size"),
    )
    transaction_commands: int = Field(
        default=65_536,
        ge=1,
        le=16 << 20,
        description="Commands that a client may queue between MULTI and EXEC",
        json_schema_extra=unit("commands"),
    )
    transaction_memory: Bytes = Field(
        default=64 << 20,
        ge=64 << 10,
        le=1 << 30,
        description="Memory for commands that a client queues in MULTI, and the same again for keys that it watches",
        json_schema_extra=unit("size"),
    )
    max_lines: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        description="Clients of a router process that may block or watch keys at one data server at the same time",
        json_schema_extra=unit("clients"),
    )
    client_idle_timeout: Seconds = Field(
        default=0.0,
        ge=0,
        le=30 * 86400,
        description="How long a client may send nothing before it is disconnected; 0 means for ever",
        json_schema_extra=unit("duration"),
    )
    client_command_timeout: Seconds = Field(
        default=300.0,
        ge=0,
        le=86400,
        description="How long a client may pause within a command, or before its first one; 0 means for ever",
        json_schema_extra=unit("duration"),
    )
    tcp_keepalive: Seconds = Field(
        default=300.0,
        ge=0,
        le=86400,
        description="How long a connection may be silent before TCP keep-alive probes its client; 0 means never",
        json_schema_extra=unit("duration"),
    )
    slowlog_threshold: Seconds = Field(
        default=0.01,
        ge=0,
        le=3600,
        description="Commands that take this long or longer go into the slow log; 0 means none",
        json_schema_extra=unit("duration"),
    )
    slowlog_length: int = Field(
        default=128,
        ge=0,
        le=100_000,
        description="Commands that a router process keeps in its slow log",
        json_schema_extra=unit("commands"),
    )
