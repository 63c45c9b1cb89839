"""Failovers of a shard whose members lag, die, lose their ends and come back: what was acknowledged stays.

The first leader may be external: it comes back as a leader, with as much as it likes, and nobody can follow it then.

Each life is drawn from a seed. Faults put into the control are found by it, so that it is known to look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random

import pytest

from helios.control import failover
from helios.control.failover import (
    Answered,
    Ask,
    Begun,
    Detach,
    Detached,
    Effect,
    Event,
    Failed,
    FailoverState,
    Follow,
    LiftFence,
    Position,
    Promote,
    Promoted,
    Published,
    PublishFence,
    PublishLeader,
    Stage,
    step,
)
from helios.model.topology import Term

LIVES = 400
MAX_LIVES = 4_000
ROUNDS = 250


@dataclass
class Server:
    """A member: its log of writes, whose history it is in, and whom it follows."""

    log: list[int] = field(default_factory=list)
    history: str = "h0"
    before: Position | None = None  # of one that was promoted: where it stood in the history before
    follows: str = ""
    up: bool = True
    reached: bool = True  # by the coordinator


class Life:
    """One shard, its clients, its faults, and a coordinator that performs what the control decides."""

    def __init__(self, seed: int, *, external: bool = False) -> None:
        self.random = Random(seed)
        self.external = frozenset(["m0"] if external else [])
        self.lifted = 0
        names = [f"m{number}" for number in range(self.random.choice((2, 3, 3, 4, 5)))]
        self.servers = {name: Server(follows="m0" if name != "m0" else "") for name in names}
        self.leader = "m0"
        self.lineage: tuple[Term, ...] = (Term("h0", 0),)
        self.histories = 0
        self.writes = 0
        self.acknowledged: set[int] = set()
        self.failovers = 0
        self.state: FailoverState | None = None
        self.todo: list[Effect] = []

    @property
    def majority(self) -> int:
        return len(self.servers) // 2 + 1

    def run(self) -> None:
        acts: list[Callable[[], None]] = [self.write, self.replicate, self.replicate, self.perform, self.perform]
        rare = [
            self.die,
            self.come_back,
            self.come_back,
            self.cut,
            self.mend,
            self.mend,
            self.fail_over,
            self.fail_over,
            self.replace,
        ]
        for _ in range(ROUNDS):
            self.random.choice(acts if self.random.random() < 0.8 else rare)()
            self.acknowledge()

    # What clients and servers do

    def write(self) -> None:
        # A router that has not seen the fence yet goes on with the leader that it knows.
        leader = self.servers[self.leader]
        if leader.up and not leader.follows:
            self.writes += 1
            leader.log.append(self.writes)

    def replicate(self) -> None:
        server = self.random.choice(list(self.servers.values()))
        leader = self.servers.get(server.follows)
        if leader is None or not (server.up and leader.up):
            return
        # A server that was restarted gets a whole copy: on the way it is nowhere.
        if server.history and server.log == leader.log[: len(server.log)]:
            server.log = leader.log[: self.random.randint(len(server.log), len(leader.log))]
        else:
            server.log = list(leader.log)
        server.history, server.before = leader.history, None

    def acknowledge(self) -> None:
        """A round of a router: the leader counts those that follow it in its own history."""
        leader = self.servers[self.leader]
        if not leader.up or leader.follows or leader.history != self.lineage[0].history:
            return
        following = [s for s in self.servers.values() if s.up and s.follows == self.leader]
        for write in leader.log:
            holders = sum(write in s.log and s.history == leader.history for s in following)
            if holders + 1 >= self.majority:
                self.acknowledged.add(write)

    # Faults

    def die(self) -> None:
        server = self.random.choice(list(self.servers.values()))
        if server.up and sum(s.up for s in self.servers.values()) > self.majority - 1:
            server.up = False
            if server is self.servers["m0"] and self.external:
                self.die_outside(server)
                return
            # Of the end that was not on its disk, some is gone; and no position survives a restart.
            server.log = server.log[: max(0, len(server.log) - self.random.choice((0, 0, 1, 3)))]
            server.history, server.before = "", None

    def die_outside(self, server: Server) -> None:
        """It takes the logins of its followers with it, comes back as it likes, and may tell a position of before."""
        server.log = server.log[: self.random.choice((0, len(server.log) // 2, len(server.log)))]
        self.histories += 1
        server.before = Position(server.history, len(server.log))
        server.history, server.follows = f"x{self.histories}", ""
        for other in self.servers.values():
            if other.follows == "m0":
                other.follows = "nobody"

    def come_back(self) -> None:
        for server in self.servers.values():
            if not server.up and self.random.random() < 0.5:
                server.up = True

    def cut(self) -> None:
        self.random.choice(list(self.servers.values())).reached = False

    def mend(self) -> None:
        self.random.choice(list(self.servers.values())).reached = True

    # The coordinator

    def fail_over(self) -> None:
        if self.state is None:
            members = frozenset(self.servers)
            self.state = FailoverState("shard", self.leader, (members,), self.lineage, external=self.external)
            self.feed(Begun())

    def replace(self) -> None:
        """Another coordinator takes over, which knows the topology and nothing else."""
        if self.state is not None:
            fenced = self.state.stage is not Stage.FENCING
            self.todo.clear()
            self.state = FailoverState(
                "shard", self.leader, self.state.memberships, self.lineage, external=self.external
            )
            self.feed(Begun(fenced))

    def feed(self, event: Event) -> None:
        assert self.state is not None
        self.state, effects = step(self.state, event)
        self.todo += effects

    def perform(self) -> None:
        if not self.todo:
            return
        effect = self.todo.pop(self.random.randrange(len(self.todo)))
        match effect:
            case PublishFence():
                self.feed(Published())
            case Detach(member):
                self.detach(member)
            case Promote(member, position):
                self.promote(member, position)
            case PublishLeader(member, lineage):
                self.publish(member, lineage)
            case Follow(member, leader):
                self.follow(member, leader)
            case Ask(leader):
                self.ask(leader)
            case LiftFence():
                self.lift_fence()

    def ask(self, leader: str) -> None:
        server = self.servers[leader]
        if server.up and server.reached:
            self.feed(Answered(stands=server.history == self.lineage[0].history))
        else:
            self.todo.append(Ask(leader))

    def lift_fence(self) -> None:
        self.lifted += 1
        self.feed(Published())
        self.state = None
        self.todo = [Follow(member, self.leader) for member in self.servers if member != self.leader]

    def follow(self, member: str, leader: str) -> None:
        if leader != self.leader or self.state is not None:
            return  # somebody else leads by now, or will
        if leader in self.external and self.servers[leader].history != self.lineage[0].history:
            return
        if self.servers[member].up and self.servers[member].reached:
            self.servers[member].follows = leader
        else:
            self.todo.append(Follow(member, leader))

    def detach(self, member: str) -> None:
        server = self.servers[member]
        if not (server.up and server.reached):
            self.feed(Failed(member, "no answer"))
            return
        server.follows = "nobody"
        answered = self.random.random() < 0.9
        position = server.before or Position(server.history, len(server.log))
        self.feed(Detached(member, position) if answered else Failed(member, "its answer was lost"))

    def promote(self, member: str, position: Position) -> None:
        server = self.servers[member]
        if not (server.up and server.reached):
            self.feed(Failed(member, "no answer"))
            return
        now = server.before or Position(server.history, len(server.log))
        if now != position:
            self.feed(Failed(member, "it is not what it was"))
            return
        self.histories += 1
        server.before, server.history = now, f"h{self.histories}"
        answered = self.random.random() < 0.9
        self.feed(Promoted(member, server.history) if answered else Failed(member, "its answer was lost"))

    def publish(self, member: str, lineage: tuple[Term, ...]) -> None:
        assert self.state is not None
        server = self.servers[member]
        assert member not in self.external
        if self.state.lossy:
            self.acknowledged &= set(server.log)
        elif server.history == lineage[0].history:
            lost = self.acknowledged - set(server.log)
            assert not lost, f"{member} leads without {sorted(lost)}"
        self.failovers += 1
        self.leader, self.lineage = member, lineage
        if server.history == lineage[0].history:
            server.follows, server.before = "", None
        self.feed(Published())
        self.state = None
        self.todo = [effect for effect in self.todo if isinstance(effect, Follow) and effect.leader == member]


def test_what_was_acknowledged_stays() -> None:
    failovers = writes = 0
    for seed in range(LIVES):
        life = Life(seed)
        life.run()
        failovers += life.failovers
        writes += len(life.acknowledged)
    assert failovers > LIVES
    assert writes > LIVES


def test_what_an_external_leader_had_acknowledged_stays_when_it_comes_back_with_less() -> None:
    failovers = lifted = writes = 0
    for seed in range(LIVES):
        life = Life(seed, external=True)
        life.run()
        failovers, lifted = failovers + life.failovers, lifted + life.lifted
        writes += len(life.acknowledged)
    assert failovers > LIVES // 2
    assert lifted > LIVES // 10
    assert writes > LIVES


# Faults that are planted in the control


@contextmanager
def everybody_compares(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Count members whose positions say nothing."""
    patch.setattr(FailoverState, "comparable", property(lambda state: frozenset(state.detached)))
    patch.setattr(failover, "_behind", lambda state, member: (-state.detached[member].offset, member))
    yield


@contextmanager
def one_is_enough(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Promote the first that answers."""
    patch.setattr(failover, "_meeting", lambda members: 1)
    yield


@contextmanager
def histories_by_name(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take who has joined the latest history for further than who has not, wherever it stands in it."""

    def behind(state: FailoverState, member: str) -> tuple[int, int]:
        at = state.detached[member]
        return [term.history for term in state.lineage].index(at.history), -at.offset

    patch.setattr(failover, "_behind", behind)
    yield


@contextmanager
def offsets_alone(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compare offsets across histories."""
    patch.setattr(failover, "_behind", lambda state, member: (-state.detached[member].offset, member))
    yield


@contextmanager
def a_failed_promotion_counts(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Go on with who is left when the chosen one dies."""
    missing = FailoverState.missing.fget  # type: ignore[attr-defined]
    patch.setattr(FailoverState, "missing", property(lambda state: 0 if state.failures else missing(state)))
    yield


@pytest.mark.parametrize(
    "plant", [everybody_compares, one_is_enough, histories_by_name, offsets_alone, a_failed_promotion_counts]
)
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with plant(monkeypatch), pytest.raises(AssertionError, match="leads without"):  # type: ignore[attr-defined]
        for seed in range(MAX_LIVES):
            Life(seed).run()


@contextmanager
def external_servers_vote(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take what an external server has for what it had."""
    patch.setattr(FailoverState, "voters", property(lambda state: state.members))
    yield


@contextmanager
def one_that_was_restarted_is_enough(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Promote a member without a position where an external leader is over, though there are others."""
    missing = FailoverState.missing.fget  # type: ignore[attr-defined]
    patch.setattr(FailoverState, "missing", property(lambda state: 0 if state.over else missing(state)))
    yield


@pytest.mark.parametrize("plant", [external_servers_vote, one_that_was_restarted_is_enough])
def test_a_fault_planted_about_external_leaders_is_found(
    plant: Callable[[pytest.MonkeyPatch], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with plant(monkeypatch), pytest.raises(AssertionError):  # type: ignore[attr-defined]
        for seed in range(MAX_LIVES):
            Life(seed, external=True).run()
