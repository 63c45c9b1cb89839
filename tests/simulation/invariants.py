"""What must hold: at each access to a server, at each new epoch, and when everything has come to rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tests.simulation.servers import SimServer

from helios.coordinator.sweep import REGISTER
from helios.model.topology import PairPhase, Topology
from helios.placement.routing import Routes
from helios.ports.engine import MOVER_PREFIX, session_of

_HELIOS = b"\x00helios-"  # what coordinators note on servers for themselves


class Invariants:
    """Follows the topology as the store has it, and calls `fail` with what is broken.

    Epochs grow one by one. A key changes its owner only by the switch of a pair that was fenced. A router's
    command is carried out only where its key is owned in that moment, a coordinator's write, deletion or flush
    only where it is not.
    """

    look_for_users = True

    def __init__(self, keys: Sequence[bytes], now_s: Callable[[], float], fail: Callable[[str], None]) -> None:
        self.topology = Topology(epoch=-1)
        self.routes = Routes(self.topology)
        self.fences = 0
        self.longest_fence_s = 0.0
        self.switches = 0
        self.leads: Callable[[SimServer], bool] = lambda _: True
        self._keys = keys
        self._now_s = now_s
        self._fail = fail
        self._fenced_at_s: dict[tuple[str, str], float] = {}
        self._strays: set[tuple[str, bytes, bytes | None]] = set()

    def published(self, topology: Topology) -> None:
        """The store has a new topology."""
        before, routes = self.routes, Routes(topology)
        if topology.epoch <= self.topology.epoch:
            self._fail(f"epoch {topology.epoch} was published after {self.topology.epoch}")
        if routes.empty and not before.empty:
            self._fail(f"epoch {topology.epoch} leaves nobody to own any key")
        elif not before.empty:
            for key in self._keys:
                was, becomes = before.owner(key), routes.owner(key)
                if was != becomes and not (before.fenced(key) and before.pair(key) == (was, becomes)):
                    self._fail(f"epoch {topology.epoch} gives {key!r} from {was} to {becomes} without a fence")
        self._time_fences(topology)
        self.topology, self.routes = topology, routes

    def _time_fences(self, topology: Topology) -> None:
        pairs = topology.transition.pairs if topology.transition is not None else ()
        fenced = {(pair.source, pair.target) for pair in pairs if pair.phase is PairPhase.FENCED}
        for pair in sorted(fenced - self._fenced_at_s.keys()):
            self._fenced_at_s[pair] = self._now_s()
            self.fences += 1
        switched = {(pair.source, pair.target) for pair in pairs if pair.phase is PairPhase.SWITCHED}
        self.switches += len(switched & self._fenced_at_s.keys())
        for pair in sorted(self._fenced_at_s.keys() - fenced):
            self.longest_fence_s = max(self.longest_fence_s, self._now_s() - self._fenced_at_s.pop(pair))

    def fence_age_s(self) -> float:
        """How long the oldest fence has been standing."""
        return max((self._now_s() - at_s for at_s in self._fenced_at_s.values()), default=0.0)

    def owns(self, shard: str, key: bytes) -> bool:
        """Whether the shard owns the key now."""
        return not self.routes.empty and self.routes.owner(key) == shard

    def about_to_own(self, shard: str, key: bytes) -> bool:
        """Whether the key is behind a fence on its way to the shard: what it loses now may be noticed or not."""
        return self.routes.fenced(key) and self.routes.pair(key) == (self.routes.owner(key), shard)

    def client(self, server: SimServer, user: str, command: str, key: bytes) -> None:
        """A router's command for a key is being carried out."""
        if not self.leads(server):
            return  # which is told to nobody: judges look at that
        owner = None if self.routes.empty else self.routes.owner(key)
        # Where nobody can be forced off, what was sent may run late. It is not acknowledged, and seen by nobody.
        if owner != server.shard and server.acl:
            self._fail(
                f"{command} {key!r} of {user} is carried out on {server.shard} "
                f"while {owner} owns it (epoch {self.topology.epoch})"
            )

    def undeclared(self, server: SimServer, key: bytes, value: bytes) -> None:
        """A script gives a value to a key that it does not declare: that may lie where nobody looks for it."""
        self._strays.add((server.shard, key, value))

    def mover(self, server: SimServer, deed: str, keys: Sequence[bytes]) -> None:
        """A coordinator writes or deletes keys."""
        if self.routes.empty or not self.leads(server):
            return  # What a former leader is given late goes as soon as it follows.
        for key in keys:
            if self.routes.owner(key) == server.shard and not key.startswith(_HELIOS):
                self._fail(f"a coordinator {deed} {key!r} on {server.shard}, its owner (epoch {self.topology.epoch})")

    def unrest(self, servers: Sequence[SimServer], sessions: set[str]) -> Iterator[str]:
        """What keeps the cluster from being at rest; `sessions` are those that live."""
        if self.topology.transition is not None:
            yield "a transition is running"
        if self.topology.unclean:
            yield f"unclean: {', '.join(sorted(self.topology.unclean))}"
        for server in servers:
            if self.topology.shard(server.shard) is None:
                continue
            held = server.keys()
            foreign = sorted(key for key in held if self._foreign(server, key))
            if foreign and server.shard not in self.topology.unclean and server.acl:
                owner = "nobody" if foreign[0] == REGISTER else self.routes.owner(foreign[0])
                yield f"{server.shard} holds {foreign[0]!r}, which {owner} owns"
            for user in server.users() if self.look_for_users and server.acl else ():
                if user.startswith(MOVER_PREFIX):
                    yield f"{server.shard} still has the user {user}"
                if (session := session_of(user)) is not None and session not in sessions:
                    yield f"{server.shard} still has the user {user}, whose session is over"

    def _foreign(self, server: SimServer, key: bytes) -> bool:
        """Whether the server holds a key that has no business there."""
        if key == REGISTER:
            return True
        return self.routes.owner(key) != server.shard and (server.shard, key, server.get(key)) not in self._strays
