"""RESP read slowly and obviously, all bytes at once: what the compiled framing is held against."""

from __future__ import annotations

from helios.errors import ProtocolError
from helios.resp.wire import Frame, Limits, encode_command, split_inline

LIMITS = Limits(arguments=20, bulk_bytes=200, frame_bytes=400)


def obvious_requests(data: bytes) -> tuple[list[Frame], bool]:
    """All frames of `data` read from its start in one go, and whether it ends in a fault."""
    frames: list[Frame] = []
    position = 0
    while position < len(data):
        start = position
        if data[position : position + 1] != b"*":
            line = data.find(b"\n", position)
            if line < 0:
                break
            try:
                words = split_inline(data[position:line])
            except ProtocolError:
                return frames, True
            if words:
                frames.append((encode_command(words), words))
            position = line + 1
            continue
        line = data.find(b"\r\n", position)
        if line < 0:
            break
        if not canonical(data[position + 1 : line]) or int(data[position + 1 : line]) > LIMITS.arguments:
            return frames, True
        count = int(data[position + 1 : line])
        position = line + 2
        argv: list[bytes] = []
        while len(argv) < count:
            if position < len(data) and data[position : position + 1] != b"$":
                return frames, True
            line = data.find(b"\r\n", position)
            if line < 0:
                return frames, False
            digits = data[position + 1 : line]
            if not canonical(digits) or not 0 <= int(digits) <= LIMITS.bulk_bytes:
                return frames, True
            stop = line + 2 + int(digits)
            if stop - start > LIMITS.frame_bytes:
                return frames, True
            if stop + 2 > len(data):
                return frames, False
            if data[stop : stop + 2] != b"\r\n":
                return frames, True
            argv.append(data[line + 2 : stop])
            position = stop + 2
        if argv:
            frames.append((data[start:position], argv))
    return frames, False


def canonical(digits: bytes) -> bool:
    return len(digits) < 19 and digits.removeprefix(b"-").isdigit() and digits == b"%d" % int(digits)


def obvious_reply(data: bytes, position: int) -> int:
    """The position behind the reply that begins at `position`; IndexError where it is not complete."""
    line = data.find(b"\r\n", position)
    if line < 0:
        raise IndexError
    kind, text, position = data[position : position + 1], data[position + 1 : line], line + 2
    if kind in b"+-:_,#(":
        return position
    if kind in b"$=!":
        if text == b"-1":
            return position
        position += int(text) + 2
        if position > len(data):
            raise IndexError
        return position
    values = {b"*": 1, b"~": 1, b">": 1, b"%": 2, b"|": 2}[kind] * max(int(text), 0)
    for _ in range(values + (kind == b"|")):
        position = obvious_reply(data, position)
    return position
