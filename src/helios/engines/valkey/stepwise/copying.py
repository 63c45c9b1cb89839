"""One key of any type: what is common to all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from helios.engines.valkey.stepwise import usage
from helios.engines.valkey.stepwise.members import Hash, Members, Set, SortedSet, copy_members
from helios.engines.valkey.stepwise.sequences import copy_list, copy_string
from helios.engines.valkey.stepwise.streams import copy_stream
from helios.engines.valkey.stepwise.way import NotInSteps, StartAfresh, Way

_NO_EXPIRY, _NO_KEY = -1, -2  # answers of PEXPIRETIME


def _members(kind: Callable[[], Members]) -> Callable[[Way, bool], Awaitable[None]]:
    return lambda way, patch: copy_members(way, kind(), patch=patch)


_COPIES: dict[bytes, Callable[[Way, bool], Awaitable[None]]] = {
    b"string": lambda way, patch: copy_string(way, patch=patch),
    b"list": lambda way, patch: copy_list(way, patch=patch),
    b"hash": _members(Hash),
    b"set": _members(Set),
    b"zset": _members(SortedSet),
    b"stream": lambda way, patch: copy_stream(way, patch=patch),
}


async def copy_value(way: Way, *, patch: bool) -> bool:
    """Make the target's value what the source's is; whether the source has the key.

    With `patch`, what the target has of it is compared in steps and only differences are written; otherwise
    it is removed first. Until the last step the target's copy never ends by itself. Raises NotInSteps for
    what must be copied whole, ChangedMeanwhile where the source's key became another thing.
    """
    kind = await way.read("TYPE", way.key)
    if kind == b"none":
        await way.write("UNLINK", way.key)
        return False
    copy = _COPIES.get(kind)
    if copy is None:
        raise NotInSteps(f"values of type {kind.decode(errors='replace')} have no commands for parts")
    if patch:
        # An end that was set by an earlier copy must not come in the middle of this one.
        _, there = await way.ask(way.target, [("PERSIST", way.key), ("TYPE", way.key)])
        patch = there == kind
    if not patch:
        way.notes.clear()
        await way.write("UNLINK", way.key)
        patch = await usage.begin(way, kind)
    try:
        await copy(way, patch)
    except StartAfresh:
        way.notes.clear()
        await way.write("UNLINK", way.key)
        await copy(way, False)
    return await _end(way)


async def _end(way: Way) -> bool:
    expire_at_ms = int(await way.read("PEXPIRETIME", way.key))
    if expire_at_ms == _NO_KEY:
        await way.write("UNLINK", way.key)
        return False
    if expire_at_ms != _NO_EXPIRY:
        await way.write("PEXPIREAT", way.key, expire_at_ms)
    return True
