"""Which streams are asked about, and that none is passed over that has changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from helios.coordinator.streams import StreamMarks
from helios.ports.engine import Engine, StreamState


class Streams:
    """A server's streams by their versions."""

    def __init__(self, **versions: int) -> None:
        self.versions = {key.encode(): version for key, version in versions.items()}
        self.writes = 0
        self.asked: list[bytes] = []

    def change(self, key: bytes) -> None:
        """Change a stream without naming it."""
        self.versions[key] += 1
        self.writes += 1

    async def stream_writes(self) -> bytes:
        return b"%d writes" % self.writes

    async def stream_marks(self, keys: Sequence[bytes]) -> list[bytes | None]:
        self.asked += keys
        return [b"%d" % self.versions[key] for key in keys]

    async def stream_states(self, keys: Sequence[bytes]) -> list[StreamState | None]:
        return [StreamState(b"%d-0" % self.versions[key], 0, b"", 0) for key in keys]


def marks_of(source: Streams) -> StreamMarks:
    return StreamMarks(cast(Engine, source), cast(Engine, source))


async def test_streams_that_nothing_was_done_to_are_not_asked_about() -> None:
    source = Streams(a=1, b=1)
    marks = marks_of(source)
    await marks.note([b"a", b"b"])
    assert await marks.changed([b"a", b"b"]) == set()
    source.asked.clear()
    assert await marks.changed([b"a", b"b"]) == set()
    assert source.asked == []
    source.change(b"a")
    assert await marks.changed([b"a", b"b"]) == {b"a"}


async def test_a_stream_that_a_look_passed_over_is_asked_about_by_the_next() -> None:
    source = Streams(a=1, b=1)
    marks = marks_of(source)
    await marks.note([b"a", b"b"])
    source.change(b"b")
    assert await marks.changed([b"a"]) == set()
    assert await marks.changed([b"a", b"b"]) == {b"b"}
    await marks.note([b"b"])
    assert await marks.changed([b"a", b"b"]) == set()
