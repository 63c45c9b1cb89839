"""Whether servers' clocks agree: a key ends by the clock of the server that has it, and takes its end along."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime

from helios.coordinator.access import Access
from helios.coordinator.compatibility import Move
from helios.errors import EngineError, Refused
from helios.model.topology import Member
from helios.ports.clock import Clock

logger = logging.getLogger(__name__)

MAX_SKEW_S = 1.0
_TIMEOUT_S = 3.0
_LOOKS = 3
_SHARP_S = 0.1


@dataclass(frozen=True, slots=True)
class Reading:
    """What a server's clock said, and by how much it is ahead of the coordinator's own clock, between two bounds."""

    said_s: float
    min_s: float
    max_s: float


def skew_s(one: Reading, other: Reading) -> float:
    """By how much one clock is ahead of the other for certain, negative where it is behind."""
    return max(0.0, one.min_s - other.max_s) + min(0.0, one.max_s - other.min_s)


async def refuse_skewed(access: Access, clock: Clock, moves: Collection[Move]) -> None:
    """Raise Refused, with both clocks, for the first (source, target) whose clocks differ too much for certain.

    A server that does not answer in time is no reason: the copy will tell.
    """
    members = {member.id: member for move in moves for member in move}
    found = await asyncio.gather(*(_read(access, clock, member) for member in members.values()))
    readings = dict(zip(members, found, strict=True))
    for source, target in moves:
        here, there = readings[source.id], readings[target.id]
        if here is not None and there is not None and abs(skew_s(there, here)) > MAX_SKEW_S:
            raise Refused(_complaint(source, here, target, there))


async def _read(access: Access, clock: Clock, member: Member) -> Reading | None:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            engine = await access.administer(member)
            try:
                readings = []
                for _ in range(_LOOKS):
                    asked_s = clock.monotonic()
                    said_s = await engine.now_s()
                    readings.append(Reading(said_s, said_s - clock.monotonic(), said_s - asked_s))
                    if readings[-1].max_s - readings[-1].min_s < _SHARP_S:
                        break
                return min(readings, key=lambda reading: reading.max_s - reading.min_s)
            finally:
                await engine.close()
    except (EngineError, TimeoutError) as error:
        logger.info("clock not read: member=%s error=%s", member.id, str(error) or f"no answer within {_TIMEOUT_S:g} s")
        return None


def _complaint(source: Member, here: Reading, target: Member, there: Reading) -> str:
    ahead_s = (there.min_s + there.max_s - here.min_s - here.max_s) / 2
    sooner = "too early" if ahead_s > 0 else "too late"
    # Both clocks as they are at the same moment.
    times = {source.node: here.said_s, target.node: here.said_s + ahead_s}
    said = " and ".join(f"{node}'s says {_shown(time_s)}" for node, time_s in times.items())
    return (
        f"the clocks of {source.node} and {target.node} differ by {abs(ahead_s):.1f} s, and keys with a time to live "
        f"would end {sooner} on {target.node}: {said}. At most {MAX_SKEW_S:g} s is allowed: set both clocks (by NTP: "
        "chrony or systemd-timesyncd, say) and ask again; nothing was moved"
    )


def _shown(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M:%S.%f")[:-4] + " UTC"
