"""All settings of a process, and the part of them that a cluster shares, as frozen, validated values.

Every setting has a default, so `Settings()` is a whole configuration; `configs/default.yaml` spells out the same.
"""

from __future__ import annotations

from typing import Any, Self

from pydantic import SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import PydanticCustomError

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

    @model_serializer(mode="wrap")
    def _without_own(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            section: {name: value for name, value in values.items() if name in getattr(self, section).shared()}
            for section, values in write(self).items()
        }

    @model_validator(mode="after")
    def _agree(self) -> Self:
        _refuse(_shared_conflicts(self))
        return self


class Settings(Section):
    """All settings of one process. Raises pydantic's ValidationError for values outside their bounds."""

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
        return ClusterSettings.model_validate(
            {name: _shared_part(getattr(self, name), kind) for name, kind in _groups(ClusterSettings)}
        )

    def with_shared(self, cluster: ClusterSettings) -> Settings:
        """The settings of a process of that cluster: what is shared as the cluster has it, the rest as it is here."""
        sections = {}
        for name, kind in _groups(Settings):
            own, common = getattr(self, name), getattr(cluster, name, None)
            shared = {field: getattr(common, field) for field in kind.shared()} if common is not None else {}
            sections[name] = own.model_copy(update=shared)
        return Settings(**sections)

    def is_set(self, name: str) -> bool:
        """Whether `name` ("sharding.auto_rebalance") was given by file, environment or flag, if only as its default."""
        section, _, field = name.partition(".")
        part: Section = getattr(self, section)
        return section in self.model_fields_set and field in part.model_fields_set

    def with_default(self, name: str, value: object) -> Settings:
        """These settings with another default for `name`: what was set explicitly stays."""
        if self.is_set(name):
            return self
        section, _, field = name.partition(".")
        part: Section = getattr(self, section)
        values = {key: getattr(part, key) for key in part.model_fields_set} | {field: value}
        sections = {key: getattr(self, key) for key in self.model_fields_set} | {section: type(part)(**values)}
        return Settings(**sections)

    @model_validator(mode="after")
    def _agree(self) -> Self:
        pairs = [*_pair("security", self.security), *_pair("atlas", self.atlas)]
        _refuse([*pairs, *_incomplete(self.security), *_without_authority(self.atlas), *_shared_conflicts(self)])
        return self


Conflict = tuple[tuple[str, ...], str]
"""Settings that are right one by one but not together: their names, and what to do."""


def _refuse(conflicts: list[Conflict]) -> None:
    if conflicts:
        text = "; ".join(message for _, message in conflicts)
        raise PydanticCustomError("conflict", "{text}", {"text": text, "conflicts": conflicts})


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


def _groups(kind: type[Section]) -> list[tuple[str, type[Section]]]:
    kinds = ((name, field.annotation) for name, field in kind.model_fields.items())
    return [(name, group) for name, group in kinds if isinstance(group, type) and issubclass(group, Section)]


def _shared_part(part: Section, kind: type[Section]) -> Section:
    return kind(**{field: getattr(part, field) for field in kind.shared()})
