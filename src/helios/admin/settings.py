"""The settings that all processes of a cluster share, as people see and change them, and what was changed when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from helios.admin.views import AlteredView, SettingChangeView, SettingView
from helios.errors import Conflict, InvalidInput, NotFound, Refused
from helios.model.setting_info import EMPTY, Effect, all_settings, format_value, nearest, setting_of
from helios.model.settings import ClusterSettings, Conflicting
from helios.ports.clock import Clock
from helios.ports.records import (
    SETTING_CHANGES,
    SETTING_ORIGINS,
    SETTINGS,
    AlteredSetting,
    SettingChange,
    SettingOrigins,
    list_records,
    put_record,
    read_record,
)
from helios.ports.store import Compare, Delete, Put, Store

DEFAULT = "default"
RUN_TIME = "set at run time"
_KEPT = 100  # changes that are remembered


class SharedSettings:
    """The shared settings of a cluster in its store. Needs no running process."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    async def read(self) -> ClusterSettings:
        """Their values; the defaults where there is no cluster."""
        record = await read_record(self._store, ClusterSettings, SETTINGS)
        return ClusterSettings() if record is None else record.value

    async def views(self) -> list[SettingView]:
        """Each with its value and where that comes from, in the order of the reference."""
        return setting_views(await self.read(), (await self._origins())[0])

    async def view(self, name: str) -> SettingView:
        """One of them; raises NotFound."""
        return _one(await self.views(), name)

    async def change(
        self, values: Mapping[str, str], *, by: str, origins: Mapping[str, str] | None = None
    ) -> tuple[AlteredSetting, ...]:
        """Give settings these values, all of them or none, for all processes at once; what was altered by that.

        `origins` says where values come from that are not set at run time. Raises NotFound, Refused for what is
        fixed, InvalidInput with what is allowed, also where values do not go together.
        """
        while True:
            record = await read_record(self._store, ClusterSettings, SETTINGS)
            known, version = await self._origins()
            current = ClusterSettings() if record is None else record.value
            changed = with_values(current, values)
            new_origins = {name: (origins or {}).get(name, RUN_TIME) for name in values}
            altered = tuple(
                AlteredSetting(name, old, new, new_origins[name], known.get(name, DEFAULT))
                for name, old, new in differences(current, changed)
            )
            operations: list[Put | Delete] = [put_record(SETTING_ORIGINS, SettingOrigins(known | new_origins))]
            compares = [Compare(SETTING_ORIGINS, version), Compare(SETTINGS, 0 if record is None else record.version)]
            if altered:
                operations += [put_record(SETTINGS, changed), *await self._note(altered, by)]
            elif known | new_origins == known:
                return ()
            try:
                await self._store.commit(operations, compares=compares)
            except Conflict:
                continue
            return altered

    async def history(self) -> list[SettingChangeView]:
        """What was changed, the oldest first; the last hundred changes are known."""
        return [
            SettingChangeView(
                change.number,
                change.at,
                change.by,
                tuple(AlteredView(item.name, item.old, item.new, item.origin) for item in change.altered),
            )
            for change in await self._changes()
        ]

    async def roll_back(self, number: int | None, *, by: str) -> tuple[AlteredSetting, ...]:
        """Bring the values back that held after the change `number`, or before the last change; what was altered.

        That is a change too, so it can be taken back the same way. Raises NotFound, and what `change` raises.
        """
        changes = await self._changes()
        if not changes:
            raise NotFound("no setting has been changed since the cluster was founded: there is nothing to roll back")
        first, last = changes[0].number, changes[-1].number
        wanted = last - 1 if number is None else number
        if not first - 1 <= wanted < last:
            raise NotFound(
                f"the values after change {wanted} cannot be brought back: "
                f"write a number from {first - 1} to {last - 1}, or none to undo the last change"
            )
        undone = [item for change in reversed(changes) if change.number > wanted for item in reversed(change.altered)]
        values = {item.name: item.old for item in undone}
        return await self.change(values, by=by, origins={item.name: item.before for item in undone})

    async def _changes(self) -> list[SettingChange]:
        return [record.value for record in await list_records(self._store, SettingChange, SETTING_CHANGES)]

    async def _origins(self) -> tuple[dict[str, str], int]:
        record = await read_record(self._store, SettingOrigins, SETTING_ORIGINS)
        return ({}, 0) if record is None else (record.value.of, record.version)

    async def _note(self, altered: Sequence[AlteredSetting], by: str) -> list[Put | Delete]:
        """What writes a change down and forgets the oldest."""
        changes = await self._changes()
        number = changes[-1].number + 1 if changes else 1
        change = SettingChange(number, self._clock.wall(), by, tuple(altered))
        too_old = [_key(change.number) for change in changes if change.number <= number - _KEPT]
        return [put_record(_key(number), change), *map(Delete, too_old)]


def setting_views(settings: ClusterSettings, origins: Mapping[str, str]) -> list[SettingView]:
    """Every shared setting with its value."""
    return [
        SettingView(
            name,
            value_of(settings, name),
            origins.get(name, DEFAULT),
            info.effect.value,
            info.unit,
            info.allowed,
            info.description,
        )
        for name, info in all_settings().items()
        if info.shared
    ]


def value_of(settings: object, name: str) -> str:
    """The value of a setting in a whole set of settings, as a settings file would write it."""
    section, _, field = name.partition(".")
    return format_value(name, getattr(getattr(settings, section), field))


def differences(old: ClusterSettings, new: ClusterSettings) -> list[tuple[str, str, str]]:
    """The shared settings that differ, with both values."""
    pairs = ((name, value_of(old, name), value_of(new, name)) for name, info in all_settings().items() if info.shared)
    return [(name, before, after) for name, before, after in pairs if before != after]


def with_values(settings: ClusterSettings, values: Mapping[str, str]) -> ClusterSettings:
    """The settings with some changed, to texts that may be those of `value_of`.

    Raises NotFound, InvalidInput with what is allowed, Refused for what is fixed.
    """
    infos = all_settings()
    sections = {name: section.values() for name, section in settings.values().items()}
    for name, value in values.items():
        info = infos.get(name)
        if info is not None and info.effect is Effect.RESTART:
            raise Refused(
                f"{name} cannot be changed while processes run ({info.why}): "
                "give it to the next start, in the settings file, the environment or by its flag"
            )
        if info is not None and info.effect is Effect.APART:
            raise Refused(f"{name} is changed by an edit of the settings file, which a running cluster follows")
        if info is None:
            raise _unknown(name)
        section, _, field = name.partition(".")
        if info.effect is Effect.FIXED and value != value_of(settings, name):
            raise Refused(f"{name} cannot be changed: {info.why}, and is fixed once a cluster exists")
        try:
            sections[section][field] = setting_of(name).read("" if value == EMPTY else value)
        except ValueError:
            raise InvalidInput(f"{name} cannot be {value!r}: it must be {info.allowed}") from None
    try:
        return ClusterSettings.of(sections)
    except Conflicting as error:
        raise InvalidInput(str(error)) from None


def _key(number: int) -> str:
    return f"{SETTING_CHANGES}{number:010}"


def _one(views: Sequence[SettingView], name: str) -> SettingView:
    found = next((view for view in views if view.name == name), None)
    if found is None:
        raise _unknown(name)
    return found


def _unknown(name: str) -> NotFound:
    known = ", ".join(name for name, info in all_settings().items() if info.effect is Effect.NOW)
    return NotFound(f"{name!r} is not a setting that can be changed here; {nearest(name)}those that can are {known}")
