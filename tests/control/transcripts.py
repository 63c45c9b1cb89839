"""Replaying transcripts: each event as it comes in and, indented, what the control does about it.

Run with HELIOS_WRITE_TRANSCRIPTS=1 to write what the control does now into the files, and read the difference as the
reviewer that you are.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol


class Performer(Protocol):
    """Stands where the coordinator stands."""

    def feed(self, line: str) -> list[str]:
        """The effects of one event."""


def check(path: Path, head: str, begin: Callable[[str], Performer]) -> None:
    """Hold a control to a transcript, which `begin` starts by the line that has this head."""
    written = path.read_text()
    replayed = "\n".join(_replayed(written, head, begin)) + "\n"
    if os.environ.get("HELIOS_WRITE_TRANSCRIPTS"):
        path.write_text(replayed)
    assert replayed == written


def _replayed(text: str, head: str, begin: Callable[[str], Performer]) -> Iterator[str]:
    performer: Performer | None = None
    for line in text.splitlines():
        if line.startswith(head):
            performer = begin(line.removeprefix(head))
            yield line
        elif not line.strip() or line.startswith("#"):
            yield line
        elif not line.startswith(" "):
            assert performer is not None, f"a transcript begins with {head!r}"
            yield line
            yield from (f"    {effect}" for effect in performer.feed(line))
