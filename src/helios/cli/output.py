"""What people and programs read: tables, times, JSON."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from helios.terminal import clean, shown

RIGHT = ">"
LEFT = "<"


def plain(value: Any) -> Any:
    """A reply with every string as text; bytes that are not UTF-8 show as backslash escapes."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {plain(name): plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value


def text_or_base64(name: str, value: bytes) -> dict[str, str]:
    """One JSON field: the bytes as text, or under another name as base64 where they are not UTF-8."""
    try:
        return {name: value.decode()}
    except UnicodeDecodeError:
        from base64 import b64encode

        return {f"{name}_base64": b64encode(value).decode()}


def write(text: str) -> None:
    """A line on stdout."""
    sys.stdout.write(shown(text, sys.stdout) + "\n")


def tell(text: str) -> None:
    """A line on stderr, at once."""
    sys.stderr.write(shown(text, sys.stderr) + "\n")
    sys.stderr.flush()


def write_bytes(value: bytes) -> None:
    """A value on stdout: its bytes alone; on a terminal as text, with a newline behind it."""
    if sys.stdout.isatty():
        write(plain(value))
        return
    sys.stdout.flush()
    sys.stdout.buffer.write(value)
    sys.stdout.buffer.flush()


def write_json(value: Any) -> None:
    """A value as indented JSON on stdout."""
    import json

    text = json.dumps(value, indent=2, ensure_ascii=False)
    # Some characters steer terminals though JSON lets them stand as they are.
    write("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows under headings, columns as wide as their contents; a heading that begins with > aligns right.

    On a terminal that is too narrow, each row is a list of its headings and cells.
    """
    names = [heading.lstrip(RIGHT) for heading in headings]
    sides = [RIGHT if heading.startswith(RIGHT) else LEFT for heading in headings]
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(names, *cells, strict=True)]
    if cells and sum(widths) + 2 * (len(widths) - 1) > _columns():
        return "\n\n".join(facts(list(zip(names, row, strict=True))) for row in cells)
    lines = [
        "  ".join(f"{cell:{side}{width}}" for cell, side, width in zip(row, sides, widths, strict=True)).rstrip()
        for row in [names, *cells]
    ]
    return "\n".join(lines)


def _columns() -> float:
    """How wide what people read may be; without end where it is not written to a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else math.inf


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values in two columns."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {clean(value)}".rstrip() for name, value in rows)


def ago(moment: float | None, now: float) -> str:
    """How long before `now` a moment was, both in Unix seconds."""
    if moment is None:
        return "never"
    return "now" if now - moment < 1 else f"{duration(now - moment)} ago"


def clock(moment: float | None) -> str:
    """A moment, given in Unix seconds, in local time."""
    return "-" if moment is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(moment))


def duration(seconds: float) -> str:
    """A span of time in its two largest units."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{int(seconds)} s"
    whole = int(seconds)
    for size, name, below, below_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // below
            return f"{whole // size} {name} {rest} {below_name}" if rest else f"{whole // size} {name}"
    raise AssertionError("a minute or more has a unit")


def count(number: int | None) -> str:
    """A number with its thousands apart; unknown is a question mark."""
    return "?" if number is None else f"{number:,}"


def share(part: float) -> str:
    """A part of one as a percentage."""
    return f"{part * 100:.1f} %"


def off(deviation: float | None) -> str:
    """How far something is from its share, with its sign."""
    return "?" if deviation is None else f"{deviation * 100:+.1f} %"


def ops(number: float | None) -> str:
    """Operations a second."""
    return "?" if number is None else f"{number:,.0f}"


def size(number: int) -> str:
    """Bytes in the largest unit that leaves at least one of it."""
    amount = float(number)
    for unit in ("B", "KB", "MB", "GB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TB"
