"""The INFO of several servers as that of one: what can be added up is, what is one server's word for all is taken."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

Section: TypeAlias = dict[str, str]
Info: TypeAlias = dict[str, Section]

# Numbers that say nothing when added up: how long, how many at most, when, or a setting.
_HIGHEST = frozenset(
    (
        "loading",
        "async_loading",
        "current_cow_size_age",
        "rdb_bgsave_in_progress",
        "rdb_last_bgsave_time_sec",
        "rdb_current_bgsave_time_sec",
        "aof_rewrite_in_progress",
        "aof_rewrite_scheduled",
        "aof_last_rewrite_time_sec",
        "aof_current_rewrite_time_sec",
        "module_fork_in_progress",
        "slot_migration_fork_in_progress",
        "latest_fork_usec",
        "total_system_memory",  # most often several servers share a machine
        "active_defrag_running",
        "instantaneous_eventloop_duration_usec",
        "avg_ttl",
    )
)
_LOWEST = frozenset(
    ("aof_enabled", "rdb_last_save_time", "arch_bits", "hz", "configured_hz", "clients_hz", "lru_clock")
)
_TAKEN = frozenset(("redis_git_sha1", "redis_git_dirty", "redis_build_id"))
_AVERAGED = ("_ratio", "_perc")
_STATES = ("_status",)


def parsed(text: bytes) -> Info:
    """The fields by section, whose names are in lower case and without spaces."""
    info: Info = {}
    section: Section = {}
    for line in text.decode("utf-8", "replace").splitlines():
        if line.startswith("#"):
            section = info.setdefault(line[1:].replace(" ", "").lower(), {})
        elif ":" in line:
            name, _, value = line.partition(":")
            section[name] = value
    return info


def merged(infos: Sequence[Info]) -> Info:
    """One for all, with the first's sections and fields in their order."""
    if not infos:
        return {}
    whole: Info = {}
    for section, fields in infos[0].items():
        there = [info.get(section, {}) for info in infos]
        whole[section] = {name: _one(name, [each[name] for each in there if name in each]) for name in fields}
    for section, fields in whole.items():
        whole[section] = {name: _derived(name, value, fields) for name, value in fields.items()}
    return whole


def _one(name: str, values: list[str]) -> str:
    if name in _TAKEN:
        return values[0]
    if name.endswith(_STATES):
        return next((value for value in values if value != "ok"), values[0])
    if name.startswith("db") and "=" in values[0]:
        return _database(values)
    if name in _LOWEST:
        return str(min(map(int, values)))
    if all(map(_is_integer, values)):
        numbers = [int(value) for value in values]
        return str(_total(name, numbers))
    try:
        floats = [float(value.removesuffix("%")) for value in values]
    except ValueError:
        return values[0]
    if name.endswith(_AVERAGED):
        return f"{sum(floats) / len(floats):.2f}" + ("%" if values[0].endswith("%") else "")
    decimals = len(values[0].partition(".")[2])
    return f"{sum(floats):.{decimals}f}"


def _total(name: str, numbers: list[int]) -> int:
    if name in _HIGHEST:
        return max(numbers)
    # No limit of one is no limit of all; -1 stands for what has never been.
    if name == "maxmemory" and not all(numbers):
        return 0
    known = [number for number in numbers if number >= 0]
    return sum(known) if known else numbers[0]


def _database(values: Iterable[str]) -> str:
    parts = [dict(part.partition("=")[::2] for part in value.split(",")) for value in values]
    return ",".join(f"{name}={_total(name, [int(part.get(name, 0)) for part in parts])}" for name in parts[0])


def _is_integer(value: str) -> bool:
    return value.removeprefix("-").isdecimal()


def _derived(name: str, value: str, fields: Mapping[str, str]) -> str:
    """What follows from other fields is told of their sums."""
    if name.endswith("_human") and _is_integer(fields.get(name.removesuffix("_human"), "")):
        return human(int(fields[name.removesuffix("_human")]))
    if name == "mem_fragmentation_ratio":
        return f"{int(fields['used_memory_rss']) / max(int(fields['used_memory']), 1):.2f}"
    if name == "used_memory_peak_perc":
        return f"{100 * int(fields['used_memory']) / max(int(fields['used_memory_peak']), 1):.2f}%"
    return value


def human(size: int) -> str:
    """Bytes as servers write them for people."""
    if size < 1024:
        return f"{size}B"
    scaled = float(size)
    for unit in "KMGT":
        scaled /= 1024
        if scaled < 1024:
            return f"{scaled:.2f}{unit}"
    return f"{scaled / 1024:.2f}P"
