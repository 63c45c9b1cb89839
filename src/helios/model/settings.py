"""All settings of a process, and the part of them that a cluster shares, as frozen, validated values.

Every setting has a default, so `Settings()` is a whole configuration; `configs/default.yaml` spells out the same.
"""

from __future__ import annotations

from typing import Any

from helios.model.router_settings import RouterSettings
from helios.model.section import Section
from helios.model.sections import (
    AtlasSettings,
    CoordinatorSettings,
    GatewaySettings,
    LoggingSettings,
    NetworkSettings,
    ReplicationSettings,
    SecuritySettings,
    ShardingSettings,
    StoreSettings,
)


class ClusterSettings(Section):
    """What all processes of a cluster share, and follow while they run; kept in the store.

    What is a process's own in these groups (see `Section.shared`) stands at its default here, and is not stored.
    """

    sharding: ShardingSettings = ShardingSettings()
    replication: ReplicationSettings = ReplicationSettings()
    atlas: AtlasSettings = AtlasSettings()
    router: RouterSettings = RouterSettings()
    coordinator: CoordinatorSettings = CoordinatorSettings()
    logging: LoggingSettings = LoggingSettings()

    def written(self, *, given_only: bool = False) -> dict[str, Any]:
        """The shared values in the types of JSON."""
        return {
            section: {name: value for name, value in values.items() if name in getattr(self, section).shared()}
            for section, values in super().written(given_only=given_only).items()
        }

    def _agree(self) -> None:
        _refuse(_shared_conflicts(self))


class Settings(Section):
    """All settings of one process. Raises ValueError for values outside their bounds, Conflicting."""

    sharding: ShardingSettings = ShardingSettings()
    replication: ReplicationSettings = ReplicationSettings()
    atlas: AtlasSettings = AtlasSettings()
    store: StoreSettings = StoreSettings()
    network: NetworkSettings = NetworkSettings()
    security: SecuritySettings = SecuritySettings()
    gateway: GatewaySettings = GatewaySettings()
    router: RouterSettings = RouterSettings()
    coordinator: CoordinatorSettings = CoordinatorSettings()
    logging: LoggingSettings = LoggingSettings()

    @property
    def cluster(self) -> ClusterSettings:
        """The part that goes into the store when a cluster is founded."""
        return ClusterSettings.of({name: _shared_part(getattr(self, name)) for name in ClusterSettings.fields})

    def with_shared(self, cluster: ClusterSettings) -> Settings:
        """The settings of a process of that cluster: what is shared as the cluster has it, the rest as it is here."""
        shared = {name: _shared_values(getattr(cluster, name)) for name in ClusterSettings.fields}
        return Settings(**{name: own.altered(**shared.get(name, {})) for name, own in self.values().items()})

    def is_set(self, name: str) -> bool:
        """Whether `name` ("sharding.auto_rebalance") was given by file, environment or flag, if only as its default."""
        section, _, field = name.partition(".")
        part: Section = getattr(self, section)
        return section in self.given and field in part.given

    def with_default(self, name: str, value: object) -> Settings:
        """These settings with another default for `name`: what was set explicitly stays."""
        if self.is_set(name):
            return self
        section, _, field = name.partition(".")
        part: Section = getattr(self, section)
        return self.altered(**{section: part.altered(**{field: value})})

    def _agree(self) -> None:
        pairs = [*_pair("security", self.security), *_pair("atlas", self.atlas)]
        _refuse([*pairs, *_incomplete(self.security), *_without_authority(self.atlas), *_shared_conflicts(self)])


Conflict = tuple[tuple[str, ...], str]
"""Settings that are right one by one but not together: their names, and what to do."""


class Conflicting(ValueError):
    """Settings do not go together."""

    def __init__(self, conflicts: list[Conflict]) -> None:
        super().__init__("; ".join(message for _, message in conflicts))
        self.conflicts = conflicts


def _refuse(conflicts: list[Conflict]) -> None:
    if conflicts:
        raise Conflicting(conflicts)


def _pair(section: str, files: SecuritySettings | AtlasSettings) -> list[Conflict]:
    if bool(files.tls_cert_file) == bool(files.tls_key_file):
        return []
    names = (f"{section}.tls_cert_file", f"{section}.tls_key_file")
    return [(names, f"{' and '.join(names)} belong together: give both or neither")]


def _incomplete(security: SecuritySettings) -> list[Conflict]:
    if security.tls_cert_file or not security.tls_client_ca_file:
        return []
    name = "security.tls_client_ca_file"
    return [((name,), f"{name} means something with TLS only: give security.tls_cert_file as well")]


def _without_authority(atlas: AtlasSettings) -> list[Conflict]:
    if atlas.tls_ca_file or not atlas.tls_cert_file:
        return []
    return [(("atlas.tls_cert_file",), "atlas.tls_cert_file needs atlas.tls_ca_file, by which the others know it")]


def _memory_conflicts(router: RouterSettings) -> list[Conflict]:
    return [
        (
            (f"router.{least}", f"router.{most}"),
            f"router.{most} ({getattr(router, most)} bytes) must not be less than router.{least} "
            f"({getattr(router, least)} bytes): {why}",
        )
        for least, most, why in (
            ("max_frame", "max_reply", "a client could write what it cannot read"),
            ("max_frame", "client_memory", "a client could not send what it may"),
            ("client_memory", "clients_memory", "no client could have what it may"),
        )
        if getattr(router, least) > getattr(router, most)
    ]


def _shared_conflicts(settings: Settings | ClusterSettings) -> list[Conflict]:
    found = _memory_conflicts(settings.router)
    if settings.coordinator.fence_ack_timeout >= settings.router.hold_timeout:
        found.append(
            (
                ("coordinator.fence_ack_timeout", "router.hold_timeout"),
                f"coordinator.fence_ack_timeout ({settings.coordinator.fence_ack_timeout:g} s) must be less than "
                f"router.hold_timeout ({settings.router.hold_timeout:g} s), "
                "or held commands would fail before a silent router is forced off",
            )
        )
    return found


def _shared_values(part: Section) -> dict[str, Any]:
    return {name: getattr(part, name) for name in part.shared()}


def _shared_part(part: Section) -> Section:
    return type(part)(**_shared_values(part))
