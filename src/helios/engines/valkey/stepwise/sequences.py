"""Strings and lists: values whose parts have positions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from helios.engines.valkey.stepwise.way import StartAfresh, Way, ahead


async def copy_string(way: Way, *, patch: bool) -> None:
    """By GETRANGE and SETRANGE. A string that has become shorter is written anew: servers cannot cut one."""
    there = int(await way.write("STRLEN", way.key))
    offset = 0
    async with aclosing(ahead(ranges(way))) as steps:
        async for piece in steps:
            await way.pace(len(piece))
            end = offset + len(piece)
            if patch and offset < there and await way.write("GETRANGE", way.key, offset, end - 1) == piece:
                pass
            elif offset == 0 and there == 0:
                await way.write("SET", way.key, piece)  # SETRANGE makes no key of an empty string
            else:
                await way.write("SETRANGE", way.key, offset, piece)
            offset = end
    if offset < there:
        raise StartAfresh


async def ranges(way: Way) -> AsyncGenerator[bytes, None]:
    """The source's string in pieces; an empty one for an empty string."""
    offset = 0
    while True:
        piece = await way.read("GETRANGE", way.key, offset, offset + way.step_bytes - 1)
        if piece or offset == 0:
            yield piece
        if len(piece) < way.step_bytes:
            return
        offset += len(piece)


async def copy_list(way: Way, *, patch: bool) -> None:
    """By LRANGE and RPUSH. With `patch`, from the first step that differs: growth at the end costs only itself."""
    following = patch
    index = 0
    length = int(await way.read("LLEN", way.key))
    count = await way.elements_in_step(length)
    async with aclosing(ahead(slices(way, count))) as steps:
        async for elements in steps:
            await way.pace(sum(map(len, elements)))
            if following:
                if await way.write("LRANGE", way.key, index, index + len(elements) - 1) == elements:
                    index += len(elements)
                    continue
                following = False
                # No list is empty: what differs at its very beginning is removed whole, without blocking.
                await (way.write("LTRIM", way.key, 0, index - 1) if index else way.write("UNLINK", way.key))
            await way.write("RPUSH", way.key, *elements)
            index += len(elements)
    if following and index:
        await way.write("LTRIM", way.key, 0, index - 1)


async def slices(way: Way, count: int) -> AsyncGenerator[list[bytes], None]:
    """The source's list, `count` elements at a time."""
    index = 0
    while True:
        elements = await way.read("LRANGE", way.key, index, index + count - 1)
        if elements:
            yield elements
        if len(elements) < count:
            return
        index += count
