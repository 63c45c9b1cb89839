"""What every section of the settings is made of: how values are written, and what else is said of a setting.

Here durations are seconds and sizes are bytes, however they were written.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from helios.model.balancing import parse_quiet_hours
from helios.model.durability import parse_durabilities
from helios.model.ids import Address
from helios.model.notation import (
    parse_duration,
    parse_host,
    parse_listen,
    parse_secret,
    parse_size,
    parse_store_url,
    parse_user_list,
)
from helios.model.users import User

Seconds = Annotated[float, BeforeValidator(parse_duration), Field(allow_inf_nan=False)]
Bytes = Annotated[int, BeforeValidator(parse_size)]
Listen = Annotated[Address, BeforeValidator(parse_listen), PlainSerializer(str, return_type=str)]
StoreUrl = Annotated[str, BeforeValidator(parse_store_url)]
Secret = Annotated[str, BeforeValidator(parse_secret)]
Host = Annotated[str, BeforeValidator(parse_host)]
Users = Annotated[tuple[User, ...], BeforeValidator(parse_user_list)]
Durabilities = Annotated[str, BeforeValidator(parse_durabilities)]
Hours = Annotated[str, BeforeValidator(parse_quiet_hours)]


def unit(name: str) -> dict[str, Any]:
    """What the number of a setting counts."""
    return {"unit": name}


def restart(why: str, unit: str = "") -> dict[str, Any]:
    """A setting that a running process does not take up, and why; each process has its own."""
    return {"unit": unit, "restart": why}


def fixed(why: str, unit: str = "") -> dict[str, Any]:
    """A setting that belongs to the cluster and that nothing can change once there is one, and why."""
    return {"unit": unit, "fixed": why}


class Section(BaseModel):
    """A group of settings; unknown names are refused and values never change."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @classmethod
    def shared(cls) -> tuple[str, ...]:
        """The names of the settings of this group that all processes of a cluster share."""
        extras = ((name, field.json_schema_extra) for name, field in cls.model_fields.items())
        return tuple(name for name, extra in extras if not (isinstance(extra, dict) and "restart" in extra))
