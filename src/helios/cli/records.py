"""The formats of load and dump: lines of a file to records and back, without any loss.

TSV: `key<TAB>value`, one pair a line, every byte as it stands; only a line feed ends a line, and a
value may itself hold tabs. A line that is exactly HEADER switches the lines behind it to escapes
(`\\t`, `\\n`, `\\r`, `\\\\`). It has no tab, so no pair can be mistaken for it, and a file without it
never has a backslash touched. Dumps begin with it. TSV holds strings without their time to live.

JSON Lines: an object a line. `key` or `key_base64`; then `value` or `value_base64` for a string, or
`dump` (base64 of DUMP) for any type; optionally `ttl` (seconds from loading) or `expire_at_ms` (Unix).
"""

from __future__ import annotations

import binascii
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from helios.cli.output import text_or_base64

HEADER = b"#helios-cli escaped tsv"
FORMATS = ("tsv", "jsonl")

_ESCAPES = {b"\\": b"\\\\", b"\t": b"\\t", b"\n": b"\\n", b"\r": b"\\r"}
_UNESCAPES = {escape[1:]: raw for raw, escape in _ESCAPES.items()}
_TO_ESCAPE = re.compile(rb"[\\\t\n\r]")
_TO_UNESCAPE = re.compile(rb"\\(.?)", re.DOTALL)
_FIELDS = frozenset({"key", "key_base64", "value", "value_base64", "dump", "ttl", "expire_at_ms"})
_MILLISECONDS_MAX = 2**62


class BadLine(ValueError):
    """A line that is no record; the message says why."""


@dataclass(frozen=True, slots=True)
class Record:
    """A key with its value (`serialised`: as DUMP gave it) and when it ends, by one of two clocks or never."""

    key: bytes
    value: bytes
    serialised: bool = False
    ttl_ms: int | None = None
    expire_at_ms: int | None = None

    def command(self) -> tuple[bytes, ...]:
        """The command that writes it, whatever the key held before."""
        if self.serialised:
            if self.expire_at_ms is not None:
                return (b"RESTORE", self.key, b"%d" % self.expire_at_ms, self.value, b"REPLACE", b"ABSTTL")
            return (b"RESTORE", self.key, b"%d" % (self.ttl_ms or 0), self.value, b"REPLACE")
        if self.expire_at_ms is not None:
            return (b"SET", self.key, self.value, b"PXAT", b"%d" % self.expire_at_ms)
        if self.ttl_ms is not None:
            return (b"SET", self.key, self.value, b"PX", b"%d" % self.ttl_ms)
        return (b"SET", self.key, self.value)


class TsvLines:
    """Reads the lines of one TSV file in order; it remembers whether the header has come."""

    def __init__(self) -> None:
        self._escaped = False

    def parse(self, line: bytes) -> Record | None:
        """The record of a line without its line feed, None for the header; raises BadLine."""
        key, tab, value = line.partition(b"\t")
        if not tab:
            if line == HEADER:
                self._escaped = True
                return None
            raise BadLine("no tab between key and value" if line else "the line is empty")
        if self._escaped:
            return Record(_unescaped(key), _unescaped(value))
        if not key:
            raise BadLine("the key is empty")
        return Record(key, value)


def parse_json_line(line: bytes) -> Record:
    """The record of one line of JSON; raises BadLine."""
    try:
        fields = json.loads(line.decode(), object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise BadLine("the line is not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise BadLine(f"not JSON: {error}" if line.strip() else "the line is empty") from error
    if not isinstance(fields, dict):
        raise BadLine("not a JSON object")
    unknown = sorted(fields.keys() - _FIELDS)
    if unknown:
        raise BadLine(f"unknown field {unknown[0]!r}; known are {', '.join(sorted(_FIELDS))}")
    key = _one_of(fields, {"key": _text, "key_base64": _base64})
    value = _one_of(fields, {"value": _text, "value_base64": _base64, "dump": _base64})
    if "ttl" in fields and "expire_at_ms" in fields:
        raise BadLine("both ttl and expire_at_ms")
    return Record(
        key,
        value,
        serialised="dump" in fields,
        ttl_ms=_number(fields, "ttl", 1000),
        expire_at_ms=_number(fields, "expire_at_ms", 1),
    )


def parser(file_format: str) -> Callable[[bytes], Record | None]:
    """What turns the lines of one file, in order and without their line feeds, into records."""
    return TsvLines().parse if file_format == "tsv" else parse_json_line


def tsv_line(record: Record) -> bytes:
    """The line of a string behind HEADER; its time to live is lost."""
    return b"%b\t%b\n" % (_escaped(record.key), _escaped(record.value))


def json_line(record: Record) -> bytes:
    """The line of a record of any type."""
    fields: dict[str, Any] = text_or_base64("key", record.key)
    if record.serialised:
        fields["dump"] = b64encode(record.value).decode()
    else:
        fields |= text_or_base64("value", record.value)
    if record.expire_at_ms is not None:
        fields["expire_at_ms"] = record.expire_at_ms
    if record.ttl_ms is not None:
        fields["ttl"] = record.ttl_ms / 1000
    return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _escaped(raw: bytes) -> bytes:
    return _TO_ESCAPE.sub(lambda found: _ESCAPES[found[0]], raw)


def _unescaped(text: bytes) -> bytes:
    if b"\t" in text:
        raise BadLine("a tab within a value, where dumps write \\t")
    return _TO_UNESCAPE.sub(_unescape, text) if b"\\" in text else text


def _unescape(found: re.Match[bytes]) -> bytes:
    raw = _UNESCAPES.get(found[1])
    if raw is None:
        raise BadLine(f"unknown escape {found[0].decode('utf-8', 'backslashreplace')}")
    return raw


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object none of whose fields is given twice, of which one would be lost."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a field is given twice")
    return fields


def _one_of(fields: dict[str, Any], readers: dict[str, Callable[[str, Any], bytes]]) -> bytes:
    """The bytes of the one field of those in `readers` that must be there."""
    given = [name for name in readers if name in fields]
    if len(given) != 1:
        raise BadLine(f"exactly one of {', '.join(readers)} is needed, not {' and '.join(given) or 'none'}")
    return readers[given[0]](given[0], fields[given[0]])


def _text(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise BadLine(f"{name} is not a string")
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise BadLine(f"{name} holds half a surrogate pair") from error


def _base64(name: str, value: Any) -> bytes:
    if not isinstance(value, str):
        raise BadLine(f"{name} is not a string")
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadLine(f"{name} is not base64: {error}") from error


def _number(fields: dict[str, Any], name: str, factor: int) -> int | None:
    """A positive field times `factor`, as whole milliseconds."""
    if name not in fields:
        return None
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value * factor < _MILLISECONDS_MAX:
        raise BadLine(f"{name} is not a positive number within bounds")
    if factor == 1 and not isinstance(value, int):
        raise BadLine(f"{name} is not a whole number")
    return max(1, round(value * factor))
