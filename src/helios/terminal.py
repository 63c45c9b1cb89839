"""Text that is not ours on its way to a person: safe on a terminal, exact for programs."""

from __future__ import annotations

from typing import Protocol


class Stream(Protocol):
    """Where text goes."""

    def isatty(self) -> bool:
        """Whether that is a terminal."""


def clean(text: str) -> str:
    """The text with control characters shown, so that a key or message cannot steer the terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shown(text: str, stream: Stream) -> str:
    """The text as it may be written to the stream: on a terminal, only its line ends and tabs control anything."""
    if not stream.isatty():
        return text
    return "".join(c if c in "\n\t" else clean(c) for c in text)
