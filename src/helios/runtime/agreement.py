"""What all processes of a cluster must agree on: brought into the store once, checked ever after."""

from __future__ import annotations

from helios.errors import Conflict, StartError
from helios.model.settings import ClusterSettings, Section, Settings
from helios.ports.store import Compare, Store
from helios.stores.records import SETTINGS, put_record, read_record


def check_agreement(stored: ClusterSettings, settings: Settings) -> None:
    """Raise StartError if `settings` ask for what an existing cluster cannot change."""
    wanted, fixed = settings.sharding.virtual_nodes, stored.sharding.virtual_nodes
    if settings.is_set("sharding.virtual_nodes") and wanted != fixed:
        raise StartError(
            f"this cluster was founded with sharding.virtual_nodes {fixed}, which is fixed since then, "
            f"and it is set to {wanted} now: set it to {fixed} or leave it out"
        )


def merged(stored: ClusterSettings, settings: Settings) -> ClusterSettings:
    """The stored settings with those on top that were set explicitly for this start."""
    sections: dict[str, Section] = {}
    for name in ClusterSettings.model_fields:
        old: Section = getattr(stored, name)
        new: Section = getattr(settings, name)
        given = new.model_fields_set if name in settings.model_fields_set else set()
        sections[name] = type(old).model_validate(old.model_dump() | {field: getattr(new, field) for field in given})
    return ClusterSettings.model_validate(sections)


async def agree(store: Store, settings: Settings, *, founding: Settings, lead: bool) -> ClusterSettings:
    """The cluster's settings. A cluster without any gets those of `founding`.

    With `lead`, what was set explicitly for this start goes into the store; otherwise the store wins.
    Raises StartError where they contradict what is fixed.
    """
    while True:
        record = await read_record(store, ClusterSettings, SETTINGS)
        if record is None:
            wanted, version = founding.cluster, 0
        else:
            check_agreement(record.value, settings)
            wanted, version = merged(record.value, settings) if lead else record.value, record.version
            if wanted == record.value:
                return wanted
        try:
            await store.commit([put_record(SETTINGS, wanted)], compares=[Compare(SETTINGS, version)])
        except Conflict:
            continue  # Another process was quicker: see whether we agree with it.
        return wanted
