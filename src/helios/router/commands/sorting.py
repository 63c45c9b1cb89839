"""SORT and SORT_RO that look at keys of other shards: `BY weight_*`, `GET object_*->field`.

The shard gives a copy of the key together with its elements, and the keys that the patterns make of these are looked up
at their owners. One transaction then sorts the copy by what was found, under names that no client has (see borrowing).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from helios.resp.commands import Command
from helios.resp.encoding import error_reply
from helios.resp.wire import encode_command
from helios.router._fast_path import OWN_READ, OWN_WRITE
from helios.router.commands.borrowing import MAX_TRIES, Copy, counted, keys_move, owners_now, transact
from helios.router.commands.keyspace import decoded
from helios.router.commands.slices import in_slices
from helios.router.context import RouterContext
from helios.router.errors import ErrorReply
from helios.router.frontend.caller import WAIT_ALL, WAIT_REPLY, Caller, FutureReply
from helios.router.nowhere import nowhere

_COPY = 0  # the numbers of names: the copy of what is sorted, and from here on a pattern's keys
_FIRST_PATTERN = 1
_MAX_KEYS = 8192  # keys that are looked up: their transaction is put together in one turn of the loop
_WIDTHS = {b"LIMIT": 2, b"STORE": 1, b"BY": 1, b"GET": 1}


def sort_across(
    router: RouterContext, caller: Caller, argv: list[bytes], command: Command, positions: Sequence[int]
) -> int:
    """Sort by keys that may be anywhere; what becomes of the caller is in the result."""
    if caller.replies:
        return WAIT_ALL  # what is looked up comes over other connections, and must not overtake them
    router.spawn(caller, counted(router, command, _Sorting(router, caller.variant, argv, command, positions).reply()))
    return WAIT_REPLY


@dataclass(frozen=True, slots=True)
class _Pattern:
    """Which key, or field of a hash, a pattern makes of an element."""

    place: int  # among the arguments
    before: bytes
    after: bytes
    field: bytes

    def question(self, element: bytes) -> list[bytes]:
        """The command that gives the value."""
        key = self.before + element + self.after
        return [b"HGET", key, self.field] if self.field else [b"GET", key]


def _patterns(argv: Sequence[bytes]) -> Iterator[_Pattern]:
    """Those that make keys; `BY nosort` and `GET #` do not."""
    place = 2
    while place < len(argv):
        word = argv[place].upper()
        if word in (b"BY", b"GET") and b"*" in argv[place + 1]:
            before, _, rest = argv[place + 1].partition(b"*")
            after, _, field = rest.partition(b"->")
            yield _Pattern(place + 1, before, after if field else rest, field)
        place += 1 + _WIDTHS.get(word, 0)


class _Sorting:
    """One command on its way."""

    def __init__(
        self, router: RouterContext, variant: int, argv: list[bytes], command: Command, positions: Sequence[int]
    ) -> None:
        self._router = router
        self._variant = variant
        self._argv = argv
        self._command = command
        self._runs_at = argv[positions[-1]]  # where the result is stored, or what is sorted
        self._patterns = list(_patterns(argv))

    async def reply(self) -> bytes:
        """Carry it out. Raises ErrorReply or Unavailable."""
        elements, copy = await self._sorted()
        found = await self._looked_up(list(dict.fromkeys(elements)))
        for _ in range(MAX_TRIES):
            host = (await owners_now(self._router, [self._runs_at]))[self._runs_at]
            if copy is not None and not await self._accepts(host, copy):
                return error_reply(f"ERR {host} cannot take a copy of a key of another server, whose version is newer")
            # Nothing is awaited between this look and the transaction.
            if (await owners_now(self._router, [self._runs_at]))[self._runs_at] == host:
                return await self._run_on(host, copy, found)
        return keys_move(self._command)

    async def _sorted(self) -> tuple[list[bytes], Copy | None]:
        """The elements of what is to be sorted, and its copy; none where it does not exist."""
        key = self._argv[1]
        owner = (await owners_now(self._router, [key]))[key]
        frames = [encode_command([b"SORT_RO", key, b"BY", b"nosort"]), encode_command([b"DUMP", key])]
        elements, payload = await transact(self._router, self._variant, owner, frames).parts()
        dumped = decoded(payload)
        if elements[:1] == b"-":
            raise ErrorReply(elements)
        if dumped is None:
            return [], None
        count = int(elements[1 : elements.index(b"\r\n")])
        if count * len(self._patterns) > _MAX_KEYS or len(dumped) > self._router.options.transaction_bytes:
            name = self._command.name.upper()
            raise ErrorReply(
                error_reply(
                    f"ERR '{name} ... BY or GET pattern' is refused for {count} elements: it would look up more than "
                    f"{_MAX_KEYS} keys of several shards; it works where the key and the pattern, before its '*', have "
                    "the same {tag}, as long as no rule moves keys by pattern"
                )
            )
        return decoded(elements), Copy(dumped, 0)

    async def _looked_up(self, elements: list[bytes]) -> dict[bytes, bytes]:
        """What the patterns' keys hold, by the names that stand for them."""
        found: dict[bytes, bytes] = {}
        for number, pattern in enumerate(self._patterns, _FIRST_PATTERN):
            async for part in in_slices(elements):
                questions = {element: pattern.question(element) for element in part}
                owners = await owners_now(self._router, [question[1] for question in questions.values()])
                replies = {element: self._ask(owners[words[1]], words) for element, words in questions.items()}
                for element, reply in replies.items():
                    said = await reply
                    # A key of another type counts as none.
                    value = None if said.startswith(b"-WRONGTYPE") else decoded(said)
                    if value is not None:
                        found[nowhere(number) + b":" + element] = value
        return found

    def _ask(self, shard: str, words: list[bytes]) -> FutureReply:
        reply = FutureReply()
        self._router.pool.heavy_link(shard, self._variant).send_as(encode_command(words), reply, OWN_READ)
        return reply

    async def _accepts(self, host: str, copy: Copy) -> bool:
        """Whether the server can restore a copy of another one, whose version may be newer."""
        frames = [copy.restored(nowhere(_COPY)), encode_command([b"UNLINK", nowhere(_COPY)])]
        return (await transact(self._router, self._variant, host, frames).parts())[0][:1] != b"-"

    async def _run_on(self, host: str, copy: Copy | None, found: dict[bytes, bytes]) -> bytes:
        argv = list(self._argv)
        argv[1] = nowhere(_COPY)
        for number, pattern in enumerate(self._patterns, _FIRST_PATTERN):
            argv[pattern.place] = nowhere(number) + b":*"
        frames = [copy.restored(argv[1])] if copy is not None else []
        frames += [encode_command([b"SET", name, value]) for name, value in found.items()]
        place = len(frames)
        frames.append(encode_command(argv))
        if place:
            frames.append(encode_command([b"UNLINK", argv[1], *found]))
        kind = OWN_WRITE if self._command.writes else OWN_READ
        return (await transact(self._router, self._variant, host, frames, kind).parts())[place]
