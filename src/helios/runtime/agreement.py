"""What all processes of a cluster share: brought into the store once, checked and followed ever after."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing

from helios.admin.settings import DEFAULT, SharedSettings, differences, value_of
from helios.errors import Conflict, StartError
from helios.model.setting_info import Effect, all_settings
from helios.model.settings import ClusterSettings, Settings
from helios.ports.clock import Clock
from helios.ports.following import followed
from helios.ports.records import SETTING_ORIGINS, SETTINGS, SettingOrigins, put_record, read_record
from helios.ports.store import Compare, Put, Store
from helios.runtime.settings import SettingsRead

logger = logging.getLogger(__name__)


def check_agreement(stored: ClusterSettings, settings: Settings) -> None:
    """Raise StartError if `settings` ask for what an existing cluster cannot change."""
    for name, info in all_settings().items():
        if info.effect is not Effect.FIXED or not settings.is_set(name):
            continue
        check_fixed(name, value_of(settings, name), value_of(stored, name))


def check_fixed(name: str, wanted: object, fixed: object) -> None:
    """Raise StartError if a setting is `wanted` to be another than the cluster was founded with."""
    if wanted != fixed:
        raise StartError(
            f"this cluster was founded with {name} {fixed}, which is fixed since then, "
            f"and it is set to {wanted} now: set it to {fixed} or leave it out"
        )


async def found(
    store: Store, settings: Settings, origins: Mapping[str, str], beside: Sequence[Put] = (), *, by: str = "helios up"
) -> bool:
    """Give a cluster that has no shared settings yet those of its first process, and what is to be written `beside`.

    Nothing happens where it has; whether it had none.
    """
    shared = {name: origin for name, origin in origins.items() if all_settings()[name].shared}
    for name, _, _ in differences(ClusterSettings(), settings.cluster):
        shared.setdefault(name, by)
    operations = [put_record(SETTINGS, settings.cluster), put_record(SETTING_ORIGINS, SettingOrigins(shared)), *beside]
    try:
        await store.commit(operations, compares=[Compare(SETTINGS, 0), Compare(SETTING_ORIGINS, 0)])
    except Conflict:
        return False  # Another process was quicker: whoever asks next sees whether we agree with it.
    return True


async def agree(
    store: Store, clock: Clock, read: SettingsRead, *, founding: Settings, lead: str = "", file: str = ""
) -> ClusterSettings:
    """The cluster's settings. A cluster without any gets those of `founding`.

    With `lead`, who it is that starts, what was set explicitly for this start goes into the store, and what came
    from `file` earlier and does not stand there any more goes back to its default; otherwise the store wins.
    Raises StartError where they contradict what is fixed.
    """
    if await read_record(store, ClusterSettings, SETTINGS) is None:
        await found(store, founding, read.origins)
    shared = SharedSettings(store, clock)
    check_agreement(await shared.read(), read.settings)
    if lead:
        values = {name: value_of(read.settings, name) for name in read.origins if all_settings()[name].shared}
        gone = {view.name for view in await shared.views() if _of_file(view.origin, file)} - values.keys()
        values |= {name: value_of(founding, name) for name in gone}
        await shared.change(values, by=lead, origins={name: read.origins.get(name, DEFAULT) for name in values})
    return await shared.read()


def _of_file(origin: str, file: str) -> bool:
    return bool(file) and origin.rpartition(":")[0] == file


def disagreements(shared: ClusterSettings, read: SettingsRead) -> Iterator[str]:
    """What a process was told that the cluster has otherwise, one sentence each."""
    for name, origin in read.origins.items():
        if not all_settings()[name].shared:
            continue
        wanted, value = value_of(read.settings, name), value_of(shared, name)
        if wanted != value:
            yield (
                f"{origin}: {name} is {wanted}, but this cluster has {value}, and that holds; "
                f"`helios config set {name} {wanted}` changes it for all processes"
            )


Taker = Callable[[Settings], Awaitable[None] | None]


async def shared_now(store: Store, settings: Settings) -> Settings:
    """The settings of a process with what is shared as the store has it now."""
    record = await read_record(store, ClusterSettings, SETTINGS)
    return settings if record is None else settings.with_shared(record.value)


async def follow(store: Store, settings: Settings, *takers: Taker) -> None:
    """For ever: whenever a shared setting changes, log its old and new value and hand the settings to each taker."""
    current = settings.cluster
    async with aclosing(followed(store, ClusterSettings, SETTINGS)) as records:
        async for shared in records:
            altered = differences(current, shared)
            for name, old, new in altered:
                logger.info("setting changed: name=%s old=%s new=%s", name, old, new)
            current = shared
            for taker in takers if altered else ():
                taken = taker(settings.with_shared(shared))
                if taken is not None:
                    await taken
