"""How durations, sizes, addresses and hosts are written in settings, and read."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from urllib.parse import unquote

from helios.errors import InvalidInput
from helios.model.ids import Address
from helios.model.users import User, parse_users

_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+\Z")
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)\s*(b|kb|mb|gb)?\Z")
_SIZE_UNITS = {None: 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30}
_NUMBER = re.compile(r"\d+(?:\.\d+)?\Z")
_ETCD_PREFIX = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*\Z")
_ETCD_SCHEMES = ("etcd", "etcds")
_LOGIN = re.compile(r"(\w+)://([^:@]*):.*@")
_HOST_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?\Z")


def parse_duration(value: object) -> float:
    """Seconds behind `500ms`, `30s`, `5m`, `1h30m`, `7d` or a plain number of seconds; raises ValueError."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    text = value.strip() if isinstance(value, str) else ""
    if _NUMBER.match(text):
        return float(text)
    if not _DURATION.match(text):
        raise ValueError(f"{value!r} is not a duration: write 500ms, 30s, 5m, 1h or a number of seconds")
    # Rounded to microseconds, so that 100ms is the number that people would write for it.
    return round(sum(float(n) * _DURATION_UNITS[unit] for n, unit in _DURATION_PART.findall(text)), 6)


def parse_size(value: object) -> int:
    """Bytes behind `64kb`, `512mb`, `2gb` (steps of 1024) or a plain number of bytes; raises ValueError."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.match(value.strip().lower()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{value!r} is not a size: write 64kb, 512mb, 2gb or a number of bytes")
    return int(match[1]) * _SIZE_UNITS[match[2]]


def parse_listen(value: object) -> Address:
    """The address behind `host:port`; raises ValueError."""
    if isinstance(value, Address):
        return value
    try:
        return Address.parse(value if isinstance(value, str) else repr(value))
    except InvalidInput as error:
        raise ValueError(str(error)) from error


def parse_host(value: object) -> str:
    """A host name or an IP address without a port; raises ValueError."""
    text = value.strip() if isinstance(value, str) else ""
    try:
        return str(ip_address(text))
    except ValueError:
        if _HOST_NAME.match(text):
            return text
    raise ValueError(f"{value!r} is not a host: write an IP address or a name, without a port")


def parse_store_url(value: object) -> str:
    """The path of a store's file, empty for the one in the data folder, or etcd's URL; raises ValueError."""
    text = value.strip() if isinstance(value, str) else repr(value)
    scheme, separator, path = text.partition("://")
    if not separator:
        return text
    if scheme == "sqlite":
        if path.startswith("/") and len(path) > 1:
            return path
        raise ValueError(f"{text!r} names no file by its whole path: write sqlite:///var/lib/helios/helios.db")
    if scheme in _ETCD_SCHEMES:
        split_etcd_url(text)
        return text
    raise ValueError(
        f"{without_password(text)!r} is no place for a store: write the path of a file, sqlite:/// and the path, or "
        "etcd://HOST:PORT/PREFIX"
    )


@dataclass(frozen=True, slots=True)
class EtcdUrl:
    """What `etcd://[USER[:PASSWORD]@]HOST:PORT[,HOST:PORT...]/PREFIX` says; `etcds://` is TLS."""

    places: tuple[Address, ...]
    prefix: str
    user: str = ""
    password: str = field(default="", repr=False)
    tls: bool = False


def split_etcd_url(url: str) -> EtcdUrl:
    """The parts of etcd's URL; raises ValueError."""
    scheme, _, rest = url.partition("://")
    before, _, prefix = rest.rpartition("@")[2].partition("/")
    user, _, password = rest.rpartition("@")[0].partition(":")
    if not _ETCD_PREFIX.match(prefix):
        raise ValueError(
            f"{without_password(url)!r} names no prefix for the cluster's keys: write etcd://HOST:PORT/PREFIX"
        )
    places = tuple(parse_listen(place) for place in before.split(","))
    return EtcdUrl(places, prefix, unquote(user), unquote(password), scheme == "etcds")


def parse_secret(value: object) -> str:
    """A text that is shown to nobody."""
    return value if isinstance(value, str) else repr(value)


def without_password(url: str) -> str:
    """A URL as it may be shown; other texts as they are."""
    return _LOGIN.sub(r"\1://\2:***@", url)


def format_duration(seconds: float) -> str:
    """The shortest exact way to write a duration: `500ms`, `90s`, `1h`."""
    milliseconds = round(seconds * 1000, 3)
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds / size:.0f}{unit}"
    return f"{milliseconds:.3f}".rstrip("0").rstrip(".") + "ms" if milliseconds else "0s"


def format_size(size_bytes: int) -> str:
    """The shortest exact way to write a size: `64kb`, `512mb`, `1gb`."""
    for unit, size in (("gb", 1 << 30), ("mb", 1 << 20), ("kb", 1 << 10)):
        if size_bytes and size_bytes % size == 0:
            return f"{size_bytes // size}{unit}"
    return str(size_bytes)


def parse_user_list(value: object) -> tuple[User, ...]:
    """The users behind a mapping by name, or its JSON; raises ValueError."""
    try:
        return parse_users(value)
    except InvalidInput as error:
        raise ValueError(str(error)) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach what listens on `host`. A name other than localhost counts as remote."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
