"""How balancing decides: what is spread evenly, how far, and when not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_MINUTES_A_DAY = 24 * 60
_SPAN = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)\s*-\s*([01]?\d|2[0-3]):([0-5]\d)\Z")


class Measure(StrEnum):
    """What is to be spread evenly."""

    KEYS = "keys"
    BYTES = "bytes"
    OPS = "ops"


class Strategy(StrEnum):
    """How far a plan evens out."""

    MINIMIZE_MOVEMENT = "minimize_movement"
    UNIFORM = "uniform"


@dataclass(frozen=True, slots=True)
class QuietHours:
    """A time of each day in which nothing is moved unasked: from one minute of the day to before another.

    Over midnight where `end_minute` is the lesser; all day where both are the same.
    """

    start_minute: int
    end_minute: int

    def covers(self, minute: int) -> bool:
        """Whether a minute of the day lies inside."""
        length = (self.end_minute - self.start_minute) % _MINUTES_A_DAY or _MINUTES_A_DAY
        return (minute - self.start_minute) % _MINUTES_A_DAY < length

    def __str__(self) -> str:
        return f"{_clock(self.start_minute)}-{_clock(self.end_minute)}"


def quiet_hours_of(text: str) -> tuple[QuietHours, ...]:
    """The spans behind `22:00-06:00, 12:00-13:30`; none behind an empty text. Raises ValueError."""
    spans = []
    for part in text.split(",") if text.strip() else ():
        match = _SPAN.match(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} is not a time of the day: write 22:00-06:00")
        start_h, start_min, end_h, end_min = map(int, match.groups())
        spans.append(QuietHours(start_h * 60 + start_min, end_h * 60 + end_min))
    return tuple(spans)


def parse_quiet_hours(value: object) -> str:
    """The spans in one way of writing; raises ValueError."""
    return ", ".join(map(str, quiet_hours_of(value if isinstance(value, str) else repr(value))))


def _clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"
