"""What `helios config` does: settings of the cluster in a data folder, without a process of it being needed."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, TypeVar

from helios.admin.settings import DEFAULT, RUN_TIME, SharedSettings, value_of
from helios.admin.views import SettingChangeView, SettingView
from helios.errors import NotFound
from helios.model.setting_info import Effect, all_settings
from helios.model.settings import Settings
from helios.node.files import DataFolder
from helios.ports.location import StoreLocation
from helios.ports.records import AlteredSetting
from helios.runtime.agreement import check_agreement
from helios.runtime.backends import locate, opened_store
from helios.runtime.clock import SystemClock
from helios.runtime.handover import take_over
from helios.runtime.settings import SettingsRead, SettingsSource, data_folder

T = TypeVar("T")

_WHEN = {
    Effect.NOW: "at once",
    Effect.APART: "at once",
    Effect.RESTART: "at the next start",
    Effect.FIXED: "when a cluster is founded",
}


def settings_of(source: SettingsSource, *, planned: bool) -> list[SettingView]:
    """Every setting as the cluster of the folder has it; `planned`: as it would after a start with this source.

    What is not shared is what the last `helios up` of the folder was told.
    """
    read = source.read()
    data = DataFolder(data_folder(read.settings))

    async def views(shared: SharedSettings) -> list[SettingView]:
        return await shared.views()

    location = locate(read.settings, data)
    known = {view.name: view for view in asyncio.run(_with(data, location, views))} if location.exists() else {}
    last = take_over(data.settings) if data.settings.exists() and not planned else read
    return [
        known[name] if name in known and not (planned and name in read.origins) else view for name, view in _all(last)
    ]


def _all(read: SettingsRead) -> Iterator[tuple[str, SettingView]]:
    for name, info in all_settings().items():
        # Who may use the cluster is not among what processes hand on to each other, nor for everybody to see.
        value = "not shown" if info.effect is Effect.APART else value_of(read.settings, name)
        origin = read.origins.get(name, DEFAULT)
        yield (
            name,
            SettingView(name, value, origin, info.effect.value, info.unit, info.allowed, info.description),
        )


def checked(source: SettingsSource) -> list[tuple[str, str, str, str]]:
    """What a file and the environment set: name, value, when it takes effect, from where.

    Raises SettingsError, or StartError where the cluster of the folder cannot take it.
    """
    read = source.read()
    data = DataFolder(data_folder(read.settings))
    location = locate(read.settings, data)
    if location.exists():
        asyncio.run(_with(data, location, lambda shared: _agrees(shared, read.settings)))
    infos = all_settings()
    return [
        (name, value_of(read.settings, name), _WHEN[infos[name].effect], read.origins[name])
        for name in infos
        if name in read.origins and (name != "atlas.data_dir" or read.origins[name] != "command line")
    ]


async def _agrees(shared: SharedSettings, settings: Settings) -> None:
    check_agreement(await shared.read(), settings)


def lasting(origin: str) -> bool:
    """Whether a value of that origin is found again by the next start."""
    return origin not in (DEFAULT, RUN_TIME, "command line", "helios up")


def change(source: SettingsSource, name: str, value: str) -> AlteredSetting | None:
    """Change a shared setting; None where it has that value already. Raises what SharedSettings.change raises."""
    altered = asyncio.run(_with(*_existing(source), lambda shared: shared.change({name: value}, by=_who("set"))))
    return altered[0] if altered else None


def history_of(source: SettingsSource) -> list[SettingChangeView]:
    """What was changed of the shared settings, the oldest change first."""
    return asyncio.run(_with(*_existing(source), lambda shared: shared.history()))


def bring_back(source: SettingsSource, number: int | None) -> tuple[AlteredSetting, ...]:
    """Bring back earlier values; see SharedSettings.roll_back."""
    return asyncio.run(_with(*_existing(source), lambda shared: shared.roll_back(number, by=_who("rollback"))))


def _existing(source: SettingsSource) -> tuple[DataFolder, StoreLocation]:
    settings = source.read().settings
    data = DataFolder(data_folder(settings))
    location = locate(settings, data)
    if not location.exists():
        where = (
            f"at {location}: name it by --store"
            if settings.store.url
            else f"in {data.root}: name its folder by --data-dir"
        )
        raise NotFound(f"there is no cluster {where}")
    return data, location


async def _with(
    data: DataFolder, location: StoreLocation, job: Callable[[SharedSettings], Coroutine[Any, Any, T]]
) -> T:
    async with opened_store(data, location) as store:
        return await job(SharedSettings(store, SystemClock()))


def _who(verb: str) -> str:
    return f"helios config {verb}, {getpass.getuser()}"
