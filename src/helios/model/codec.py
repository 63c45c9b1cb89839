"""Model values to JSON and back; what comes back has been validated."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from helios.errors import StoreError

T = TypeVar("T")

# What is read again is mostly as it was: of small records the last so many are kept as they were understood.
_KEPT = 1024
_KEPT_BYTES = 4096

_adapters: dict[type[Any], TypeAdapter[Any]] = {}


def _adapter(kind: type[Any]) -> TypeAdapter[Any]:
    adapter = _adapters.get(kind)
    if adapter is None:
        adapter = _adapters[kind] = TypeAdapter(kind)
    return adapter


def encode(value: object) -> bytes:
    """The value as compact JSON."""
    return _adapter(type(value)).dump_json(value)


def decode(kind: type[T], data: bytes) -> T:
    """The `kind` that `data` holds; raises StoreError where it is not one."""
    try:
        adapter = _adapter(kind)
        value: T = _understood(adapter, data) if len(data) <= _KEPT_BYTES else adapter.validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise StoreError(
            f"a stored {kind.__name__} cannot be read ({where}{first['msg']}): if another release of Helios runs on "
            "this store, install that one here"
        ) from error
    return value


@lru_cache(_KEPT)
def _understood(adapter: TypeAdapter[Any], data: bytes) -> Any:
    """The value, which nobody changes: it is the same for all who ask."""
    return adapter.validate_json(data)
