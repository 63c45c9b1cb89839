"""Settings from a file, the environment and flags; every mistake is named with its place and what is allowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from helios.errors import SettingsError
from helios.model.ids import Address
from helios.model.setting_info import all_settings, is_structured, nearest, sections, setting_of, shown
from helios.model.settings import Conflicting, Settings

if TYPE_CHECKING:
    import yaml

PREFIX = "HELIOS_"
_NULL = "tag:yaml.org,2002:null"
_DEEPEST = 6
_SHOWN = 60  # characters of a wrong value that a message repeats


@dataclass(frozen=True, slots=True)
class _Given:
    """A value that somebody wrote, and where."""

    name: str
    value: object
    origin: str


@dataclass(frozen=True, slots=True)
class _Problem:
    origin: str
    message: str

    def __str__(self) -> str:
        return f"{self.origin}: {self.message}"


@dataclass(frozen=True, slots=True)
class SettingsRead:
    """Settings, and by name the place of each that was set explicitly, be it as its default.

    `hidden` are the place and the text of each value that the environment or a flag overrides.
    """

    settings: Settings
    origins: Mapping[str, str]
    hidden: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SettingsSource:
    """Where a process has its settings from, to be read again when the file has changed.

    `overrides` maps full names ("sharding.migration_rate") to values; those that are None were not given.
    `api_host` and `api_port` are the two halves of gateway.listen, each of which may be given by a flag of its own.
    """

    path: Path | None
    environ: Mapping[str, str]
    overrides: Mapping[str, object]
    api_host: str | None = None
    api_port: int | None = None

    def read(self) -> SettingsRead:
        """The settings that hold: flags before the environment, before the file, before the defaults.

        Raises SettingsError, whose message has one line for each mistake, all of them at once. A value that is
        overridden must be right all the same.
        """
        overrides = dict(self.overrides)
        if self.api_host is not None or self.api_port is not None:
            # Which half is not given by flag is only known once file and environment have been read.
            listen = _read(self.path, self.environ, overrides).settings.gateway.listen
            overrides["gateway.listen"] = str(Address(self.api_host or listen.host, self.api_port or listen.port))
        return _read(self.path, self.environ, overrides)


def load_settings(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> Settings:
    """The settings of a file, the environment and flags; see SettingsSource. Raises SettingsError.

    What was given by any of the three, be it the default, is_set of the result tells.
    """
    return SettingsSource(path, environ, overrides).read().settings


def _read(path: Path | None, environ: Mapping[str, str], overrides: Mapping[str, object]) -> SettingsRead:
    problems: list[_Problem] = []
    given: dict[str, _Given] = {}
    hidden: dict[str, tuple[str, str]] = {}
    for source in (_from_file(path), _from_environment(environ), _from_flags(overrides)):
        for found in source:
            problem = found if isinstance(found, _Problem) else _check(found)
            if problem is not None:
                problems.append(problem)
            elif isinstance(found, _Given):
                if found.name in given:
                    hidden[found.name] = (given[found.name].origin, _text(given[found.name]))
                given[found.name] = found
    if problems:
        raise SettingsError("\n".join(map(str, problems)))
    values: dict[str, dict[str, object]] = {}
    for item in given.values():
        section, _, name = item.name.partition(".")
        values.setdefault(section, {})[name] = item.value
    try:
        settings = Settings.of(values)
    except Conflicting as error:
        raise SettingsError("\n".join(_conflicts(error, given))) from error
    return SettingsRead(settings, {name: _lasting(item.origin, path) for name, item in given.items()}, hidden)


def _text(item: _Given) -> str:
    """A value as it may be repeated."""
    return "in the file" if is_structured(item.name) else shown(item.name, str(item.value))


def _lasting(origin: str, path: Path | None) -> str:
    """A place as it is to be remembered: a file by its absolute path."""
    relative = f"{path}:"
    return f"{path.absolute()}:{origin.removeprefix(relative)}" if path and origin.startswith(relative) else origin


def data_folder(settings: Settings) -> Path:
    """The absolute path of `atlas.data_dir`; `~` stands for the home folder."""
    return absolute(settings.atlas.data_dir)


def absolute(path: str) -> Path:
    """The path as other processes find it; `~` stands for the home folder."""
    return Path(path).expanduser().absolute()


def absolute_url(url: str) -> str:
    """A place of a store as other processes find it."""
    return url if "://" in url else str(absolute(url))


def variable(name: str) -> str:
    """The environment variable that sets the setting `name`."""
    return PREFIX + name.upper().replace(".", "__")


def _conflicts(error: Conflicting, given: Mapping[str, _Given]) -> Iterator[str]:
    """One line for each set of values that do not go together, with the places that they come from."""
    for names, message in error.conflicts:
        origins = [given[name].origin for name in names if name in given]
        yield f"{', '.join(origins)}: {message}"


def _check(item: _Given) -> _Problem | None:
    """What is wrong with one value by itself."""
    info = all_settings().get(item.name)
    if info is None:
        return _Problem(item.origin, _unknown(item.name))
    try:
        setting_of(item.name).read(item.value)
    except ValueError as error:
        if is_structured(item.name):
            return _Problem(item.origin, str(error))
        return _Problem(
            item.origin, f"{item.name} is {_show(shown(item.name, str(item.value)))} but must be {info.allowed}"
        )
    return None


def _show(value: object) -> str:
    text = str(value)
    if not text or not text.isprintable() or " " in text:
        text = repr(text)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _unknown(name: str) -> str:
    """Why there is no setting `name`, and which ones there are."""
    section, dot, _ = name.partition(".")
    known = sections().get(section)
    if known is not None and dot:
        return f"{name} is not a setting; {nearest(name)}{section} has {', '.join(known.fields)}"
    return f"{section} is not a section of the settings; {nearest(name)}the sections are {', '.join(sections())}"


def _from_flags(overrides: Mapping[str, object]) -> Iterator[_Given | _Problem]:
    for name, value in overrides.items():
        if value is not None:
            yield _Given(name, value, "command line")


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given | _Problem]:
    """Variables that name a setting or seem to; other HELIOS_ variables, without `__`, are not settings."""
    single = {variable(name).replace("__", "_"): name for name in all_settings()}
    for key in sorted(environ):
        if not key.startswith(PREFIX):
            continue
        section, separator, field = key.removeprefix(PREFIX).partition("__")
        if separator:
            yield _Given(f"{section}.{field}".lower(), environ[key], f"environment variable {key}")
        elif key in single:
            message = f"write {variable(single[key])}, with two underscores behind the section, to set {single[key]}"
            yield _Problem(f"environment variable {key}", message)


def _from_file(path: Path | None) -> Iterator[_Given | _Problem]:
    """What the file sets, and what is wrong with its form. Imports the YAML library only where there is a file."""
    if path is None:
        return
    import yaml

    try:
        text = path.read_bytes().decode("utf-8-sig")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        yield _Problem(str(path), f"cannot be read: {error.strerror or error}")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        yield _Problem(f"{path}:{line}", "is not UTF-8 text")
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        yield _Problem(
            f"{path}:{line}", f"is not valid YAML: the character U+{int(error.character):04X} is not allowed"
        )
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        what = ", ".join(part for part in (error.context, error.problem) if part)
        yield _Problem(where, f"is not valid YAML: {what}")
    except RecursionError:
        yield _Problem(str(path), "is nested too deeply")
    else:
        if root is not None and root.tag != _NULL:
            yield from _sections_of(root, path)


def _sections_of(root: yaml.Node, path: Path) -> Iterator[_Given | _Problem]:
    import yaml

    if not isinstance(root, yaml.MappingNode):
        yield _Problem(_place(path, root), f"must consist of sections: {', '.join(sections())}")
        return
    for section, key, value in _entries(root, path, ""):
        if isinstance(section, _Problem):
            yield section
        elif section not in sections():
            yield _Problem(_place(path, key), _unknown(section))
        elif isinstance(value, yaml.MappingNode):
            yield from _settings_of(section, value, path)
        elif value.tag != _NULL:
            # A section all of whose lines are commented out is null, and sets nothing.
            fields = ", ".join(sections()[section].fields)
            yield _Problem(
                _place(path, value), f"{section} is a section: its settings ({fields}) go below it, indented"
            )


def _settings_of(section: str, node: yaml.MappingNode, path: Path) -> Iterator[_Given | _Problem]:
    import yaml

    for field, key, value in _entries(node, path, f"{section}."):
        if isinstance(field, _Problem):
            yield field
            continue
        name, place = f"{section}.{field}", _place(path, key)
        info = all_settings().get(name)
        if info is None:
            yield _Problem(place, _unknown(name))
        elif is_structured(name) and isinstance(value, yaml.MappingNode):
            problems: list[_Problem] = []
            written = _written(value, path, name, problems)
            yield from problems
            if not problems:
                yield _Given(name, written, place)
        elif not isinstance(value, yaml.ScalarNode):
            what = "a list" if isinstance(value, yaml.SequenceNode) else "a section of its own"
            yield _Problem(place, f"{name} is {what} but must be {info.allowed}")
        elif value.tag == _NULL:
            yield _Problem(place, f"{name} has no value; it must be {info.allowed}")
        elif not value.tag.startswith("tag:yaml.org,2002:"):
            yield _Problem(place, f"{name} has the tag {value.tag}, which means nothing here")
        else:
            # The text as it stands, not what YAML makes of it: `no` is a word here, and 0755 is not octal.
            yield _Given(name, value.value, place)


def _written(node: yaml.Node, path: Path, name: str, problems: list[_Problem]) -> object:
    """What stands there, every scalar as its text; null stays null. What is given twice is among the problems then."""
    import yaml

    if name.count(".") > _DEEPEST:  # an alias may well contain itself
        problems.append(_Problem(_place(path, node), "is nested too deeply"))
        return None
    if isinstance(node, yaml.SequenceNode):
        return [_written(item, path, f"{name}.", problems) for item in node.value]
    if not isinstance(node, yaml.MappingNode):
        return None if node.tag == _NULL else node.value
    found: dict[str, object] = {}
    for field, _, value in _entries(node, path, f"{name}."):
        if isinstance(field, _Problem):
            problems.append(field)
        else:
            found[field] = _written(value, path, f"{name}.{field}", problems)
    return found


def _entries(node: yaml.MappingNode, path: Path, prefix: str) -> Iterator[tuple[str | _Problem, Any, Any]]:
    """Name, key node and value node of each entry; a problem in place of a name that cannot be used."""
    import yaml

    seen: dict[str, int] = {}
    for key, value in node.value:
        name: str | _Problem
        if not isinstance(key, yaml.ScalarNode):
            name = _Problem(_place(path, key), "a name is expected here, not a list or a section")
        elif key.value in seen:
            name = _Problem(_place(path, key), f"{prefix}{key.value} is already given in line {seen[key.value]}")
        else:
            name = key.value
            seen[key.value] = key.start_mark.line + 1
        yield name, key, value


def _place(path: Path, node: Any) -> str:
    return f"{path}:{node.start_mark.line + 1}"
