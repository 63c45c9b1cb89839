"""The settings that all processes of a cluster share, as people see and change them."""

from __future__ import annotations

from pydantic import ValidationError

from helios.admin.views import SettingView
from helios.errors import InvalidInput, NotFound, Refused
from helios.model.setting_info import all_settings, format_value
from helios.model.settings import ClusterSettings

_FIXED = {
    "sharding.virtual_nodes": "it decides where every key lies and is fixed once a cluster exists",
}


def shared_settings(settings: ClusterSettings) -> list[SettingView]:
    """Every shared setting with its value."""
    infos = all_settings()
    views = []
    for section in type(settings).model_fields:
        part = getattr(settings, section)
        for field in type(part).model_fields:
            info = infos[f"{section}.{field}"]
            value = format_value(info.name, getattr(part, field))
            views.append(SettingView(info.name, value, info.unit, info.allowed, info.description))
    return views


def one_setting(settings: ClusterSettings, name: str) -> SettingView:
    """A shared setting by its name; raises NotFound."""
    views = shared_settings(settings)
    found = next((view for view in views if view.name == name), None)
    if found is None:
        raise NotFound(f"{name!r} is not a setting that can be changed here; those that can are {_names(views)}")
    return found


def with_setting(settings: ClusterSettings, name: str, value: str) -> ClusterSettings:
    """The settings with one changed. Raises NotFound, InvalidInput with what is allowed, Refused for what is fixed."""
    infos = all_settings()
    section, _, field = name.partition(".")
    if section not in type(settings).model_fields or name not in infos:
        known = _names(shared_settings(settings))
        raise NotFound(f"{name!r} is not a setting that can be changed here; those that can are {known}")
    if name in _FIXED:
        raise Refused(f"{name} cannot be changed: {_FIXED[name]}")
    part = getattr(settings, section)
    values = {**{key: getattr(part, key) for key in type(part).model_fields}, field: value}
    try:
        changed = type(part)(**values)
    except ValidationError:
        raise InvalidInput(f"{name} cannot be {value!r}: it must be {infos[name].allowed}") from None
    return settings.model_copy(update={section: changed})


def _names(views: list[SettingView]) -> str:
    return ", ".join(view.name for view in views)
