"""Commands whose keys have several owners: refused, but only once a server has found nothing wrong with the rest.

A server checks all arguments before it looks at a key, and libraries tell errors by its words. So it is asked: the
same command goes to one, on names that no key has, where it can change nothing. In a transaction, nothing blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

from helios.resp.commands import HARMLESS_WITHOUT_KEYS, Command
from helios.resp.wire import encode_command
from helios.router.commands.slices import LONG
from helios.router.context import RouterContext
from helios.router.errors import cross_shard
from helios.router.frontend.caller import DONE, WAIT_REPLY, Caller, FutureReply
from helios.router.nowhere import nowhere

_MULTI, _EXEC = encode_command([b"MULTI"]), encode_command([b"EXEC"])
_ONE = b"*1\r\n"


def refuse_cross_shard(
    router: RouterContext,
    caller: Caller,
    argv: list[bytes],
    command: Command,
    positions: Sequence[int],
    owners: list[str],
) -> int:
    """Refuse a command that needs keys of several shards together; what becomes of the caller is in the result."""
    refusal = cross_shard(owners, f"'{command.name.upper()}'")
    if command.name not in HARMLESS_WITHOUT_KEYS or len(positions) > LONG:
        caller.answer(refusal)
        return DONE
    router.spawn(caller, _in_a_servers_words(router, argv, positions, owners[0], refusal))
    return WAIT_REPLY


async def _in_a_servers_words(
    router: RouterContext, argv: list[bytes], positions: Sequence[int], shard: str, refusal: bytes
) -> bytes:
    """What a server finds wrong with the arguments; the refusal where it finds nothing."""
    names = {key: nowhere(number) for number, key in enumerate({argv[i]: None for i in positions})}
    probe = list(argv)
    for position in positions:
        probe[position] = names[argv[position]]
    last = _ThirdReply()
    router.pool.link(shard, 2).send_together([_MULTI, encode_command(probe), _EXEC], last)
    said = await last.reply
    return said[len(_ONE) :] if said.startswith(_ONE + b"-ERR ") else refusal


class _ThirdReply:
    """Takes the replies to MULTI, to a command and to EXEC, which is the one that counts."""

    def __init__(self) -> None:
        self.reply = FutureReply()
        self._left = 3

    def fill(self, reply: bytes) -> None:
        """Take one reply."""
        self._left -= 1
        if not self._left:
            self.reply.fill(reply)
