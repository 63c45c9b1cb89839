"""How the members of an etcd are: what `helios doctor` tells of them."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from email.utils import parsedate_to_datetime
from statistics import median

from helios.errors import HeliosError
from helios.stores.etcd_gateway import Access, Gateway, encoded, items, number
from helios.stores.http_client import Response

_LOOKS = 5
_QUOTA = re.compile(rb"^etcd_server_quota_backend_bytes (\S+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """One endpoint. Where it is not within reach only `error` says something; 0 and None are what is not known.

    A round trip is a read that etcd's leader has confirmed. `clock_ahead_s` is exact to a second.
    """

    endpoint: str
    error: str = ""
    version: str = ""
    has_leader: bool = False
    round_trip_ms: float | None = None
    size_bytes: int = 0
    in_use_bytes: int = 0
    quota_bytes: int = 0
    alarms: tuple[str, ...] = ()
    clock_ahead_s: float | None = None


async def probe(access: Access, prefix: str) -> list[EndpointHealth]:
    """Each endpoint by itself."""
    return [await _probe_one(replace(access, endpoints=(endpoint,)), prefix) for endpoint in access.endpoints]


async def _probe_one(access: Access, prefix: str) -> EndpointHealth:
    (endpoint,) = access.endpoints
    gateway = Gateway(access)
    found = EndpointHealth(endpoint)
    try:
        try:
            page = await gateway.page(endpoint, "/version")
            found = replace(found, version=await gateway.version(endpoint), clock_ahead_s=_ahead_s(page))
            status = await gateway.call("/v3/maintenance/status", {}, repeatable=True)
        except HeliosError as error:
            return replace(found, error=str(error) or type(error).__name__)
        found = replace(
            found,
            has_leader=number(status, "leader") != 0,
            size_bytes=number(status, "dbSize"),
            in_use_bytes=number(status, "dbSizeInUse"),
            # Beside alarms etcd names there that it has no leader, which the round trip tells better.
            alarms=tuple(str(error).strip() for error in items(status, "errors") if "alarm:" in str(error)),
            quota_bytes=await _quota(gateway, endpoint),
        )
        try:
            return replace(found, round_trip_ms=await _round_trip_ms(gateway, prefix))
        except HeliosError as error:
            return replace(found, error=str(error))
    finally:
        await gateway.close()


async def _quota(gateway: Gateway, endpoint: str) -> int:
    """What the endpoint may store, if it shows its metrics there."""
    try:
        page = await gateway.page(endpoint, "/metrics")
    except HeliosError:
        return 0
    match = _QUOTA.search(page.content)
    return int(float(match[1])) if match else 0


async def _round_trip_ms(gateway: Gateway, prefix: str) -> float:
    body = {"key": encoded(f"/{prefix}/".encode()), "keys_only": True}
    took_ms = []
    for _ in range(_LOOKS):
        began = time.monotonic()
        await gateway.call("/v3/kv/range", body, repeatable=True)
        took_ms.append((time.monotonic() - began) * 1000)
    return round(median(took_ms), 1)


def _ahead_s(page: Response) -> float | None:
    """How far the clock of who answered is ahead of ours, by the date on the answer, which has no fractions."""
    try:
        return parsedate_to_datetime(page.headers["date"]).timestamp() + 0.5 - time.time()
    except (KeyError, ValueError):
        return None
