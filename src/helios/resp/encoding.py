"""Replies written out, for RESP2 and RESP3."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

OK = b"+OK\r\n"
NULL = {2: b"$-1\r\n", 3: b"_\r\n"}
NULL_ARRAY = {2: b"*-1\r\n", 3: b"_\r\n"}
EMPTY_ARRAY = b"*0\r\n"


def error_reply(message: str | bytes) -> bytes:
    """An error reply; the first word of the message is its code. Line breaks become spaces."""
    text = message.encode("utf-8", "replace") if isinstance(message, str) else message
    return b"-" + text.replace(b"\r", b" ").replace(b"\n", b" ") + b"\r\n"


def simple(text: str) -> bytes:
    """A simple string; it must not contain line breaks."""
    return b"+" + text.encode() + b"\r\n"


def integer(value: int) -> bytes:
    """An integer reply."""
    return b":%d\r\n" % value


def bulk(value: bytes) -> bytes:
    """A bulk string reply."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def verbatim(text: bytes, protocol: int) -> bytes:
    """A text for people: a verbatim string where the protocol has them."""
    return b"=%d\r\ntxt:%b\r\n" % (len(text) + 4, text) if protocol == 3 else bulk(text)


def array(encoded: Sequence[bytes]) -> bytes:
    """An array of replies that are already encoded."""
    return b"*%d\r\n" % len(encoded) + b"".join(encoded)


def encode(value: Any, protocol: int) -> bytes:
    """A value as RESP2 or RESP3: None, bool, int, float, str and bytes (bulks), mappings, other iterables (arrays).

    RESP2 has no maps (fields and values alternate in an array), no booleans (1 and 0) and no doubles (a bulk).
    """
    if value is None:
        return NULL[protocol]
    if isinstance(value, bool):
        return (b"#t\r\n" if value else b"#f\r\n") if protocol == 3 else integer(int(value))
    if isinstance(value, int):
        return integer(value)
    if isinstance(value, float):
        text = repr(value).removesuffix(".0").encode()
        return b",%b\r\n" % text if protocol == 3 else bulk(text)
    if isinstance(value, str):
        return bulk(value.encode())
    if isinstance(value, bytes):
        return bulk(value)
    if isinstance(value, Mapping):
        flat = [encode(part, protocol) for item in value.items() for part in item]
        return b"%%%d\r\n" % len(value) + b"".join(flat) if protocol == 3 else array(flat)
    if isinstance(value, Iterable):
        return array([encode(part, protocol) for part in value])
    raise TypeError(f"a {type(value).__name__} has no form in RESP")
