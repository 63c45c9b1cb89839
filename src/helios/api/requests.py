"""Reading requests: bodies as JSON whatever they call themselves, parameters as bytes, sizes bounded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeVar
from urllib.parse import unquote_to_bytes

from fastapi import Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from helios.admin.inspection import SHOWN
from helios.api.problems import TooLarge
from helios.errors import InvalidInput

Body = TypeVar("Body", bound=BaseModel)

TTL_MIN_S = 0.001
# A hundred years: longer ones are slips, and servers refuse what overflows their clock.
TTL_MAX_S = 100 * 366 * 86_400

_STRICT = ConfigDict(extra="forbid", strict=True, populate_by_name=False)


class AddNode(BaseModel):
    """A node to take in; `import` moves the keys that it holds to their owners, `flush` discards them.

    With `adopt` they stay where they are, and it is the first node.
    """

    model_config = _STRICT

    node_id: str = Field(examples=["shard-4"])
    address: str = Field(examples=["localhost:6382"])
    weight: float = Field(1.0, gt=0, allow_inf_nan=False)
    zone: str = ""
    import_keys: bool = Field(False, alias="import")
    flush: bool = False
    adopt: bool = False


class RemoveNode(BaseModel):
    """A node to drain and let go."""

    model_config = _STRICT

    node_id: str = Field(examples=["shard-4"])


class Promote(BaseModel):
    """The copy of `shard` on the node leads. With `accept_loss` it does so although members are missing.

    What has not reached it is lost then: for when these are gone for good.
    """

    model_config = _STRICT

    shard: str = Field(examples=["shard-1"])
    node_id: str = Field(examples=["shard-2"])
    accept_loss: bool = False


class Migrate(BaseModel):
    """The keys of `source_node` (`*`: of every node) that match the glob `key_pattern` move to `target_node`.

    With `verify` each copied key is compared with its source before the switch.
    """

    model_config = _STRICT

    source_node: str = Field(examples=["shard-1"])
    target_node: str = Field(examples=["shard-2"])
    key_pattern: str = "*"
    verify: bool = False


class Rebalance(BaseModel):
    """How to even out, and what; the settings decide what is left out.

    `strategy` is minimize_movement or uniform, `by` keys, bytes or ops.
    """

    model_config = _STRICT

    strategy: Literal["", "minimize_movement", "uniform"] = ""
    by: Literal["", "keys", "bytes", "ops"] = ""


class Reweight(BaseModel):
    """The node's new weight: its share relative to the others'."""

    model_config = _STRICT

    weight: float = Field(gt=0, allow_inf_nan=False, examples=[2.0])


class Check(BaseModel):
    """`repair`: mend what is safe to mend, then look again."""

    model_config = _STRICT

    repair: bool = False


class ChangeSetting(BaseModel):
    """The new value, written as a settings file would write it; a number and true or false may stand without quotes."""

    model_config = _STRICT

    value: str | bool | int | float = Field(examples=["5000"])

    @property
    def text(self) -> str:
        """The value as a settings file would write it."""
        return str(self.value).lower() if isinstance(self.value, bool) else str(self.value)


class RollBack(BaseModel):
    """`number`: bring back the values that held after this change; without it, those before the last one."""

    model_config = _STRICT

    number: int | None = Field(None, examples=[3])


class Nothing(BaseModel):
    """No fields: the body may be left out."""

    model_config = _STRICT


class StoreValue(BaseModel):
    """A value as text, or as base64 where it is not UTF-8; `ttl` in seconds."""

    model_config = _STRICT

    value: str | None = None
    value_base64: str | None = None
    ttl: float | None = Field(None, ge=TTL_MIN_S, le=TTL_MAX_S, allow_inf_nan=False)


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The whole body; raises TooLarge as soon as it is known to be longer than the limit."""
    too_large = TooLarge(f"the body is larger than {limit_bytes} bytes, which is the most that is taken here")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared) > limit_bytes:
        raise too_large
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit_bytes:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def parse(kind: type[Body], body: bytes) -> Body:
    """The JSON object that `body` holds; raises InvalidInput naming the first field that is wrong."""
    if not body.strip():
        if not any(field.is_required() for field in kind.model_fields.values()):
            return kind()
        fields = ", ".join(field.alias or name for name, field in kind.model_fields.items() if field.is_required())
        raise InvalidInput(f"the body is empty: send a JSON object with {fields or 'the fields listed in /docs'}")
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise InvalidInput(f"the body is not right: {where + ': ' if where else ''}{first['msg']}") from error


def query(request: Request, *allowed: str) -> dict[str, bytes]:
    """The query's parameters, percent-decoded; raises InvalidInput for one that is unknown or given twice."""
    found: dict[str, bytes] = {}
    for part in request.scope["query_string"].split(b"&"):
        if not part:
            continue
        raw_name, _, raw_value = part.replace(b"+", b" ").partition(b"=")
        name = unquote_to_bytes(raw_name).decode("utf-8", "replace")
        if name not in allowed:
            known = f"known here: {', '.join(allowed)}" if allowed else "none is taken here"
            raise InvalidInput(f"unknown parameter {name!r}; {known}")
        if name in found:
            raise InvalidInput(f"the parameter {name!r} is given twice")
        found[name] = unquote_to_bytes(raw_value)
    return found


def required(request: Request, name: str) -> bytes:
    """The one parameter that the request must have; raises InvalidInput where it is missing or empty."""
    value = query(request, name).get(name, b"")
    if not value:
        raise InvalidInput(f"the parameter {name!r} is missing: write ?{name}=…")
    return value


def how_many(request: Request) -> int:
    """The parameter `count` of a request that takes no other; raises InvalidInput."""
    count = as_text("count", query(request, "count").get("count", str(SHOWN).encode()))
    if not (count.isascii() and count.isdecimal() and int(count[:10]) > 0):
        raise InvalidInput("the parameter 'count' must be a whole number above 0")
    return int(count[:10])


def flag(parameters: dict[str, bytes], name: str) -> bool:
    """Whether the parameter says true; raises InvalidInput where it says neither true nor false."""
    value = parameters.get(name, b"false")
    if value not in (b"true", b"false"):
        raise InvalidInput(f"the parameter {name!r} must be true or false")
    return value == b"true"


def choice(parameters: dict[str, bytes], name: str, choices: Iterable[str]) -> str:
    """One of the choices, or empty where the parameter is left out; raises InvalidInput for anything else."""
    if name not in parameters:
        return ""
    value = as_text(name, parameters[name])
    if value not in list(choices):
        raise InvalidInput(f"the parameter {name!r} must be one of {', '.join(choices)}")
    return value


def as_text(name: str, value: bytes) -> str:
    """The parameter as text; raises InvalidInput where it is not UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"the parameter {name!r} is not UTF-8") from error


def documented_body(kind: type[BaseModel], *, required: bool = True) -> dict[str, Any]:
    """The OpenAPI entry of a body that the handler reads by itself."""
    schema = kind.model_json_schema()
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def documented_parameter(
    name: str,
    description: str,
    *,
    where: str = "query",
    required: bool = True,
    kind: str = "string",
    choices: Iterable[str] = (),
) -> dict[str, Any]:
    """The OpenAPI entry of a parameter that the handler reads by itself."""
    schema: dict[str, Any] = {"type": kind}
    if choices:
        schema["enum"] = list(choices)
    elif kind == "string":
        schema["minLength"] = 1
    elif kind == "integer":
        schema["minimum"] = 1
    elif kind == "number":
        schema |= {"minimum": TTL_MIN_S, "maximum": TTL_MAX_S}
    return {"name": name, "in": where, "required": required, "description": description, "schema": schema}
