"""What servers lose by themselves, and what the judges are told of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tests.simulation.data import Value
from tests.simulation.history import Command, KeyHistory
from tests.simulation.servers import SimServer

from helios.model.migration import Change

if TYPE_CHECKING:
    from tests.simulation.world import World

_COPY_LAG_S = 2.0


class Losses:
    """Evictions, servers that are emptied, power cuts; and keys that such a server brings back when it joins anew."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._imports: set[str] = set()  # the requests by which servers were asked to join with their keys
        self._told: set[tuple[str, bytes]] = set()  # by imports that failed: keys that may come from there once more
        self._cuts: list[tuple[str, KeyHistory, float]] = []  # behind the fence that stands, and since when in doubt
        self._emptied: set[str] = set()  # shards whose server was emptied, which a power cut may undo

    def lose(self, server: SimServer, keys: Sequence[bytes]) -> None:
        """The server loses keys in this moment, by eviction say; whoever listens to it is told."""
        world = self._world
        gone = set(keys)
        for history in world.judges.histories:
            if history.key in gone:
                self._gone(history, server.shard)
        seen = world.invariants
        if any(seen.owns(server.shard, key) or seen.about_to_own(server.shard, key) for key in gone):
            world.judges.doubt(world.invariants, server.shard)
        for key in keys:
            server.write(key, None, None)

    def emptied(self, server: SimServer) -> None:
        """A server is being emptied by somebody, past the routers or through one of them."""
        world = self._world
        self._emptied.add(server.shard)
        for history in world.judges.histories:
            self._gone(history, server.shard)
        world.judges.doubt(world.invariants, server.shard)

    def power_cut(self, server: SimServer) -> None:
        """The server loses what was not on its disk; what clients may have lost by it becomes uncertain."""
        world = self._world
        since_ms = server.synced_at * 1000 - _COPY_LAG_S * 1000
        server.crash(lose_unsynced=True)
        for history in world.judges.histories:
            if world.invariants.owns(server.shard, history.key):
                history.power_lost(since_ms, world.now_ms())
            elif world.invariants.about_to_own(server.shard, history.key):
                self._cuts.append((server.shard, history, since_ms))
        world.judges.library.power_lost(world.now_ms())
        world.judges.doubt(world.invariants, server.shard)

    def set_back(self, server: SimServer, among: Callable[[bytes], bool] = lambda _: True) -> None:
        """A shard goes on with what this copy has of these keys."""
        world = self._world
        world.lost += world.judges.set_back(
            lambda key: among(key) and world.invariants.owns(server.shard, key),
            lambda key: Value(*server.read(key)),
            world.loop.time(),
            world.now_ms(),
        )
        world.judges.library.power_lost(world.now_ms())

    def published(self) -> None:
        """There is a new topology: a switch may have been on its way as the power of its target went."""
        seen = self._world.invariants
        left = []
        for shard, history, since_ms in self._cuts:
            if seen.owns(shard, history.key):
                history.power_lost(since_ms, self._world.now_ms())
            elif seen.about_to_own(shard, history.key):
                left.append((shard, history, since_ms))
        self._cuts = left

    def imported(self, change: Change) -> None:
        """A server is asked to join with its keys: each that it has may come, if it has not come before.

        One that has come comes once more only where an import of before has named it as in conflict, and the server has
        it still: whoever asks again wants it. What was left in doubt comes no more.
        """
        if not change.import_keys:
            return
        server = self._world.servers[change.nodes[0].id]
        arriving = {history: command for client in self._world.clients for history, command in client.arriving.items()}
        if change.status.ended:
            anew = "was started anew" in (change.error or "")
            said = (change.error or "").partition(" keys may be in the cluster, too")[0]
            self._told |= {(server.shard, one.key) for one in arriving if anew or repr(one.key.decode()) in said}
        elif change.id not in self._imports:
            self._imports.add(change.id)
            for history, command in arriving.items():
                new = command not in history.commands or (server.shard, history.key) in self._told
                if new and server.get(history.key) is not None:
                    history.may_come(command, self._world.now_ms())
            # A server of the cluster cannot join, and what it does not own there are copies, half made perhaps.
            if server.shard in self._emptied and self._world.invariants.topology.shard(server.shard) is None:
                self._revived(server)

    def _revived(self, server: SimServer) -> None:
        """A power cut may have undone, once the server had left, what emptied it: those keys come with it, too."""
        for history in self._world.judges.histories:
            value = server.get(history.key)
            if value is not None and not self._world.invariants.owns(server.shard, history.key):
                history.may_come(Command("IMPORT", value), self._world.now_ms())

    def _gone(self, history: KeyHistory, shard: str) -> None:
        """A key is lost on a shard. Where it is about to own the key, nobody can tell that from a loss behind that."""
        invariants, now_ms = self._world.invariants, self._world.now_ms()
        if invariants.owns(shard, history.key):
            history.flushed(now_ms)
        elif invariants.about_to_own(shard, history.key):
            history.asked(Command("FLUSH"), now_ms)
