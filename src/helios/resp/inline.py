"""Inline commands: a line of words instead of a frame, as people type it into a terminal."""

from __future__ import annotations

from helios.errors import ProtocolError

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
