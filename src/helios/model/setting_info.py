"""The list of all settings with what may be written for each: for messages, references and tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from types import MappingProxyType

from helios.model.balancing import parse_quiet_hours
from helios.model.durability import parse_durabilities
from helios.model.notation import (
    format_duration,
    format_size,
    parse_duration,
    parse_host,
    parse_listen,
    parse_secret,
    parse_size,
    parse_store_url,
    parse_user_list,
    without_password,
)
from helios.model.section import Section, Setting
from helios.model.settings import ClusterSettings, Settings

EMPTY = '""'  # how a settings file writes the text that is empty


class Effect(StrEnum):
    """When a changed value of a setting holds."""

    NOW = "at once"  # in all processes of the cluster, through the store
    APART = "at once, apart"  # in all processes, through the store, but not where other settings are seen
    RESTART = "restart"  # when the processes are restarted
    FIXED = "fixed"  # never, once the cluster has been founded


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """One setting. `allowed` completes "must be …"; `default` is written as a settings file would write it.

    `why` says what keeps a running cluster from taking up another value, where it does not.
    """

    name: str
    unit: str
    allowed: str
    default: str
    description: str
    effect: Effect
    why: str

    @property
    def shared(self) -> bool:
        """Whether all processes of a cluster have the same value, in the store."""
        return self.effect in (Effect.NOW, Effect.FIXED)


@cache
def all_settings() -> Mapping[str, SettingInfo]:
    """Every setting by its full name ("sharding.virtual_nodes"), in the order of the model."""
    return MappingProxyType(
        {
            f"{section}.{name}": _info(f"{section}.{name}", setting)
            for section, kind in sections().items()
            for name, setting in kind.fields.items()
        }
    )


@cache
def sections() -> Mapping[str, type[Section]]:
    """The groups of settings by name."""
    return MappingProxyType({name: setting.kind for name, setting in Settings.fields.items()})


def setting_of(name: str) -> Setting:
    """The setting of that full name."""
    section, _, field = name.partition(".")
    return sections()[section].fields[field]


def format_value(name: str, value: object) -> str:
    """The value of a setting as a settings file would write it."""
    return _write(setting_of(name), value)


def is_structured(name: str) -> bool:
    """Whether a setting is written as a section of its own, whose contents are nobody else's business."""
    return setting_of(name).parse is parse_user_list


def shown(name: str, value: str) -> str:
    """A value as somebody wrote it, without what is nobody else's business."""
    parse = setting_of(name).parse
    return "not shown" if parse is parse_secret else without_password(value) if parse is parse_store_url else value


def _info(name: str, setting: Setting) -> SettingInfo:
    effect, why = Effect.NOW, ""
    if setting.fixed:
        effect, why = Effect.FIXED, setting.fixed
    elif is_structured(name):
        effect = Effect.APART
    elif setting.restart or name.partition(".")[0] not in ClusterSettings.fields:
        effect, why = Effect.RESTART, setting.restart or "it is read when a process starts"
    default = _write(setting, setting.default)
    return SettingInfo(name, setting.unit, _allowed(setting), default, setting.description, effect, why)


def _write(setting: Setting, value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    parser = setting.parse
    if parser is parse_duration and isinstance(value, int | float):
        return format_duration(value)
    if parser is parse_user_list:
        return f"{len(value)} users" if isinstance(value, tuple) and value else "{}"
    if parser is parse_size and isinstance(value, int):
        return format_size(value)
    if parser is parse_secret and value:
        return "not shown"
    if parser is parse_store_url:
        return without_password(str(value)) or EMPTY
    return str(value) or EMPTY


def _allowed(setting: Setting) -> str:
    parser = setting.parse
    if parser is parse_duration:
        return f"a duration {_range(setting)} (written with ms, s, m, h or d; a plain number is seconds)"
    if parser is parse_size:
        return f"a size {_range(setting)} (written with kb, mb or gb; a plain number is bytes)"
    if parser is parse_listen:
        return "host:port, as in 127.0.0.1:8443, with a port from 1 to 65535"
    if parser is parse_user_list:
        return "users by name, each with role, password_hash and perhaps keys and read_from"
    if parser is parse_host:
        return "an IP address or a host name, without a port"
    if parser is parse_store_url:
        return "the path of a file, sqlite:/// and its whole path, etcd://HOST:PORT,.../PREFIX, etcds://, or empty"
    if parser is parse_quiet_hours:
        return 'times of the day as in "22:00-06:00, 12:00-13:30", or empty'
    if parser is parse_durabilities:
        return 'patterns with async or quorum as in "cache:*=async, order:*=quorum", or empty'
    kind = setting.kind
    if kind is bool:
        return "true or false"
    if kind is int:
        return f"a whole number {_range(setting)} ({setting.unit})"
    if kind is float:
        return f"a number {_range(setting)} ({setting.unit})"
    if issubclass(kind, StrEnum):
        *others, last = [str(choice) for choice in kind]
        return f"{', '.join(others)} or {last}"
    return "a text" if setting.empty else "a text that is not empty"


def _range(setting: Setting) -> str:
    if setting.le is None:
        return f"of at least {_write(setting, setting.ge)}"
    return f"from {_write(setting, setting.ge)} to {_write(setting, setting.le)}"


def nearest(name: str) -> str:
    """A question after the setting, or section, that may have been meant by an unknown name; empty where none is near.

    A name that is right in itself but stands in a wrong section is found in its own.
    """
    from difflib import get_close_matches  # for mistakes only: no process holds it otherwise

    section, dot, field = name.partition(".")
    known = sections().get(section)
    near = [full for full in all_settings() if full.partition(".")[2] == (field or section)][:1]
    if not near and known is not None and dot:
        near = [f"{section}.{match}" for match in get_close_matches(field, list(known.fields), n=1, cutoff=0.5)]
    if not near and dot:
        near = get_close_matches(name, list(all_settings()), n=1, cutoff=0.7)
    if not near and known is None:
        near = get_close_matches(section, list(sections()), n=1)
    return f"did you mean {near[0]}? " if near else ""
