"""RESP on the wire: request frames and the bounds of replies. Pure; any chunking gives the same.

Neither the parser nor the splitter decodes values: they find where frames and replies begin and end. What is fed
costs time linear in its length, however it is cut, as long as a chunk completes what it can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from helios.errors import ProtocolError

Frame = tuple[bytes, list[bytes]]  # the frame as it came (inline commands: as an array), and its arguments

_MAX_LINE = 64 * 1024
_LENGTHS = {b"%d" % n: n for n in range(1024)}
_STAR, _DOLLAR = ord("*"), ord("$")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a client may announce; beyond it, its connection ends with an error. Bytes, except for `arguments`."""

    arguments: int = 1024 * 1024
    bulk_bytes: int = 512 * 1024 * 1024
    frame_bytes: int = 1024 * 1024 * 1024


def _length(digits: bytes) -> int | None:
    """A canonical decimal, which every server reads alike; None for anything else."""
    known = _LENGTHS.get(digits)
    if known is not None:
        return known
    body = digits[1:] if digits[:1] == b"-" else digits
    if not body.isdigit() or len(body) > 18 or (body[:1] == b"0"):
        return None
    return int(digits)


class RequestParser:
    """Cuts what a client sends into frames. Holds at most one frame and one chunk."""

    __slots__ = (
        "_argv",
        "_buffer",
        "_chunks",
        "_error",
        "_frame_bytes",
        "_have",
        "_left",
        "_limits",
        "_need",
        "_parts",
    )

    def __init__(self, limits: Limits | None = None) -> None:
        self._limits = limits or Limits()
        self._buffer = b""
        self._chunks: list[bytes] = []  # what came since and is not yet joined to the buffer
        self._have = 0  # bytes in buffer and chunks
        self._need = 1  # of which so many are needed to get further
        self._parts: list[bytes] = []  # of the frame under way, what is no longer in the buffer
        self._frame_bytes = 0  # the size of these parts
        self._argv: list[bytes] = []
        self._left = 0  # arguments that the frame under way still lacks; 0: none is under way
        self._error: ProtocolError | None = None

    @property
    def buffered(self) -> int:
        """Bytes that are kept until the rest of a frame comes."""
        return self._have + self._frame_bytes

    def feed(self, data: bytes) -> None:
        """Take what has been read from the connection."""
        self._have += len(data)
        if self._buffer or self._chunks:
            self._chunks.append(data)
        else:
            self._buffer = data

    def take(self, limit: int = 1 << 30) -> list[Frame]:
        """At most `limit` of the frames that are complete, in order.

        Raises ProtocolError, once all frames before the fault have been taken; nothing comes after it.
        """
        if self._error is not None:
            raise self._error
        if self._have < self._need:
            return []
        if self._chunks:
            self._buffer = b"".join((self._buffer, *self._chunks))
            self._chunks = []
        frames: list[Frame] = []
        try:
            self._parse(frames, limit)
        except ProtocolError as error:
            self._error = error
            if not frames:
                raise
        return frames

    def _parse(self, frames: list[Frame], limit: int) -> None:
        buffer, end = self._buffer, len(self._buffer)
        position = start = 0  # of the next byte to look at, and of what no frame has taken
        need = 1
        try:
            while position < end and len(frames) < limit:
                if not self._left:
                    if buffer[position] != _STAR:
                        stop = self._inline(buffer, position, frames)
                    else:
                        stop = self._header(buffer, position)
                    if stop < 0:
                        need = end - position + 1
                        break
                    position = stop
                    if not self._left:
                        start = position
                        continue
                position, need = self._arguments(buffer, position, start)
                if self._left:
                    break
                raw = buffer[start:position]
                if self._parts:
                    raw = b"".join((*self._parts, raw))
                    self._parts = []
                    self._frame_bytes = 0
                frames.append((raw, self._argv))
                start = position
        finally:
            if self._left and position > start:
                # What is known to be good of an unfinished frame is put aside, so that it is looked at once.
                self._parts.append(buffer[start:position])
                self._frame_bytes += position - start
            self._buffer = buffer[position:] if position else buffer
            self._have = end - position
            self._need = need

    def _header(self, buffer: bytes, position: int) -> int:
        """Read `*<count>`; the position behind it, or -1 if it is not complete."""
        line = buffer.find(b"\r\n", position)
        if line < 0:
            if len(buffer) - position > _MAX_LINE:
                raise ProtocolError("Protocol error: too big mbulk count string")
            return -1
        count = _length(buffer[position + 1 : line])
        if count is None or count > self._limits.arguments:
            raise ProtocolError("Protocol error: invalid multibulk length")
        if count > 0:
            self._left = count
            self._argv = []
        return line + 2

    def _arguments(self, buffer: bytes, position: int, start: int) -> tuple[int, int]:
        """Read arguments of the frame under way; the position behind the last complete one, and what is needed."""
        find, argv, left, end = buffer.find, self._argv, self._left, len(buffer)
        limits, frame_bytes = self._limits, self._frame_bytes
        need = 0
        while left:
            line = find(b"\r\n", position)
            if line < 0:
                if end > position and buffer[position] != _DOLLAR:
                    raise ProtocolError(f"Protocol error: expected '$', got '{_shown(buffer[position])}'")
                if end - position > _MAX_LINE:
                    raise ProtocolError("Protocol error: too big bulk count string")
                need = end - position + 1
                break
            if buffer[position] != _DOLLAR:
                raise ProtocolError(f"Protocol error: expected '$', got '{_shown(buffer[position])}'")
            digits = buffer[position + 1 : line]
            length = _LENGTHS.get(digits)
            if length is None:
                length = _length(digits)
            if length is None or not 0 <= length <= limits.bulk_bytes:
                raise ProtocolError("Protocol error: invalid bulk length")
            body = line + 2
            stop = body + length
            if frame_bytes + stop - start > limits.frame_bytes:
                raise ProtocolError("Protocol error: too big request")
            if stop + 2 > end:
                need = stop + 2 - position
                break
            if buffer[stop : stop + 2] != b"\r\n":
                raise ProtocolError("Protocol error: expected CRLF behind a bulk string")
            argv.append(buffer[body:stop])
            position = stop + 2
            left -= 1
        self._left = left
        return position, need

    def _inline(self, buffer: bytes, position: int, frames: list[Frame]) -> int:
        """Read an inline command; the position behind it, or -1 if it is not complete."""
        line = buffer.find(b"\n", position)
        if line < 0 or line - position > _MAX_LINE:
            if len(buffer) - position > _MAX_LINE:
                raise ProtocolError("Protocol error: too big inline request")
            return -1
        argv = split_inline(buffer[position:line])
        if argv:
            frames.append((encode_command(argv), argv))
        return line + 1


def _shown(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 else f"\\x{byte:02x}"


def encode_command(argv: Sequence[bytes]) -> bytes:
    """A request as an array of bulk strings."""
    parts = [b"*%d\r\n" % len(argv)]
    for argument in argv:
        parts.append(b"$%d\r\n" % len(argument))
        parts.append(argument)
        parts.append(b"\r\n")
    return b"".join(parts)


_ESCAPES = {ord("n"): 10, ord("r"): 13, ord("t"): 9, ord("b"): 8, ord("a"): 7}
_SPACES = frozenset(b" \t\n\r\v\f\0")


def split_inline(line: bytes) -> list[bytes]:
    """The arguments of an inline command: apart by spaces, quoted as the servers have it. Raises ProtocolError."""
    if b'"' not in line and b"'" not in line and b"\0" not in line:
        return line.split()
    arguments: list[bytes] = []
    i, end = 0, len(line)
    while True:
        while i < end and line[i] in _SPACES:
            i += 1
        if i >= end:
            return arguments
        word = bytearray()
        while i < end and line[i] not in _SPACES:
            if line[i] in b"\"'":
                i = _quoted(line, i, word)
            else:
                word.append(line[i])
                i += 1
        arguments.append(bytes(word))


def _quoted(line: bytes, i: int, word: bytearray) -> int:
    """Add the quoted text that begins at `i`; the position behind its closing quote."""
    quote, end = line[i], len(line)
    i += 1
    while i < end:
        code = line[i]
        if code == quote:
            if i + 1 < end and line[i + 1] not in _SPACES:
                break
            return i + 1
        if code == ord("\\") and quote == ord('"') and i + 1 < end:
            digits = line[i + 2 : i + 4]
            if line[i + 1] == ord("x") and len(digits) == 2 and all(c in b"0123456789abcdefABCDEF" for c in digits):
                word.append(int(digits, 16))
                i += 4
                continue
            word.append(_ESCAPES.get(line[i + 1], line[i + 1]))
            i += 2
            continue
        if code == ord("\\") and quote == ord("'") and line[i + 1 : i + 2] == b"'":
            i += 1
            code = ord("'")
        word.append(code)
        i += 1
    raise ProtocolError("Protocol error: unbalanced quotes in request")


_LINES = frozenset(b"+-:_,#(")
_BULKS = frozenset(b"$=!")
_AGGREGATES = {ord("*"): 1, ord("~"): 1, ord(">"): 1, ord("%"): 2}
_ATTRIBUTE = ord("|")
_MAX_REPLY_LINE = 1024 * 1024


class ReplySplitter:
    """Cuts what a server sends into whole replies, nested ones included, of RESP2 and RESP3."""

    __slots__ = ("_buffer", "_chunks", "_have", "_need", "_parts", "_pending")

    def __init__(self) -> None:
        self._buffer = b""
        self._chunks: list[bytes] = []
        self._have = 0
        self._need = 1
        self._parts: list[bytes] = []
        self._pending = 1  # values that the reply under way still lacks, nested ones counted as they are announced

    def feed(self, data: bytes) -> list[bytes]:
        """The replies that `data` completes. Raises ProtocolError; the connection is of no use then."""
        self._have += len(data)
        if self._buffer or self._chunks:
            self._chunks.append(data)
            if self._have < self._need:
                return []
            data = b"".join((self._buffer, *self._chunks))
            self._chunks = []
        elif self._have < self._need:
            self._buffer = data
            return []
        return self._split(data)

    def _split(self, buffer: bytes) -> list[bytes]:
        replies: list[bytes] = []
        find, end, pending = buffer.find, len(buffer), self._pending
        position = start = 0
        need = 1
        while position < end:
            line = find(b"\r\n", position)
            if line < 0:
                if end - position > _MAX_REPLY_LINE:
                    raise ProtocolError("a server's reply has a line of more than 1 MiB")
                need = end - position + 1
                break
            kind = buffer[position]
            if kind in _LINES:
                position = line + 2
                pending -= 1
            else:
                size = _announced(buffer, position, line)
                if kind in _BULKS:
                    stop = line + 2 if size < 0 else line + 4 + size
                    if stop > end:
                        need = stop - position
                        break
                    if buffer[stop - 2 : stop] != b"\r\n":
                        raise ProtocolError("a server's bulk reply does not end where it should")
                    position = stop
                    pending -= 1
                else:
                    position = line + 2
                    if kind == _ATTRIBUTE:
                        pending += 2 * size
                    else:
                        pending += -1 if size < 0 else _AGGREGATES[kind] * size - 1
            if not pending:
                reply = buffer[start:position]
                if self._parts:
                    reply = b"".join((*self._parts, reply))
                    self._parts = []
                replies.append(reply)
                start = position
                pending = 1
        if position > start:
            self._parts.append(buffer[start:position])
        self._buffer = buffer[position:] if position else buffer
        self._have = end - position
        self._need = need
        self._pending = pending
        return replies


def _announced(buffer: bytes, position: int, line: int) -> int:
    """The length or count that a bulk or aggregate announces; -1 for RESP2's null."""
    kind = buffer[position]
    size = _length(buffer[position + 1 : line])
    known = kind in _BULKS or kind in _AGGREGATES or kind == _ATTRIBUTE
    if not known or size is None or size < -1 or (size == -1 and kind not in b"$*"):
        raise ProtocolError(
            f"a server's reply is not understood: {bytes(buffer[position : min(line, position + 40)])!r}"
        )
    return size


def elements(reply: bytes) -> list[bytes]:
    """The elements of an array, set or push reply, each as it came."""
    line = reply.index(b"\r\n")
    return ReplySplitter().feed(reply[line + 2 :])
