"""Model values to JSON and back; what comes back has been validated."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from helios.errors import StoreError

T = TypeVar("T")


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
        value: T = _adapter(kind).validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = "".join(f"{part}: " for part in first["loc"])
        raise StoreError(
            f"a stored {kind.__name__} cannot be read ({where}{first['msg']}): if another release of Helios runs on "
            "this store, install that one here"
        ) from error
    return value
