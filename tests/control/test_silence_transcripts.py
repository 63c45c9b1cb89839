"""Transcripts of silence: each look and heartbeat as it comes in and, indented, for how long servers count as silent.

A transcript names the node that coordinated before, if its lease has ended without its doing, and for how long the
store had not heard of it then. A look is told as member/node, when it began and ended, and whether there was an answer.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.control.transcripts import check

from helios.control.silence import Beaten, Event, Lapse, Looked, Silence, step

TRANSCRIPTS = sorted((Path(__file__).parent / "silence").glob("*.txt"))


class Performer:
    """Stands where the coordinator stands."""

    def __init__(self, line: str) -> None:
        node, _, unheard = line.partition(", unheard for ")
        self._silence = Silence(Lapse(node, float(unheard.removesuffix(" s"))) if unheard else None)

    def feed(self, line: str) -> list[str]:
        """How silent the servers are after one event."""
        self._silence = step(self._silence, _event(line))
        return [f"{member}: {self._silence.silent_s(member):.1f} s" for member in sorted(self._silence.counts)]


def _event(line: str) -> Event:
    if line.startswith("heartbeat of "):
        return Beaten(line.removeprefix("heartbeat of "))
    where, times, answer = line.split(", ")
    member, _, node = where.partition("/")
    asked, _, ended = times.partition(" to ")
    return Looked(member, node, float(asked), float(ended), answer == "answered")


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_silence_is_counted_as_its_transcript_says(path: Path) -> None:
    check(path, "lapsed: ", Performer)


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 5


def test_who_was_never_looked_at_is_not_silent() -> None:
    assert Silence(Lapse("n1", 3.0)).silent_s("a") == 0.0
