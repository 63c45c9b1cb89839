"""What a client may announce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

# A request as it came (inline commands: as an array), and its arguments.
Frame: TypeAlias = tuple[bytes, list[bytes]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may announce; beyond it, its connection ends with an error. Bytes, except for `arguments`."""

    arguments: int = 1024 * 1024
    bulk_bytes: int = 512 * 1024 * 1024
    frame_bytes: int = 1024 * 1024 * 1024
