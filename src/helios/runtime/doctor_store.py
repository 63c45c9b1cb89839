"""What `helios doctor` finds out about the store."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from helios.errors import HeliosError
from helios.model.notation import format_size
from helios.model.settings import Settings
from helios.node.files import DataFolder
from helios.ports.location import StoreLocation
from helios.runtime.backends import locate
from helios.runtime.findings import Finding, Verdict
from helios.stores.etcd_gateway import too_old
from helios.stores.etcd_location import EtcdLocation
from helios.stores.etcd_probe import EndpointHealth, probe

_SLOW_MS = 50.0
_FULL = 0.8
_QUOTA_AS_IT_COMES = 2 << 30
_CLOCK_OFF_S = 2.0
_SPACE = "etcdctl compact and defrag, then alarm disarm; a bigger --quota-backend-bytes helps, too"
_REACH = "start it, or see what it says; one that is gone for good is taken out of store.url"


def store_findings(settings: Settings, data: DataFolder) -> Iterator[Finding]:
    """How the store is: for etcd each of its endpoints."""
    try:
        yield from _findings(locate(settings, data))
    except HeliosError as error:
        yield Finding("store", Verdict.FAIL, str(error), "see the store.* settings")


def _findings(location: StoreLocation) -> Iterator[Finding]:
    if location.paths:
        found = str(location) if location.exists() else f"{location}, which is made at the start"
        yield Finding("store", Verdict.OK, found)
        return
    assert isinstance(location, EtcdLocation), "there are two kinds"
    endpoints = asyncio.run(probe(location.access, location.prefix))
    for health in endpoints:
        yield from _endpoint(health)
    yield _agreement(location, endpoints)


def _endpoint(health: EndpointHealth) -> Iterator[Finding]:
    check = f"etcd {health.endpoint.partition('://')[2]}"
    if not health.version:
        yield Finding(check, Verdict.WARN, f"out of reach: {health.error}", _REACH)
        return
    if too_old(health.version):
        yield Finding(check, Verdict.FAIL, f"version {health.version}", "3.4.22, 3.5.6 or newer are safe: upgrade etcd")
        return
    quota = health.quota_bytes or _QUOTA_AS_IT_COMES
    used = health.size_bytes / quota
    found = [f"version {health.version}"]
    if health.round_trip_ms is not None:
        found.append(f"a round trip takes {health.round_trip_ms:g} ms")
    found.append(
        f"{format_size(health.size_bytes >> 20 << 20)} of {format_size(quota)} used ({used:.0%}; "
        f"{health.in_use_bytes / max(health.size_bytes, 1):.0%} of that in use)"
    )
    said = ", ".join(found)
    if health.alarms:
        yield Finding(check, Verdict.FAIL, f"{said}; alarms: {', '.join(health.alarms)}", _SPACE)
    elif health.error:
        if health.has_leader:
            yield Finding(check, Verdict.WARN, f"{said}; {health.error}", "see what it says, and its log")
        else:
            yield Finding(check, Verdict.WARN, f"{said}; it has no leader", "start the members that it does not reach")
    elif used > _FULL:
        yield Finding(check, Verdict.WARN, said, _SPACE)
    elif health.round_trip_ms is not None and health.round_trip_ms > _SLOW_MS:
        yield Finding(
            check, Verdict.WARN, said, "moves pause for several round trips: give etcd a faster disk or network"
        )
    else:
        yield Finding(check, Verdict.OK, said)
    if health.clock_ahead_s is not None and abs(health.clock_ahead_s) > _CLOCK_OFF_S:
        word = "ahead of" if health.clock_ahead_s > 0 else "behind"
        yield Finding(
            check,
            Verdict.WARN,
            f"its clock is about {abs(health.clock_ahead_s):.0f} s {word} this machine's",
            "harmless to the store; keep clocks together by NTP, as moves of keys that expire need it",
        )


def _agreement(location: EtcdLocation, endpoints: Sequence[EndpointHealth]) -> Finding:
    agreeing = [health for health in endpoints if health.round_trip_ms is not None]
    if not agreeing:
        reasons = {health.error for health in endpoints if health.version and health.error}
        return Finding(
            "store",
            Verdict.FAIL,
            f"{location} does not agree on anything{': ' if reasons else ''}{'; '.join(sorted(reasons))}",
            "more than half of etcd's members must run and reach each other, and let this user in",
        )
    there = "holds a cluster" if location.exists() else "is empty"
    return Finding("store", Verdict.OK, f"{location} {there}; {len(agreeing)} of {len(endpoints)} endpoints answer")
