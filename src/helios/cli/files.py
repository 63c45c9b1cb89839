"""Files that load reads and dump writes: plain or gzip, a path or - for the standard streams."""

from __future__ import annotations

import gzip
import io
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, cast

from helios.cli.records import FORMATS
from helios.errors import HeliosError, InvalidInput
from helios.terminal import shown

STANDARD = "-"
_GZIP_MAGIC = b"\x1f\x8b\x08"
_SUFFIXES = {".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_BUFFER_BYTES = 256 * 1024
LINE_MAX_BYTES = 256 << 20  # a value of 190 MB and more, as dump writes it


class FileProblem(HeliosError):
    """A file cannot be read or written."""

    code = "FILE"


def format_of(name: str, given: str | None) -> str:
    """The format of a file: the one that is given, else what its name says; raises InvalidInput."""
    if given is not None:
        if given not in FORMATS:
            raise InvalidInput(f"unknown format {given!r}: use {' or '.join(FORMATS)}")
        return given
    suffix = Path(name.removesuffix(".gz")).suffix
    if suffix not in _SUFFIXES:
        raise InvalidInput(f"{name} does not tell its format: add --format tsv or --format jsonl")
    return _SUFFIXES[suffix]


@contextmanager
def reading(name: str) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The content of a file, unpacked if it is gzip by its first bytes, and the file itself, to tell how far it is.

    Raises FileProblem, also while the content is read in the block.
    """
    try:
        with nullcontext(sys.stdin.buffer) if name == STANDARD else Path(name).open("rb", _BUFFER_BYTES) as raw:
            peeked = raw.peek(len(_GZIP_MAGIC)) if isinstance(raw, io.BufferedReader) else b""
            packed = peeked.startswith(_GZIP_MAGIC)
            if name.endswith(".gz") and peeked and not packed:
                raise FileProblem(f"{_shown(name)} is not packed by gzip as its name says: give it its right name")
            # Not through another buffer, which would lose what it held when the file turns out to be damaged.
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw, raw
    except (OSError, EOFError, zlib.error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FileProblem(f"cannot read {_shown(name)}: {reason}") from error


def lines(content: IO[bytes], longest_bytes: int = LINE_MAX_BYTES) -> Iterator[bytes | None]:
    """The lines without their line feeds; None for one longer than the bound, which is read past.

    Of such a line no more is held than the bound, however much a packed file makes of it.
    """
    while part := content.readline(min(_BUFFER_BYTES, longest_bytes + 1)):
        if part.endswith(b"\n"):
            yield part[:-1]
            continue
        line = bytearray(part)
        while part and not part.endswith(b"\n") and len(line) <= longest_bytes:
            part = content.readline(min(_BUFFER_BYTES, longest_bytes + 1 - len(line)))
            line += part
        if part.endswith(b"\n"):
            line.pop()
            yield bytes(line)
        elif len(line) <= longest_bytes:
            yield bytes(line)
        else:
            del line
            while part and not part.endswith(b"\n"):
                part = content.readline(_BUFFER_BYTES)
            yield None


class _OnTerminal(io.RawIOBase):
    """Stdout where it is a terminal, which what a file holds must not steer."""

    def write(self, part: Any) -> int:
        """Show a part, which may be any number of whole lines."""
        sys.stdout.write(shown(bytes(part).decode("utf-8", "backslashreplace"), sys.stdout))
        return len(part)


@contextmanager
def writing(name: str) -> Iterator[IO[bytes]]:
    """Where to write a file. It takes its name when the block ends well and leaves nothing behind otherwise.

    A pipe or device is written as it stands. Raises FileProblem; BrokenPipeError passes, for stdout.
    """
    if name == STANDARD:
        if sys.stdout.isatty():
            yield cast("IO[bytes]", _OnTerminal())
            return
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    try:
        target = Path(os.path.realpath(name))
        if target.exists() and not target.is_file():
            with target.open("wb") as device:
                yield device
            return
        unfinished = target.with_name(f".{target.name}.{os.getpid()}.unfinished")
        try:
            with unfinished.open("xb", _BUFFER_BYTES) as file:
                if name.endswith(".gz"):
                    packed = gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=6)
                    with packed, io.BufferedWriter(packed, _BUFFER_BYTES) as buffered:
                        yield buffered
                else:
                    yield file
                file.flush()
                os.fsync(file.fileno())
            unfinished.replace(target)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise FileProblem(f"cannot write {_shown(name)}: {error.strerror or error}") from error


def _shown(name: str) -> str:
    return "standard input" if name == STANDARD else name
