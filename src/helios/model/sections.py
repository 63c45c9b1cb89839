"""The settings by section, with their units, limits and defaults; those of routers are in `router_settings`."""

from __future__ import annotations

from enum import StrEnum

from helios.model.balancing import Measure, Strategy
from helios.model.durability import Durability, durabilities_of
from helios.model.ids import Address
from helios.model.section import (
    Bytes,
    Durabilities,
    Host,
    Hours,
    Listen,
    Seconds,
    Secret,
    Section,
    StoreUrl,
    Users,
    setting,
)


class AofFsync(StrEnum):
    """When a data server writes its log through to the disk."""

    EVERY = "every"
    INTERVAL = "interval"
    NO = "no"


class Reads(StrEnum):
    """What a read may show: whatever the leader has, or what no failover can take back."""

    LEADER = "leader"
    LINEARIZABLE = "linearizable"


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


class ShardingSettings(Section):
    """How keys are spread and moved. All processes of a cluster must agree on these."""

    enabled: bool = setting(
        default=True, description="Spread keys over all nodes; if false, every key goes to the first node by id"
    )
    virtual_nodes: int = setting(
        default=150,
        ge=1,
        le=10_000,
        description="Points on the ring for a node of weight 1; fixed once a cluster exists",
        fixed="it decides where every key lies",
        unit="points",
    )
    replication_factor: int = setting(
        default=1,
        ge=1,
        le=7,
        description="Copies of each key, on so many nodes; with 3, the cluster goes on when one of these is lost",
        unit="copies",
    )
    migration_rate: int = setting(
        default=1000,
        ge=0,
        le=10_000_000,
        description="The most keys a move copies per second; 0 means no limit",
        unit="keys/s",
    )
    migration_bandwidth: Bytes = setting(
        default=0,
        ge=0,
        description="The most bytes a move copies per second; 0 means no limit",
        unit="size",
    )
    auto_rebalance: bool = setting(
        default=False,
        description="Give a new node its share at once; if false, it owns nothing until you run rebalance or migrate",
    )
    verify_moves: bool = setting(
        default=False,
        description="Compare every copied key with its source before a move switches, as `migrate --verify` does",
    )
    rebalance_interval: Seconds = setting(
        default=3600.0,
        ge=1,
        le=30 * 86400,
        description="With auto_rebalance: how often Helios checks whether every node has its share",
        unit="duration",
    )
    rebalance_threshold: float = setting(
        default=0.3,
        ge=0.02,
        le=10,
        description="How far a node's load may be from its share before Helios evens it out: 0.3 is 30 % more or less",
        unit="part of the share",
    )
    rebalance_strategy: Strategy = setting(
        default=Strategy.MINIMIZE_MOVEMENT,
        description="How far Helios evens out: just inside the threshold, or to within 2 % of every node's share",
    )
    rebalance_by: Measure = setting(default=Measure.KEYS, description="What to spread evenly over the nodes")
    rebalance_rest: Seconds = setting(
        default=600.0,
        ge=0,
        le=30 * 86400,
        description="With auto_rebalance: how long a node is left alone after it has given or taken keys",
        unit="duration",
    )
    quiet_hours: Hours = setting(
        default="", description="With auto_rebalance: hours of the day, in local time, in which no rebalance begins"
    )
    max_concurrent_migrations: int = setting(
        default=5,
        ge=1,
        le=1000,
        description="How many pairs of nodes copy keys at a time; holds from the next change on",
        unit="migrations",
    )


class ReplicationSettings(Section):
    """What copies of a shard promise. All processes of a cluster must agree on these."""

    durability: Durability = setting(
        default=Durability.QUORUM,
        description="When a write is acknowledged: once its leader has it, or once a majority of its shard's members",
    )
    durability_by_key: Durabilities = setting(
        default="",
        description="The same for keys that match a pattern, the first that matches, as in cache:*=async; "
        "all others go by durability",
    )
    reads: Reads = setting(
        default=Reads.LEADER,
        description="What a read may show: whatever the leader has, or only what no failover can take back",
    )
    max_staleness: Seconds = setting(
        default=1.0,
        ge=0.05,
        le=3600,
        description="How old what a replica answers may be, where a client lets replicas answer (READONLY)",
        unit="duration",
    )
    ack_timeout: Seconds = setting(
        default=1.0,
        ge=0.01,
        le=60,
        description="How long a write may wait for a majority before its outcome is told as unknown",
        unit="duration",
    )
    failover_timeout: Seconds = setting(
        default=5.0,
        ge=0.5,
        le=3600,
        description="How long a member may be silent before another leads its shard, or the shard goes on without it",
        unit="duration",
    )
    rebalance_leaders: bool = setting(
        default=True,
        description="Let each shard be led on the node that it began on again, some time after that has come back, and "
        "not in sharding.quiet_hours; if false, `rebalance` and `promote` do it",
    )
    min_members: int = setting(
        default=0,
        ge=0,
        le=7,
        description="How few members a shard may shrink to when others are lost; "
        "0 means a majority of replication_factor, or 1 of 2",
        unit="members",
    )

    @property
    def promises(self) -> bool:
        """Whether what some clients are told waits for a majority, so that no failover may lose it."""
        if self.reads is Reads.LINEARIZABLE:
            return True  # what a read has shown is not taken back, however it was written
        by_key = (durability for _, durability in durabilities_of(self.durability_by_key))
        return Durability.QUORUM in (self.durability, *by_key)

    def least_members(self, factor: int) -> int:
        """How few members a shard may shrink to that is to have `factor` of them."""
        if self.min_members:
            return min(self.min_members, factor)
        return 1 if factor <= 2 else factor // 2 + 1


class AtlasSettings(Section):
    """ATLAS, the store of a node: the data server that holds its keys, and the files behind it."""

    data_dir: str = setting(
        default="./helios-data",
        empty=False,
        description="Folder of all state; a relative path starts in the folder where Helios is started",
        restart="the files in it are open",
    )
    aof_fsync: AofFsync = setting(
        default=AofFsync.INTERVAL,
        description="When writes reach the disk: before the reply, once a second, or when the system decides",
    )
    server: str = setting(
        default="",
        description="Path of a valkey-server or redis-server, 7 or newer; if empty, one on PATH or the packaged one",
        restart="the data servers run already",
    )
    maxmemory: Bytes = setting(
        default=0,
        ge=0,
        description="Memory that each data server may use for data before it refuses writes; 0 means no limit",
        unit="size",
    )
    tls_ca_file: str = setting(
        default="",
        description="Certificates (PEM) of the authority that signs those of the data servers; if empty, the system's "
        "count, and a certificate must name its host",
        restart="the connections are made with it",
    )
    tls_cert_file: str = setting(
        default="",
        description="Certificate (PEM) of this host, by tls_ca_file; with it, its data servers speak TLS",
        restart="the data servers run already",
    )
    tls_key_file: str = setting(
        default="",
        description="Key of that certificate (PEM), without a passphrase",
        restart="the data servers run already",
    )


class StoreSettings(Section):
    """Where the processes of a cluster agree."""

    url: StoreUrl = setting(
        default="",
        description="The store: a path, sqlite:///path or etcd://host:port,.../prefix (etcds:// for TLS); empty: "
        "helios.db in the data folder",
        restart="the store is open",
    )
    user: str = setting(
        default="",
        description="User of etcd; the URL may name it, too, as in etcd://user:password@host:port/prefix",
        restart="the store is open",
    )
    password: Secret = setting(
        default="",
        description="Password of etcd's user, best given as the environment variable HELIOS_STORE__PASSWORD",
        restart="the store is open",
    )
    password_file: str = setting(
        default="",
        description="File that has the password of etcd's user as its first line",
        restart="the store is open",
    )
    tls_ca_file: str = setting(
        default="",
        description="Certificates (PEM) by which etcd is known; empty: those of the system. Turns TLS on",
        restart="the store is open",
    )
    tls_cert_file: str = setting(
        default="",
        description="Certificate (PEM) to show to an etcd that asks for one. Turns TLS on",
        restart="the store is open",
    )
    tls_key_file: str = setting(
        default="",
        description="Key of that certificate (PEM)",
        restart="the store is open",
    )


class NetworkSettings(Section):
    """Where Helios can be reached."""

    bind: Host = setting(
        default="127.0.0.1",
        description="Host on which `helios up` opens the nodes' ports; if other machines reach it, set security.users",
        restart="the ports are open",
    )


class SecuritySettings(Section):
    """Who may do what, and TLS."""

    users: Users = setting(default=(), description="Who may use the cluster; if empty, everybody on this machine")
    tls_cert_file: str = setting(
        default="", description="PEM file with the certificate and its chain; with it, clients and REST speak TLS"
    )
    tls_key_file: str = setting(default="", description="PEM file with the certificate's key, without a passphrase")
    tls_client_ca_file: str = setting(
        default="", description="PEM file with CAs; with it, clients must show a certificate that one of them signed"
    )
    cluster_key_file: str = setting(
        default="",
        description="File with the cluster's key, the same on every host; with it, who can read the store alone "
        "cannot get at the data servers. `helios init` makes it",
    )
    tls_handshake_timeout: Seconds = setting(
        default=10.0,
        ge=0.1,
        le=60,
        description="How long a client of a node may take to begin TLS; REST gives a minute",
        unit="duration",
    )
    login_timeout: Seconds = setting(
        default=10.0,
        ge=0.5,
        le=3600,
        description="How long a connection may stay without a login, if the cluster has users",
        unit="duration",
    )
    plain_port_offset: int = setting(
        default=0,
        ge=0,
        le=50_000,
        description="With TLS: nodes also listen without TLS, this many ports above their own; 0 means they do not",
        unit="ports",
    )
    open_metrics: bool = setting(default=False, description="Let everybody read /metrics, without a login")


class GatewaySettings(Section):
    """The REST interface."""

    listen: Listen = setting(
        default=Address("127.0.0.1", 8443),
        description="Address of the REST interface",
        restart="the port is open",
    )


class CoordinatorSettings(Section):
    """How moves run and failures are noticed. All processes of a cluster must agree on these."""

    lease_ttl: Seconds = setting(
        default=3.0,
        ge=1,
        le=60,
        description="How long a coordinator may be silent before another takes over; holds from the next election on",
        unit="duration",
    )
    health_timeout: Seconds = setting(
        default=30.0,
        ge=1,
        le=86400,
        description="After this much silence a node counts as offline",
        unit="duration",
    )
    collect_interval: Seconds = setting(
        default=10.0,
        ge=1,
        le=3600,
        description="How often Helios measures each node's load: keys, bytes, operations per second",
        unit="duration",
    )
    copy_batch: int = setting(
        default=200,
        ge=1,
        le=10_000,
        description="Keys copied in one round trip; holds from the next change on",
        unit="keys",
    )
    fence_budget: int = setting(
        default=500,
        ge=1,
        le=100_000,
        description="Changed keys that may remain to be copied when the fence goes up; holds from the next change on",
        unit="keys",
    )
    fence_ack_timeout: Seconds = setting(
        default=1.0,
        ge=0.05,
        le=60,
        description="How long a router may take to acknowledge a fence before it is forced off; "
        "holds from the next change on",
        unit="duration",
    )


class LoggingSettings(Section):
    """What the processes log."""

    level: LogLevel = setting(default=LogLevel.INFO, description="Least important message that is logged")
    format: LogFormat = setting(default=LogFormat.TEXT, description="Lines for people, or one JSON object per line")
