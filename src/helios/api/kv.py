"""Keys and values over HTTP."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from starlette.convertors import Convertor, register_url_convertor

from helios.api.kv_replies import KeyValue, execute
from helios.api.login import demand
from helios.api.requests import TTL_MAX_S, TTL_MIN_S, StoreValue, as_text, documented_parameter, parse, query, read_body
from helios.api.shards import errors
from helios.errors import InvalidInput, NotFound


class _AnyKey(Convertor[str]):
    """A path to its end, line breaks included, at which Starlette's own kind ends."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        """The path as it was decoded. The key is taken from what was sent instead."""
        return value

    def to_string(self, value: str) -> str:
        """The path as it stands."""
        return value


register_url_convertor("key", _AnyKey())
_PATH = "/{key:key}"
_PREFIX = (b"", b"api", b"v1", b"kv")
_RAW = "application/octet-stream"

_KEY = documented_parameter(
    "key", "the key, percent-encoded; it may hold slashes and bytes that are not UTF-8", where="path"
)
_TTL = documented_parameter("ttl", "seconds until the key ends", required=False, kind="number")


def kv_router(kv: KeyValue, max_value_bytes: int) -> APIRouter:
    """The endpoints under /api/v1/kv; a body of more than `max_value_bytes` is refused."""
    router = APIRouter(prefix="/api/v1/kv", tags=["kv"])

    @router.get(
        _PATH,
        responses=errors(s404="no such key", s409="the key does not hold a string")
        | {200: {"description": "the value", "content": _value_content()}},
        response_class=JSONResponse,
        summary="Read a value",
        description=f"JSON, with `value_base64` for a value that is not UTF-8; the bare bytes with `Accept: {_RAW}`.",
        openapi_extra={"parameters": [_KEY]},
    )
    async def get_value(request: Request) -> Response:
        query(request)
        key = _key(request)
        value = await execute(kv, b"GET", key)
        if value is None:
            raise _missing(key)
        assert isinstance(value, bytes)
        vary = {"Vary": "Accept", "X-Content-Type-Options": "nosniff"}
        if _RAW in request.headers.get("accept", ""):
            return Response(value, media_type=_RAW, headers=vary)
        return JSONResponse(_text_or_base64("key", key) | _text_or_base64("value", value), headers=vary)

    async def store_value(request: Request) -> Response:
        key = _key(request)
        demand(b"SET", key, b"")  # before a body is read that may be long
        value, ttl_s = _to_store(request, await read_body(request, max_value_bytes))
        expiry = [] if ttl_s is None else [b"PX", b"%d" % round(ttl_s * 1000)]
        await execute(kv, b"SET", key, value, *expiry)
        return JSONResponse(_text_or_base64("key", key) | {"status": "stored", "ttl": ttl_s})

    for method in ("PUT", "POST"):
        router.add_api_route(
            _PATH,
            store_value,
            methods=[method],
            operation_id=f"{method.lower()}_value",
            responses=errors(s413="the value is too large") | {200: {"description": "stored"}},
            response_class=JSONResponse,
            summary="Write a value",
            description="The body is the value as it stands, or a JSON object if its Content-Type is application/json.",
            openapi_extra={"parameters": [_KEY, _TTL], "requestBody": _store_body()},
        )

    @router.delete(
        _PATH,
        responses=errors(s404="no such key") | {200: {"description": "deleted"}},
        response_class=JSONResponse,
        summary="Delete a key of any type",
        openapi_extra={"parameters": [_KEY]},
    )
    async def delete_key(request: Request) -> Response:
        query(request)
        key = _key(request)
        if not await execute(kv, b"DEL", key):
            raise _missing(key)
        return JSONResponse(_text_or_base64("key", key) | {"status": "deleted"})

    return router


def _key(request: Request) -> bytes:
    """The key as bytes, from the path as it was sent: the decoded path has lost what is not UTF-8."""
    raw: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    parts = raw.partition(b"?")[0].split(b"/", len(_PREFIX))
    # An encoded slash in the prefix would shift the parts; the path that routed the request does not show it.
    if len(parts) != len(_PREFIX) + 1 or tuple(map(unquote_to_bytes, parts[:-1])) != _PREFIX:
        raise NotFound(f"there is nothing at {request.url.path}; /docs lists what there is")
    key = unquote_to_bytes(parts[-1])
    if not key:
        raise InvalidInput("the key is missing: write it behind /api/v1/kv/")
    return key


def _to_store(request: Request, body: bytes) -> tuple[bytes, float | None]:
    """The value and its time to live in seconds, wherever the request has put them."""
    ttl_s = _ttl(query(request, "ttl"))
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return body, ttl_s
    parsed = parse(StoreValue, body)
    if ttl_s is not None and parsed.ttl is not None:
        raise InvalidInput("the time to live is given twice: in the body and as a parameter")
    if (parsed.value is None) == (parsed.value_base64 is None):
        raise InvalidInput("the body needs either value or value_base64")
    return _value_of(parsed), parsed.ttl if ttl_s is None else ttl_s


def _value_of(parsed: StoreValue) -> bytes:
    try:
        if parsed.value_base64 is not None:
            return base64.b64decode(parsed.value_base64, validate=True)
        return (parsed.value or "").encode()
    except ValueError as error:
        raise InvalidInput(f"the value cannot be decoded: {error}") from error


def _ttl(parameters: dict[str, bytes]) -> float | None:
    if "ttl" not in parameters:
        return None
    text = as_text("ttl", parameters["ttl"])
    try:
        ttl_s = float(text)
    except ValueError as error:
        raise InvalidInput(f"ttl must be a number of seconds, not {text!r}") from error
    if not TTL_MIN_S <= ttl_s <= TTL_MAX_S:
        raise InvalidInput(f"ttl must be from {TTL_MIN_S} to {TTL_MAX_S} seconds")
    return ttl_s


def _missing(key: bytes) -> NotFound:
    return NotFound(f"there is no key {key.decode('utf-8', 'backslashreplace')!r}")


def _text_or_base64(name: str, value: bytes) -> dict[str, str]:
    """One JSON field: the bytes as text, or under another name as base64 where they are not UTF-8."""
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        return {f"{name}_base64": base64.b64encode(value).decode()}


def _value_content() -> dict[str, Any]:
    text = {"type": "string"}
    fields = {"key": text, "key_base64": text, "value": text, "value_base64": text}
    return {
        "application/json": {"schema": {"type": "object", "properties": fields}},
        _RAW: {"schema": {"type": "string", "format": "binary"}},
    }


def _store_body() -> dict[str, Any]:
    # An absent body is an empty value.
    return {
        "required": False,
        "content": {
            _RAW: {"schema": {"type": "string", "format": "binary"}},
            "application/json": {"schema": StoreValue.model_json_schema()},
        },
    }
