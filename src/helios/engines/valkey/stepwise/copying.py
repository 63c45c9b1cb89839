"""One key of any type: what is common to all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from helios.engines.valkey.stepwise import usage
from helios.engines.valkey.stepwise.key_copy import KeyCopy, NotInSteps, StartAfresh
from helios.engines.valkey.stepwise.members import Hash, Members, Set, SortedSet, copy_members
from helios.engines.valkey.stepwise.sequences import copy_list, copy_string
from helios.engines.valkey.stepwise.streams import copy_stream

_NO_EXPIRY, _NO_KEY = -1, -2  # answers of PEXPIRETIME


def _members(kind: Callable[[], Members]) -> Callable[[KeyCopy, bool], Awaitable[None]]:
    return lambda copy, patch: copy_members(copy, kind(), patch=patch)


_COPIES: dict[bytes, Callable[[KeyCopy, bool], Awaitable[None]]] = {
    b"string": lambda copy, patch: copy_string(copy, patch=patch),
    b"list": lambda copy, patch: copy_list(copy, patch=patch),
    b"hash": _members(Hash),
    b"set": _members(Set),
    b"zset": _members(SortedSet),
    b"stream": lambda copy, patch: copy_stream(copy, patch=patch),
}


async def copy_value(copy: KeyCopy, *, patch: bool) -> bool:
    """Make the target's value what the source's is; whether the source has the key.

    With `patch`, what the target has of it is compared in steps and only differences are written; otherwise
    it is removed first. Until the last step the target's copy never ends by itself. Raises NotInSteps for
    what must be copied whole, ChangedMeanwhile where the source's key became another thing.
    """
    kind = await copy.read("TYPE", copy.key)
    if kind == b"none":
        await copy.write("UNLINK", copy.key)
        return False
    copy_parts = _COPIES.get(kind)
    if copy_parts is None:
        raise NotInSteps(f"values of type {kind.decode(errors='replace')} have no commands for parts")
    if patch:
        # An end that was set by an earlier copy must not come in the middle of this one.
        _, there = await copy.ask(copy.target, [("PERSIST", copy.key), ("TYPE", copy.key)])
        patch = there == kind
    if not patch:
        copy.notes.clear()
        await copy.write("UNLINK", copy.key)
        patch = await usage.begin(copy, kind)
    try:
        await copy_parts(copy, patch)
    except StartAfresh:
        copy.notes.clear()
        await copy.write("UNLINK", copy.key)
        await copy_parts(copy, False)
    return await _end(copy)


async def _end(copy: KeyCopy) -> bool:
    expire_at_ms = int(await copy.read("PEXPIRETIME", copy.key))
    if expire_at_ms == _NO_KEY:
        await copy.write("UNLINK", copy.key)
        return False
    if expire_at_ms != _NO_EXPIRY:
        await copy.write("PEXPIREAT", copy.key, expire_at_ms)
    return True
