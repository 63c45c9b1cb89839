"""The groups of settings: what exists, its unit, its bounds, its default.

Durations are seconds and sizes are bytes once they are here, however they were written.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from helios.model.balancing import Measure, Strategy, parse_quiet_hours
from helios.model.ids import Address
from helios.model.notation import (
    parse_duration,
    parse_host,
    parse_listen,
    parse_size,
    parse_store_url,
    parse_user_list,
)
from helios.model.users import User

Seconds = Annotated[float, BeforeValidator(parse_duration), Field(allow_inf_nan=False)]
Bytes = Annotated[int, BeforeValidator(parse_size)]
Listen = Annotated[Address, BeforeValidator(parse_listen), PlainSerializer(str, return_type=str)]
StoreUrl = Annotated[str, BeforeValidator(parse_store_url)]
Host = Annotated[str, BeforeValidator(parse_host)]
Users = Annotated[tuple[User, ...], BeforeValidator(parse_user_list)]
Hours = Annotated[str, BeforeValidator(parse_quiet_hours)]


class AofFsync(StrEnum):
    """When a data server writes its log through to the disk."""

    EVERY = "every"
    INTERVAL = "interval"
    NO = "no"


class LogLevel(StrEnum):
    """The least important message that is still logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogFormat(StrEnum):
    """How a log line is written."""

    TEXT = "text"
    JSON = "json"


def _unit(unit: str) -> dict[str, Any]:
    return {"unit": unit}


def _restart(why: str, unit: str = "") -> dict[str, Any]:
    """A setting that a running process does not take up, and why; each process has its own."""
    return {"unit": unit, "restart": why}


def _fixed(why: str, unit: str = "") -> dict[str, Any]:
    """A setting that belongs to the cluster and that nothing can change once there is one, and why."""
    return {"unit": unit, "fixed": why}


class Section(BaseModel):
    """A group of settings; unknown names are refused and values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def shared(cls) -> tuple[str, ...]:
        """The names of the settings of this group that all processes of a cluster share."""
        extras = ((name, field.json_schema_extra) for name, field in cls.model_fields.items())
        return tuple(name for name, extra in extras if not (isinstance(extra, dict) and "restart" in extra))


class ShardingSettings(Section):
    """How keys are spread and moved. All processes of a cluster must agree on these."""

    enabled: bool = Field(
        default=True, description="Spread keys over all nodes; if false, every key goes to the first node by id"
    )
    virtual_nodes: int = Field(
        default=150,
        ge=1,
        le=10_000,
        description="Points on the ring for a node of weight 1; fixed once a cluster exists",
        json_schema_extra=_fixed("it decides where every key lies", "points"),
    )
    # More than one copy is accepted, so that a file can already say so, but has no effect before replication exists.
    replication_factor: int = Field(
        default=1,
        ge=1,
        le=7,
        description="Copies of each key, the leader's included; more than 1 is accepted but not effective yet",
        json_schema_extra=_unit("copies"),
    )
    migration_rate: int = Field(
        default=1000,
        ge=0,
        le=10_000_000,
        description="Keys a second that a move copies at most; 0 means no limit",
        json_schema_extra=_unit("keys/s"),
    )
    migration_bandwidth: Bytes = Field(
        default=0,
        ge=0,
        description="Bytes a second that a move copies at most; 0 means no limit",
        json_schema_extra=_unit("size"),
    )
    auto_rebalance: bool = Field(
        default=False,
        description="Give a new node its share at once; if false, it owns nothing until rebalance or migrate",
    )
    verify_moves: bool = Field(
        default=False,
        description="Compare every copied key with its source before a move switches, as `migrate --verify` does",
    )
    rebalance_interval: Seconds = Field(
        default=3600.0,
        ge=1,
        le=30 * 86400,
        description="With auto_rebalance: time between two looks at whether every node has its share",
        json_schema_extra=_unit("duration"),
    )
    rebalance_threshold: float = Field(
        default=0.3,
        ge=0.02,
        le=10,
        allow_inf_nan=False,
        description="How far from its share a node may be before it is evened out: 0.3 is 30 % more or less",
        json_schema_extra=_unit("part of the share"),
    )
    rebalance_strategy: Strategy = Field(
        default=Strategy.MINIMIZE_MOVEMENT,
        description="How far is evened out: just into the threshold, or to within 2 % of every node's share",
    )
    rebalance_by: Measure = Field(default=Measure.KEYS, description="What is to be spread evenly over the nodes")
    rebalance_rest: Seconds = Field(
        default=600.0,
        ge=0,
        le=30 * 86400,
        description="With auto_rebalance: how long a node that has just given or taken keys is left alone",
        json_schema_extra=_unit("duration"),
    )
    quiet_hours: Hours = Field(
        default="", description="With auto_rebalance: times of each day in which no evening out is begun, in local time"
    )
    max_concurrent_migrations: int = Field(
        default=5,
        ge=1,
        le=1000,
        description="Pairs of nodes between which keys are copied at a time; holds from the next change on",
        json_schema_extra=_unit("migrations"),
    )


class AtlasSettings(Section):
    """ATLAS, the store of a node: the data server that holds its keys, and the files behind it."""

    data_dir: str = Field(
        default="./helios-data",
        min_length=1,
        description="Folder of all state; a relative path counts from where Helios is started",
        json_schema_extra=_restart("the files in it are open"),
    )
    aof_fsync: AofFsync = Field(
        default=AofFsync.INTERVAL,
        description="When writes reach the disk: before they are answered, once a second, or as the system likes",
    )
    server: str = Field(
        default="",
        description="Path of a valkey-server or redis-server, 7 or newer; if empty, one on PATH or the packaged one",
        json_schema_extra=_restart("the data servers run already"),
    )
    maxmemory: Bytes = Field(
        default=0,
        ge=0,
        description="Memory that each data server may use for data before it refuses writes; 0 means no limit",
        json_schema_extra=_unit("size"),
    )


class StoreSettings(Section):
    """Where the processes of a cluster agree."""

    url: StoreUrl = Field(
        default="",
        description="The store: a path, sqlite:///path or etcd://host:port/prefix; empty: helios.db in the data folder",
        json_schema_extra=_restart("the store is open"),
    )


class NetworkSettings(Section):
    """Where Helios can be reached."""

    bind: Host = Field(
        default="127.0.0.1",
        description="Host on which `helios up` opens the nodes' ports; one that others reach needs security.users",
        json_schema_extra=_restart("the ports are open"),
    )


class SecuritySettings(Section):
    """Who may do what, and TLS."""

    users: Users = Field(default=(), description="Who may use the cluster; without users, everybody on this machine")
    tls_cert_file: str = Field(
        default="", description="PEM file with the certificate and its chain; with it, clients and REST speak TLS"
    )
    tls_key_file: str = Field(default="", description="PEM file with the certificate's key, without a passphrase")
    tls_client_ca_file: str = Field(
        default="", description="PEM file with CAs; with it, clients must show a certificate that one of them signed"
    )
    tls_handshake_timeout: Seconds = Field(
        default=10.0,
        ge=0.1,
        le=60,
        description="How long a client of a node may take to begin TLS; REST gives a minute",
        json_schema_extra=_unit("duration"),
    )
    login_timeout: Seconds = Field(
        default=10.0,
        ge=0.5,
        le=3600,
        description="How long a connection to a node may last without a login, where one is needed",
        json_schema_extra=_unit("duration"),
    )
    plain_port_offset: int = Field(
        default=0,
        ge=0,
        le=50_000,
        description="With TLS: nodes also listen without it, so many ports above their own; 0 means they do not",
        json_schema_extra=_unit("ports"),
    )
    open_metrics: bool = Field(default=False, description="Let everybody read /metrics, without a login")


class GatewaySettings(Section):
    """The REST interface."""

    listen: Listen = Field(
        default=Address("127.0.0.1", 8443),
        description="Address of the REST interface",
        json_schema_extra=_restart("the port is open"),
    )


class RouterSettings(Section):
    """What takes clients' commands to the data servers."""

    workers: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Router processes of a node, sharing its port",
        json_schema_extra=_restart("the processes run already", "processes"),
    )
    hold_timeout: Seconds = Field(
        default=5.0,
        ge=0.05,
        le=300,
        description="How long a command for a key in cut-over is held before it fails without having been executed",
        json_schema_extra=_unit("duration"),
    )
    session_ttl: Seconds = Field(
        default=10.0,
        ge=1,
        le=60,
        description="How long a router may serve after its last renewed lease, if the store is away",
        json_schema_extra=_restart("the routers' leases were granted for that long", "duration"),
    )
    server_timeout: Seconds = Field(
        default=10.0,
        ge=0.1,
        le=3600,
        description="How long a data server may answer nothing before commands to it fail, their outcome unknown",
        json_schema_extra=_unit("duration"),
    )
    script_time_limit: Seconds = Field(
        default=5.0,
        ge=0,
        le=86400,
        description="How long a script or function may keep a data server before Helios ends it, unless it has "
        "written; a server tells of one only after 5 s; 0 means for ever",
        json_schema_extra=_unit("duration"),
    )
    max_frame: Bytes = Field(
        default=512 << 20,
        ge=64 << 10,
        le=1 << 30,
        description="Largest command or argument that is accepted of a client; holds for connections made from then on",
        json_schema_extra=_unit("size"),
    )
    max_arguments: int = Field(
        default=1 << 20,
        ge=1024,
        le=16 << 20,
        description="Arguments that one command of a client may have",
        json_schema_extra=_unit("arguments"),
    )
    max_reply: Bytes = Field(
        default=1 << 30,
        ge=1 << 20,
        le=64 << 30,
        description="Largest reply of a data server that is passed on, an error instead of a bigger one; "
        "holds for connections to servers made from then on",
        json_schema_extra=_unit("size"),
    )
    max_clients: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="Connections of clients that a router process takes; file limits of the system may allow fewer",
        json_schema_extra=_unit("clients"),
    )
    reserved_clients: int = Field(
        default=16,
        ge=0,
        le=1000,
        description="Connections beyond max_clients for administrators, where there are users",
        json_schema_extra=_unit("clients"),
    )
    client_memory: Bytes = Field(
        default=1 << 30,
        ge=1 << 20,
        le=64 << 30,
        description="What one client may be owed and have sent that is not carried out; with more it is disconnected",
        json_schema_extra=_unit("size"),
    )
    clients_memory: Bytes = Field(
        default=2 << 30,
        ge=1 << 20,
        le=1 << 40,
        description="The same for all clients of a router process; beyond it those with the most are disconnected",
        json_schema_extra=_unit("size"),
    )
    transaction_commands: int = Field(
        default=65_536,
        ge=1,
        le=16 << 20,
        description="Commands that a client may queue between MULTI and EXEC",
        json_schema_extra=_unit("commands"),
    )
    transaction_memory: Bytes = Field(
        default=64 << 20,
        ge=64 << 10,
        le=1 << 30,
        description="What the commands that a client queues in MULTI may take, and as much the keys that it watches",
        json_schema_extra=_unit("size"),
    )
    max_lines: int = Field(
        default=1000,
        ge=1,
        le=1_000_000,
        description="Clients of a router process that may wait for elements or watch keys at one data server at a time",
        json_schema_extra=_unit("clients"),
    )
    client_idle_timeout: Seconds = Field(
        default=0.0,
        ge=0,
        le=30 * 86400,
        description="How long a client may send nothing before it is disconnected; 0 means for ever",
        json_schema_extra=_unit("duration"),
    )
    client_command_timeout: Seconds = Field(
        default=300.0,
        ge=0,
        le=86400,
        description="How long nothing may come of a command that has begun, or of a first one; 0 means for ever",
        json_schema_extra=_unit("duration"),
    )
    tcp_keepalive: Seconds = Field(
        default=300.0,
        ge=0,
        le=86400,
        description="How long a connection is silent before the system asks whether its client is there; 0 means never",
        json_schema_extra=_unit("duration"),
    )
    slowlog_threshold: Seconds = Field(
        default=0.01,
        ge=0,
        le=3600,
        description="Commands that take so long or longer stand in the slow log; 0 means none",
        json_schema_extra=_unit("duration"),
    )
    slowlog_length: int = Field(
        default=128,
        ge=1,
        le=100_000,
        description="Commands that a router process keeps in its slow log",
        json_schema_extra=_unit("commands"),
    )


class CoordinatorSettings(Section):
    """How moves are run and failures noticed. All processes of a cluster must agree on these."""

    lease_ttl: Seconds = Field(
        default=3.0,
        ge=1,
        le=60,
        description="How long after a coordinator's silence another may take over; holds from the next election on",
        json_schema_extra=_unit("duration"),
    )
    health_timeout: Seconds = Field(
        default=30.0,
        ge=1,
        le=86400,
        description="A node that has not been heard from for this long counts as offline",
        json_schema_extra=_unit("duration"),
    )
    collect_interval: Seconds = Field(
        default=10.0,
        ge=1,
        le=3600,
        description="Time between two looks at what every node carries: keys, bytes, operations a second",
        json_schema_extra=_unit("duration"),
    )
    copy_batch: int = Field(
        default=200,
        ge=1,
        le=10_000,
        description="Keys that are copied in one round trip; holds from the next change on",
        json_schema_extra=_unit("keys"),
    )
    fence_budget: int = Field(
        default=500,
        ge=1,
        le=100_000,
        description="Changed keys that may be left to copy when the fence is raised; holds from the next change on",
        json_schema_extra=_unit("keys"),
    )
    fence_ack_timeout: Seconds = Field(
        default=1.0,
        ge=0.05,
        le=60,
        description="How long a router may take to acknowledge a fence before it is forced off; "
        "holds from the next change on",
        json_schema_extra=_unit("duration"),
    )


class LoggingSettings(Section):
    """What the processes say of themselves."""

    level: LogLevel = Field(default=LogLevel.INFO, description="Least important message that is logged")
    format: LogFormat = Field(default=LogFormat.TEXT, description="Lines for people, or one JSON object a line")
