"""Strings and lists: values whose parts have positions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from helios.engines.valkey.stepwise.key_copy import KeyCopy, StartAfresh, ahead


async def copy_string(copy: KeyCopy, *, patch: bool) -> None:
    """By GETRANGE and SETRANGE. A string that has become shorter is rewritten: servers cannot cut one."""
    there = int(await copy.write("STRLEN", copy.key))
    offset = 0
    async with aclosing(ahead(ranges(copy))) as steps:
        async for piece in steps:
            await copy.pace(len(piece))
            end = offset + len(piece)
            if patch and offset < there and await copy.write("GETRANGE", copy.key, offset, end - 1) == piece:
                pass
            elif offset == 0 and there == 0:
                await copy.write("SET", copy.key, piece)  # SETRANGE makes no key of an empty string
            else:
                await copy.write("SETRANGE", copy.key, offset, piece)
            offset = end
    if offset < there:
        raise StartAfresh


async def ranges(copy: KeyCopy) -> AsyncGenerator[bytes, None]:
    """The source's string in pieces; an empty one for an empty string."""
    offset = 0
    while True:
        piece = await copy.read("GETRANGE", copy.key, offset, offset + copy.step_bytes - 1)
        if piece or offset == 0:
            yield piece
        if len(piece) < copy.step_bytes:
            return
        offset += len(piece)


async def copy_list(copy: KeyCopy, *, patch: bool) -> None:
    """By LRANGE and RPUSH. With `patch`, from the first step that differs: growth at the end costs only itself."""
    following = patch
    index = 0
    length = int(await copy.read("LLEN", copy.key))
    count = await copy.elements_in_step(length)
    async with aclosing(ahead(slices(copy, count))) as steps:
        async for elements in steps:
            await copy.pace(sum(map(len, elements)))
            if following:
                if await copy.write("LRANGE", copy.key, index, index + len(elements) - 1) == elements:
                    index += len(elements)
                    continue
                following = False
                # No list is empty: what differs at its very beginning is removed whole, without blocking.
                await (copy.write("LTRIM", copy.key, 0, index - 1) if index else copy.write("UNLINK", copy.key))
            await copy.write("RPUSH", copy.key, *elements)
            index += len(elements)
    if following and index:
        await copy.write("LTRIM", copy.key, 0, index - 1)


async def slices(copy: KeyCopy, count: int) -> AsyncGenerator[list[bytes], None]:
    """The source's list, `count` elements at a time."""
    index = 0
    while True:
        elements = await copy.read("LRANGE", copy.key, index, index + count - 1)
        if elements:
            yield elements
        if len(elements) < count:
            return
        index += count
