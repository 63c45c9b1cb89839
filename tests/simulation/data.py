"""What commands do to one key: the servers of a world carry them out by it, and its judges foretell them by it.

A value is bytes. Lists and streams are written into bytes, so that servers copy them as anything else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from helios.engines.memory.keyspace import GROUPED, STREAM
from helios.resp.encoding import encode

_LIST = b"\x00list"


class Status(bytes):
    """A reply that is a status."""


class Fault(bytes):
    """A reply that is an error."""


Answer: TypeAlias = "bytes | int | list[Any] | None"
OK = Status(b"OK")
NO_KEY = Fault(b"ERR no such key")


@dataclass(frozen=True, slots=True)
class Value:
    """What a key holds; None where it is absent. It ends at that Unix millisecond, if ever."""

    data: bytes | None = None
    expire_at_ms: int | None = None


ABSENT = Value()
_Act: TypeAlias = Callable[[Value, tuple[bytes, ...]], tuple[Value, Answer]]


def perform(name: str, value: Value, arguments: tuple[bytes, ...]) -> tuple[Value, Answer]:
    """What the key holds after a command, and the answer. `arguments` are all but the name and the key."""
    return ACTS[name](value, arguments)


def raw(answer: Answer) -> bytes:
    """An answer as a server sends it."""
    if isinstance(answer, Status):
        return b"+%b\r\n" % answer
    if isinstance(answer, Fault):
        return b"-%b\r\n" % answer
    return encode(answer, 2)


# Strings


def _get(value: Value, _: tuple[bytes, ...]) -> tuple[Value, Answer]:
    return value, value.data


def _set(_: Value, arguments: tuple[bytes, ...]) -> tuple[Value, Answer]:
    data, *end = arguments
    return Value(data, int(end[1]) if end else None), OK


def _getset(value: Value, arguments: tuple[bytes, ...]) -> tuple[Value, Answer]:
    return Value(arguments[0]), value.data


def _append(value: Value, arguments: tuple[bytes, ...]) -> tuple[Value, Answer]:
    whole = (value.data or b"") + arguments[0]
    return Value(whole, value.expire_at_ms), len(whole)


def _incr(value: Value, _: tuple[bytes, ...]) -> tuple[Value, Answer]:
    number = int(value.data or b"0") + 1
    return Value(b"%d" % number, value.expire_at_ms), number


def _del(value: Value, _: tuple[bytes, ...]) -> tuple[Value, Answer]:
    return ABSENT, int(value.data is not None)


def _getdel(value: Value, _: tuple[bytes, ...]) -> tuple[Value, Answer]:
    return ABSENT, value.data


def _exists(value: Value, _: tuple[bytes, ...]) -> tuple[Value, Answer]:
    return value, int(value.data is not None)


def _pexpireat(value: Value, arguments: tuple[bytes, ...]) -> tuple[Value, Answer]:
    if value.data is None:
        return value, 0
    return Value(value.data, int(arguments[0])), 1


def _persist(value: Value, _: tuple[bytes, ...]) -> tuple[Value, Answer]:
    return Value(value.data), int(value.expire_at_ms is not None)


# Lists


def _elements(value: Value) -> list[str]:
    return [] if value.data is None else list(json.loads(value.data.removeprefix(_LIST)))


def _list_of(elements: list[str], value: Value) -> Value:
    return Value(_LIST + json.dumps(elements).encode(), value.expire_at_ms) if elements else ABSENT


def _rpush(value: Value, arguments: tuple[bytes, ...]) -> tuple[Value, Answer]:
    elements = _elements(value) + [argument.decode() for argument in arguments]
    return _list_of(elements, value), len(elements)


def _lpop(value: Value, _: tuple[bytes, ...]) -> tuple[Value, Answer]:
    elements = _elements(value)
    if not elements:
        return value, None
    return _list_of(elements[1:], value), elements[0].encode()


def _lrange(value: Value, _: tuple[bytes, ...]) -> tuple[Value, Answer]:
    return value, [element.encode() for element in _elements(value)]


# Streams: entries with an id that is a number, as "7-0", and one field.


@dataclass(slots=True)
class _Stream:
    last: int
    entries: list[list[Any]]  # id, field
    groups: dict[str, list[Any]]  # name → last id delivered, ids pending

    def value(self, before: Value) -> Value:
        """As a value."""
        mark = GROUPED if self.groups else STREAM
        content = json.dumps([self.entries, self.groups], sort_keys=True)
        return Value(b"%b%d-0 %b" % (mark, self.last, content.encode()), before.expire_at_ms)


def _stream(value: Value) -> _Stream:
    if value.data is None:
        return _Stream(0, [], {})
    last, _, content = value.data.removeprefix(GROUPED).removeprefix(STREAM).partition(b" ")
    return _Stream(_number(last), *json.loads(content))


def _number(word: bytes) -> int:
    return int(word.partition(b"-")[0])


def _xadd(value: Value, arguments: tuple[bytes, ...]) -> tuple[Value, Answer]:
    stream, number = _stream(value), _number(arguments[0])
    if number <= stream.last:
        return value, Fault(b"ERR The ID specified in XADD is equal or smaller than the target stream top item")
    stream.entries.append([number, arguments[2].decode()])
    stream.last = number
    return stream.value(value), b"%d-0" % number


def _xdel(value: Value, arguments: tuple[bytes, ...]) -> tuple[Value, Answer]:
    if value.data is None:
        return value, 0
    stream, number = _stream(value), _number(arguments[0])
    left = [entry for entry in stream.entries if entry[0] != number]
    gone, stream.entries = len(stream.entries) - len(left), left
    return stream.value(value) if gone else value, gone


def _xsetid(value: Value, arguments: tuple[bytes, ...]) -> tuple[Value, Answer]:
    stream, number = _stream(value), _number(arguments[0])
    if value.data is None:
        return value, NO_KEY
    if stream.entries and number < stream.entries[-1][0]:
        return value, Fault(b"ERR The ID specified in XSETID is smaller than the target stream top item")
    stream.last = number
    return stream.value(value), OK


def _xgroup(value: Value, arguments: tuple[bytes, ...]) -> tuple[Value, Answer]:
    """XGROUP CREATE key group 0 MKSTREAM."""
    stream, name = _stream(value), arguments[0].decode()
    if name in stream.groups:
        return value, Fault(b"BUSYGROUP Consumer Group name already exists")
    stream.groups[name] = [0, []]
    return stream.value(value), OK


def _xreadgroup(value: Value, arguments: tuple[bytes, ...]) -> tuple[Value, Answer]:
    """One new entry of a stream for a group, without the stream's name around it."""
    stream, name = _stream(value), arguments[0].decode()
    if name not in stream.groups:
        return value, Fault(b"NOGROUP No such key or consumer group")
    seen, pending = stream.groups[name]
    fresh = next((entry for entry in stream.entries if entry[0] > seen), None)
    if fresh is None:
        return value, None
    stream.groups[name] = [fresh[0], [*pending, fresh[0]]]
    return stream.value(value), b"%d-0" % fresh[0]


def _xack(value: Value, arguments: tuple[bytes, ...]) -> tuple[Value, Answer]:
    stream, name, number = _stream(value), arguments[0].decode(), _number(arguments[1])
    if name not in stream.groups or number not in stream.groups[name][1]:
        return value, 0
    stream.groups[name][1].remove(number)
    return stream.value(value), 1


def _xinfo(value: Value, _: tuple[bytes, ...]) -> tuple[Value, Answer]:
    """Everything that a stream is."""
    return value, NO_KEY if value.data is None else value.data


ACTS: dict[str, _Act] = {
    "GET": _get,
    "SET": _set,
    "GETSET": _getset,
    "APPEND": _append,
    "INCR": _incr,
    "DEL": _del,
    "GETDEL": _getdel,
    "EXISTS": _exists,
    "PEXPIREAT": _pexpireat,
    "PERSIST": _persist,
    "RPUSH": _rpush,
    "LPOP": _lpop,
    "LRANGE": _lrange,
    "XADD": _xadd,
    "XDEL": _xdel,
    "XSETID": _xsetid,
    "XGROUP": _xgroup,
    "XREADGROUP": _xreadgroup,
    "XACK": _xack,
    "XINFO": _xinfo,
}
# What they change, servers name to nobody.
UNNAMED = frozenset(("XSETID", "XREADGROUP", "XACK"))
READING = frozenset(("GET", "EXISTS", "LRANGE", "XINFO"))


def to_argv(name: str, key: bytes, arguments: tuple[bytes, ...]) -> list[bytes]:
    """A command for one key as clients write it."""
    match name:
        case "XGROUP":
            return [b"XGROUP", b"CREATE", key, *arguments, b"0", b"MKSTREAM"]
        case "XREADGROUP":
            return [b"XREADGROUP", b"GROUP", arguments[0], b"consumer", b"COUNT", b"1", b"STREAMS", key, b">"]
        case "XINFO":
            return [b"XINFO", b"STREAM", key]
        case "LRANGE":
            return [b"LRANGE", key, b"0", b"-1"]
    return [name.encode(), key, *arguments]


def from_argv(argv: list[bytes]) -> tuple[str, bytes, tuple[bytes, ...]]:
    """The name, the key and the other arguments of such a command; `to_argv` backwards."""
    name = argv[0].upper().decode()
    match name:
        case "XGROUP":
            return name, argv[2], (argv[3],)
        case "XREADGROUP":
            return name, argv[7], (argv[2],)
        case "XINFO":
            return name, argv[2], ()
        case "LRANGE":
            return name, argv[1], ()
    return name, argv[1], tuple(argv[2:])
