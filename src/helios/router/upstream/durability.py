"""Which writes are told once the leader has them, where others wait for a majority: it goes by their keys."""

from __future__ import annotations

from collections.abc import Callable

from helios.errors import HeliosError
from helios.placement.glob import Glob
from helios.placement.patterns import EVERYTHING
from helios.resp.commands import SCRIPTS, find, find_subcommand, key_positions
from helios.resp.wire import RequestParser
from helios.router.options import RouterOptions


def spared(options: RouterOptions) -> Callable[[bytes], bool] | None:
    """Tells of a write, as it was sent, whether nothing has to wait for a majority; None where all writes do.

    What names no keys does not say what it writes, and scripts may write others than they name: these wait.
    """
    if not options.quorum_by_key:
        return None
    rules = [(Glob(pattern), quorum) for pattern, quorum in (*options.quorum_by_key, (EVERYTHING, options.quorum))]

    def waits(key: bytes) -> bool:
        return next(quorum for pattern, quorum in rules if pattern.match(key))

    def is_spared(raw: bytes) -> bool:
        keys = _keys(raw)
        return bool(keys) and not any(map(waits, keys))

    return is_spared


def _keys(raw: bytes) -> list[bytes]:
    """The keys that a command names; none where it cannot be said which it writes."""
    parser = RequestParser()
    parser.feed(raw)
    [(_, argv)] = parser.take()
    command = find(argv[0])
    if command is not None and command.container and len(argv) > 1:
        command = find_subcommand(command, argv[1])
    if command is None or command.name in SCRIPTS:
        return []
    try:
        return [argv[position] for position in key_positions(command, argv)]
    except HeliosError:
        return []
