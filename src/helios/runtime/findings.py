"""What `helios doctor` says of each thing that it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"  # it runs, but not as well or as safely as it could
    FAIL = "fail"  # it does not run, or would lose what it must not


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and what to do where something is to be done."""

    check: str
    verdict: Verdict
    found: str
    todo: str = ""
