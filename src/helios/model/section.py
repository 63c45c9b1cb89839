"""What every section of the settings is made of: how values are written, and what else is said of a setting.

Here durations are seconds and sizes are bytes, however they were written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import Enum
from math import isfinite
from typing import Annotated, Any, ClassVar, Self, dataclass_transform, get_args, get_origin, get_type_hints

from helios.model.balancing import parse_quiet_hours
from helios.model.durability import parse_durabilities
from helios.model.ids import Address
from helios.model.notation import (
    parse_duration,
    parse_host,
    parse_listen,
    parse_secret,
    parse_size,
    parse_store_url,
    parse_user_list,
)
from helios.model.users import User

# A type with what reads its values.
Seconds = Annotated[float, parse_duration]
Bytes = Annotated[int, parse_size]
Listen = Annotated[Address, parse_listen]
StoreUrl = Annotated[str, parse_store_url]
Secret = Annotated[str, parse_secret]
Host = Annotated[str, parse_host]
Users = Annotated[tuple[User, ...], parse_user_list]
Durabilities = Annotated[str, parse_durabilities]
Hours = Annotated[str, parse_quiet_hours]

_WHOLE = re.compile(r"[+-]?[0-9]+(?:_[0-9]+)*(?:\.0+)?\Z")
_YES = frozenset(("true", "t", "yes", "y", "on", "1"))
_NO = frozenset(("false", "f", "no", "n", "off", "0"))


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a section: its type and default, its bounds, what its number counts (`unit`), what it means.

    `restart` says why a running process does not take it up; each process has its own then. `fixed` says why nothing
    can change it once there is a cluster, to which it belongs.
    """

    default: Any
    kind: type[Any] = object
    parse: Callable[[object], Any] | None = None
    ge: float | None = None
    le: float | None = None
    unit: str = ""
    description: str = ""
    restart: str = ""
    fixed: str = ""
    empty: bool = True  # whether a text may be

    def read(self, value: object) -> Any:
        """The value of the setting that somebody wrote, or a program has; raises ValueError."""
        if issubclass(self.kind, Section):
            return self.kind.of(value)
        found = self.parse(value) if self.parse else _READERS.get(self.kind, self.kind)(value)
        if (self.ge is not None and found < self.ge) or (self.le is not None and found > self.le):
            raise ValueError(f"{found} is not within its bounds")
        if isinstance(found, float) and not isfinite(found):
            raise ValueError(f"{found} is not a number")
        if not found and not self.empty:
            raise ValueError("it must not be empty")
        return found


def setting(
    *,
    default: Any,
    description: str,
    ge: float | None = None,
    le: float | None = None,
    unit: str = "",
    restart: str = "",
    fixed: str = "",
    empty: bool = True,
) -> Any:
    """Declare a setting of a section; see Setting."""
    return Setting(default, ge=ge, le=le, unit=unit, description=description, restart=restart, fixed=fixed, empty=empty)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(setting,))
class Section:
    """A group of settings, given by name: values are checked, unknown names refused, and nothing ever changes.

    Raises ValueError. A section may consist of sections. `given` are the names of those that were given, be it as
    their defaults.
    """

    fields: ClassVar[Mapping[str, Setting]]
    given: frozenset[str]

    def __init_subclass__(cls) -> None:
        hints = get_type_hints(cls, include_extras=True)
        cls.fields = {name: _declared(vars(cls)[name], hint) for name, hint in hints.items() if name in vars(cls)}

    def __init__(self, **values: Any) -> None:
        fields = self.fields
        unknown = values.keys() - fields.keys()
        if unknown:
            raise ValueError(f"{', '.join(sorted(unknown))}: there is no such setting")
        found = {}
        for name, field in fields.items():
            try:
                found[name] = field.read(values[name]) if name in values else field.default
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from error
        self.__dict__.update(found, given=frozenset(values))
        self._agree()

    @classmethod
    def of(cls, written: object) -> Self:
        """The section that is given, or behind a mapping of its values by name; raises ValueError."""
        if isinstance(written, cls):
            return written
        if not isinstance(written, Mapping):
            raise ValueError(f"settings by name are expected, not {type(written).__name__}")  # noqa: TRY004
        return cls(**{str(name): value for name, value in written.items()})

    @classmethod
    def shared(cls) -> tuple[str, ...]:
        """The names of the settings of this group that all processes of a cluster share."""
        return tuple(name for name, field in cls.fields.items() if not field.restart)

    def values(self) -> dict[str, Any]:
        """All values by name."""
        return {name: getattr(self, name) for name in self.fields}

    def given_values(self) -> dict[str, Any]:
        """Those that were given."""
        return {name: value for name, value in self.values().items() if name in self.given}

    def altered(self, **values: Any) -> Self:
        """The same with other values; raises ValueError."""
        return type(self)(**(self.given_values() | values))

    def written(self, *, given_only: bool = False) -> dict[str, Any]:
        """The values, or those that were given, in the types of JSON; `of` reads them again."""
        values = self.given_values() if given_only else self.values()
        return {name: _plain(value, given_only) for name, value in values.items()}

    def _agree(self) -> None:
        """Raise ValueError where values do not go together."""

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"settings do not change: {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"settings do not change: {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Section) and type(other) is type(self) and other.values() == self.values()

    def __hash__(self) -> int:
        return hash(tuple(self.values().values()))

    def __repr__(self) -> str:
        shown = (f"{name}={getattr(self, name)!r}" for name, one in self.fields.items() if not _hidden(one))
        return f"{type(self).__name__}({', '.join(shown)})"


def _declared(said: object, hint: Any) -> Setting:
    declared = said if isinstance(said, Setting) else Setting(said)
    if get_origin(hint) is not Annotated:
        return replace(declared, kind=hint)
    kind, parse = get_args(hint)
    return replace(declared, kind=get_origin(kind) or kind, parse=parse)


def _hidden(field: Setting) -> bool:
    return field.parse is parse_secret


def _plain(value: Any, given_only: bool) -> Any:
    if isinstance(value, Section):
        return value.written(given_only=given_only)
    if isinstance(value, Address):
        return str(value)
    if isinstance(value, Enum):
        return value.value
    return [asdict(user) for user in value] if isinstance(value, tuple) else value


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word not in _YES | _NO:
        raise ValueError(f"{value!r} is neither true nor false")
    return word in _YES


def _whole(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and _WHOLE.match(value.strip()):
        return int(value.strip().partition(".")[0])
    raise ValueError(f"{value!r} is not a whole number")


def _number(value: object) -> float:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return float(value)
    raise ValueError(f"{value!r} is not a number")


def _text(value: object) -> str:
    if isinstance(value, str):
        return value
    raise ValueError(f"{value!r} is not a text")


_READERS: Mapping[type[Any], Callable[[Any], Any]] = {bool: _switch, int: _whole, float: _number, str: _text}
