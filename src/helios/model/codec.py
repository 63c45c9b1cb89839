"""Model values to JSON and back; what comes back has been validated."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

from msgspec import DecodeError
from msgspec.json import Decoder, Encoder

from helios.errors import StoreError
from helios.model.section import Section

T = TypeVar("T")

# What is read again is mostly as it was: of small records the last so many are kept as they were understood.
_KEPT = 1024
_KEPT_BYTES = 4096


def encode(value: object) -> bytes:
    """The value as compact JSON."""
    return _ENCODER.encode(value)


def decode(kind: type[T], data: bytes) -> T:
    """The `kind` that `data` holds; raises StoreError where it is not one."""
    try:
        decoder = _decoder(kind)
        value: T = _understood(decoder, data) if len(data) <= _KEPT_BYTES else decoder.decode(data)
    except (DecodeError, RecursionError) as error:
        what, _, path = str(error).partition(" - at `$")
        where = f"{path[:-1].removeprefix('.')}: " if path else ""
        raise StoreError(
            f"a stored {kind.__name__} cannot be read ({where}{what}): if another release of Helios runs on "
            "this store, install that one here"
        ) from error
    return value


@lru_cache(_KEPT)
def _understood(decoder: Decoder[Any], data: bytes) -> Any:
    """The value, which nobody changes: it is the same for all who ask."""
    return decoder.decode(data)


def _written(value: Any) -> Any:
    """What stands for a value that is no record."""
    if isinstance(value, Section):
        return value.written()
    raise TypeError(f"a record holds no {type(value).__name__}")


def _read(kind: type[Any], written: Any) -> Any:
    """The value that `_written` has written; raises ValueError."""
    return kind.of(written)


_ENCODER = Encoder(enc_hook=_written)
_decoders: dict[type[Any], Decoder[Any]] = {}


def _decoder(kind: type[Any]) -> Decoder[Any]:
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = Decoder(kind, dec_hook=_read)
    return decoder
