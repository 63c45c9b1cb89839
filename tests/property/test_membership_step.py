"""Members of a shard that come, go, die and lead, with routers that learn of it late: what was acknowledged stays.

Each life is drawn from a seed. Faults put into the control are found by it, so that it is known to look.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from random import Random

import pytest
from tests.topologies import cluster

from helios.control import failover, replicas
from helios.control.failover import FailoverState, Position
from helios.control.replicas import (
    Admit,
    Decision,
    Detach,
    FailOver,
    Follow,
    HandOver,
    Lead,
    Look,
    Seal,
    Settle,
    Sight,
    decide,
    failed_over,
    mutated,
)
from helios.errors import Refused
from helios.model.ids import Address
from helios.model.topology import Member, Shard, Topology

LIVES = 150
MAX_LIVES = 2_500
ROUNDS = 900
NODES = ("a", "b", "c", "d")
LEAST = 1


@dataclass
class Server:
    """A server of the shard: its log of writes, whose history it is in, and whom it follows ("": it leads)."""

    member: Member
    log: list[int] = field(default_factory=list)
    history: str = ""
    before: Position | None = None  # of one that was promoted: where it stood in the history before
    follows: str = "nobody"
    up: bool = True
    reached: bool = True  # by the coordinator
    linked: bool = True  # with whom it follows


@dataclass
class Router:
    """What a router goes by, which may be what was true some time ago."""

    shard: Shard
    epoch: int
    holds: bool = False


class Life:
    """One shard, its servers, its routers, its faults, and a coordinator that performs what the control decides."""

    def __init__(self, seed: int, *, external: bool = False) -> None:
        self.random = Random(seed)
        self.external = frozenset(["a.0"] if external else [])
        self.asked = ""  # the history of the external leader that was asked
        self.sealed: set[str] = set()
        self.let_in: set[str] = set()
        self.topology = cluster("a", "b")
        founder = self.shard.leading
        members = [founder, *(Member(f"a@{node}", node, Address(node, 1)) for node in NODES[1:])]
        self.servers = {member.id: Server(member) for member in members}
        self.histories = 0
        self.lead_alone(self.servers[founder.id])
        self.routers = [Router(self.shard, self.topology.epoch) for _ in range(2)]
        self.wanted = {founder.id}
        self.writes = 0
        self.acknowledged: set[int] = set()
        self.state: FailoverState | None = None
        self.todo: list[failover.Effect] = []
        self.settling = False
        self.looking: Generator[None, None, None] | None = None
        self.since: tuple[object, int] = (None, 0)
        self.done: dict[type[Decision | failover.Effect], int] = {}

    @property
    def shard(self) -> Shard:
        shard = self.topology.shard("a")
        assert shard is not None
        return shard

    def run(self) -> None:
        often = [self.write, self.replicate, self.catch_up, self.learn, *[self.look] * 5, self.perform]
        rare = [*(self.die, self.come_back, self.come_back), *(self.cut, self.mend, self.mend), self.want, self.replace]
        for _ in range(ROUNDS):
            self.random.choice(often if self.random.random() < 0.95 else rare)()
            for router in self.routers:
                self.acknowledge(router)

    # What clients, routers and servers do

    def write(self) -> None:
        router = self.random.choice(self.routers)
        leader = self.servers[router.shard.leader]
        if leader.up and leader.follows == "" and not router.holds:
            self.writes += 1
            leader.log.append(self.writes)

    def replicate(self) -> None:
        server = self.random.choice(list(self.servers.values()))
        leader = self.servers.get(server.follows)
        if leader is None or leader is server or leader.follows != "" or not (server.up and leader.up):
            return
        if not server.linked:
            return
        if server.history and server.log == leader.log[: len(server.log)]:
            server.log = leader.log[: self.random.randint(len(server.log), len(leader.log))]
        else:
            server.log = list(leader.log)
        server.history, server.before = leader.history, None

    def acknowledge(self, router: Router) -> None:
        """A round: a majority of each membership that the router knows has what the leader has."""
        shard = router.shard
        leader = self.servers[shard.leader]
        if not leader.up or leader.follows != "" or router.holds:
            return  # whoever holds has told all that it had under way
        alone = shard.memberships == (frozenset((shard.leader,)),)
        if not alone and leader.history != shard.lineage[0].history:
            return
        attached = {
            name: server
            for name, server in self.servers.items()
            if server.up and server.follows == shard.leader and server.history == leader.history and server.linked
        }
        for write in set(leader.log) - self.acknowledged:
            holders = {shard.leader} | {name for name, server in attached.items() if write in server.log}
            if shard.learners or shard.outgoing:
                enough = all(len(holders & members) > len(members) // 2 for members in shard.memberships)
            else:  # It counts whoever is attached.
                enough = len(holders) > len(shard.members) // 2
            if enough:
                self.acknowledged.add(write)

    def learn(self) -> None:
        router = self.random.choice(self.routers)
        router.shard, router.epoch = self.shard, self.topology.epoch
        router.holds = "a" in self.topology.fenced_shards

    def lead_alone(self, server: Server) -> None:
        self.histories += 1
        server.history, server.before, server.follows = f"h{self.histories}", None, ""

    # Faults

    def die(self) -> None:
        server = self.random.choice(list(self.servers.values()))
        counted = frozenset().union(*self.shard.memberships)
        if server.up and sum(self.servers[name].up for name in counted) > len(counted) // 2:
            server.up = False
            if server.member.id in self.external:
                self.die_outside(server, alone=len(counted) == 1)
                return
            if len(counted) > 1 or server.member.id not in counted:
                # Of the end that was not on its disk, some is gone; and no position survives a restart.
                server.log = server.log[: max(0, len(server.log) - self.random.choice((0, 0, 1, 3)))]
            server.history, server.before, server.follows = "", None, "nobody"

    def die_outside(self, server: Server, *, alone: bool) -> None:
        """It comes back as a leader, with what it likes. Nobody who counts follows it by itself then.

        As long as it alone has what was acknowledged, it comes back with everything, or with nothing.
        """
        if self.shard.memberships[-1] == {server.member.id} and not alone:
            server.log = self.random.choice(([], server.log))
        elif not alone:
            server.log = server.log[: self.random.choice((0, len(server.log) // 2, len(server.log)))]
        self.lead_alone(server)
        counted = frozenset().union(*self.shard.memberships)
        for name, other in self.servers.items():
            if other.follows == server.member.id and (name in self.sealed or name in counted):
                other.linked = False

    def come_back(self) -> None:
        for name, server in self.servers.items():
            if not server.up and self.random.random() < 0.5:
                server.up = True
                # Its agent may have read the topology a while ago.
                shard = self.random.choice([self.shard, self.shard, self.random.choice(self.routers).shard])
                if name not in self.external and frozenset().union(*shard.memberships) == {name}:
                    self.lead_alone(server)

    def cut(self) -> None:
        self.random.choice(list(self.servers.values())).reached = False

    def mend(self) -> None:
        self.random.choice(list(self.servers.values())).reached = True

    def want(self) -> None:
        others = self.random.sample(sorted(self.servers)[1:], self.random.randint(0, 3))
        self.wanted = set(others) if others and self.random.random() < 0.3 else {"a.0", *others}

    def catch_up(self) -> None:
        """Some of those that are attached have all for a moment."""
        for server in self.random.sample(list(self.servers.values()), 2):
            leader = self.servers.get(server.follows)
            if leader is None or not server.linked:
                continue
            if server.up and leader.up and leader.follows == "" and leader is not server:
                server.log, server.history, server.before = list(leader.log), leader.history, None

    # The coordinator

    def replace(self) -> None:
        """Another coordinator takes over, which knows the topology and nothing else."""
        self.looking, self.state, self.since, self.settling = None, None, (None, 0), False
        self.sealed, self.let_in = set(), set()
        self.todo.clear()
        if "a" in self.topology.fenced_shards:
            self.fail_over()

    def sees(self, name: str) -> Sight | None:
        server = self.servers[name]
        if not (server.up and server.reached):
            return None
        leader = self.servers.get(server.follows)
        address = None if leader is None else leader.member.address
        in_sync = leader is not None and server.history == leader.history and server.linked
        return Sight(server.follows == "", server.history, len(server.log), address, in_sync)

    def look(self) -> None:
        if self.state is not None:
            return
        if self.looking is None:
            self.looking = self.looks()
        if next(self.looking, "over") == "over":
            self.looking = None

    def looks(self) -> Generator[None, None, None]:
        """One look at the shard; anything may happen where it yields."""
        shard = self.shard
        servers = (shard.leader, shard.memberships, shard.learners)
        if self.since[0] != servers:
            self.since = servers, self.topology.epoch
        known = all(router.epoch >= self.since[1] for router in self.routers)
        yield
        sights = {shard.leader: self.sees(shard.leader)}
        yield
        for member in shard.servers:
            if member.id != shard.leader:
                sights[member.id] = self.sees(member.id)
        yield
        left = self.external - {shard.leader}
        wanted = tuple(self.servers[name].member for name in sorted((self.wanted | self.external) - left))
        free = {name for name, sight in sights.items() if sight is not None and sight.leader is None}
        self.sealed, self.let_in = self.sealed - free, self.let_in - free
        seen = {name: sight for name, sight in sights.items() if sight is not None}
        unseen = sights.keys() - seen.keys()
        # Nobody is told that a server is gone only when it is.
        gone = unseen | {name for name in sights if self.random.random() < 0.08}
        absent = {name for name in unseen if not self.servers[name].up and name not in self.wanted}
        look = Look(
            shard,
            wanted,
            seen,
            known,
            gone=gone,
            absent=absent,
            least=LEAST,
            external=self.external,
            sealed=set(self.sealed),
            let_in=set(self.let_in),
        )
        for decision in decide(look):
            yield
            self.decided(shard, decision)

    def decided(self, shard: Shard, decision: Decision) -> None:
        match decision:
            case FailOver():
                self.fail_over()
            case HandOver(member):
                self.fail_over(member.id)
            case Follow(member):
                self.follow(shard, self.servers[member.id])
            case Seal(member):
                if self.servers[member.id].up and self.servers[member.id].reached:
                    self.let_in.discard(member.id)
                    self.sealed.add(member.id)
            case Lead():
                pass  # no server of this model is alone and detached
            case Detach(member):
                server = self.servers[member.id]
                if server.up and server.reached:
                    server.follows = "nobody"
            case _:
                try:
                    self.publish(mutated(self.topology, "a", shard, decision))
                except Refused:
                    return
        self.done[type(decision)] = self.done.get(type(decision), 0) + 1

    def follow(self, shard: Shard, server: Server) -> None:
        if not (server.up and server.reached and self.state is None):
            return
        leader, name = self.servers[shard.leader], server.member.id
        if shard.leader in self.external:
            self.sealed.discard(name)
            if not leader.up or (len(shard.members) > 1 and leader.history != shard.lineage[0].history):
                return
            self.let_in.add(name)
        server.follows, server.before, server.linked = shard.leader, None, True

    def publish(self, topology: Topology) -> None:
        self.topology = replace(topology, epoch=self.topology.epoch + 1)
        if self.shard.memberships[-1] <= self.external:
            # A leader has everything; one that is alone and has just been restarted has what its owner lets it keep.
            self.acknowledged &= set(self.servers[self.shard.leader].log)

    def fail_over(self, preferred: str = "") -> None:
        shard = self.shard
        self.state = FailoverState(
            "a",
            shard.leader,
            shard.memberships,
            shard.lineage,
            preferred=preferred,
            external=self.external & frozenset(member.id for member in shard.servers),
        )
        self.feed(failover.Begun("a" in self.topology.fenced_shards))

    def feed(self, event: failover.Event) -> None:
        assert self.state is not None
        self.state, effects = failover.step(self.state, event)
        self.todo += effects

    def settle(self) -> None:
        """Behind the fence of a leader that hands over: all routers hold, and the successor has everything."""
        assert self.state is not None
        successor, leader = self.servers.get(self.state.preferred), self.servers[self.shard.leader]
        if successor is not None:
            held = all(router.holds for router in self.routers) and leader.up
            if not held or successor.follows != self.shard.leader or successor.log != leader.log:
                if self.random.random() < 0.9:
                    return
                self.state = replace(self.state, preferred="")  # given up
        self.settling = False
        self.feed(failover.Published())

    def perform(self) -> None:
        if self.settling:
            self.settle()
        if not self.todo:
            return
        match self.todo.pop(self.random.randrange(len(self.todo))):
            case failover.PublishFence():
                self.publish(replace(self.topology, fenced_shards=frozenset({"a"})))
                self.settling = True
            case failover.Detach(member):
                self.detach(member)
            case failover.Promote(member, position):
                self.promote(member, position)
            case failover.PublishLeader() as chosen:
                self.lead(chosen)
            case failover.Ask(leader):
                self.ask(leader)
            case failover.LiftFence():
                self.publish(replace(self.topology, fenced_shards=frozenset()))
                self.state, self.todo = None, []
                self.done[failover.LiftFence] = self.done.get(failover.LiftFence, 0) + 1

    def ask(self, leader: str) -> None:
        server = self.servers[leader]
        assert self.state is not None
        empty = not server.log
        stands = server.history == self.shard.lineage[0].history
        holds = all(router.holds for router in self.routers)
        if server.up and server.reached and (holds or stands or not (empty and self.state.was_alone)):
            self.asked = server.history
            self.feed(failover.Answered(stands, empty=empty))
        else:
            self.todo.append(failover.Ask(leader))

    def position(self, server: Server) -> Position:
        return server.before or Position(server.history, len(server.log))

    def detach(self, member: str) -> None:
        server = self.servers[member]
        if not (server.up and server.reached):
            self.feed(failover.Failed(member, "no answer"))
            return
        server.follows = "nobody"
        answered = self.random.random() < 0.9
        self.feed(
            failover.Detached(member, self.position(server)) if answered else failover.Failed(member, "answer lost")
        )

    def promote(self, member: str, position: Position) -> None:
        server = self.servers[member]
        if not (server.up and server.reached) or self.position(server) != position:
            self.feed(failover.Failed(member, "it is not there"))
            return
        self.histories += 1
        server.before, server.history = position, f"h{self.histories}"
        self.feed(failover.Promoted(member, server.history))

    def lead(self, chosen: failover.PublishLeader) -> None:
        assert self.state is not None
        server = self.servers[chosen.member]
        goes_on = server.follows == "" if chosen.alone else server.history == chosen.lineage[0].history
        assert chosen.alone == (chosen.member in self.external)
        restarted = chosen.alone and server.history != self.asked  # what it has lost since is not for us to keep
        if self.state.lossy or restarted:
            self.acknowledged &= set(server.log)
        elif goes_on:
            lost = self.acknowledged - set(server.log)
            assert not lost, f"{chosen.member} leads without {sorted(lost)}"
        self.publish(failed_over(self.topology, "a", chosen))
        if goes_on and server.up:
            server.follows, server.before = "", None
        self.done[FailOver] = self.done.get(FailOver, 0) + 1
        self.state, self.todo = None, []


def test_what_was_acknowledged_stays() -> None:
    done: dict[type[Decision | failover.Effect], int] = {}
    writes = 0
    for seed in range(LIVES):
        life = Life(seed)
        life.run()
        writes += len(life.acknowledged)
        for kind, times in life.done.items():
            done[kind] = done.get(kind, 0) + times
    assert writes > LIVES
    for kind in (FailOver, HandOver, Admit, replicas.Dismiss, Settle, Follow, Detach, replicas.Forget):
        assert done.get(kind, 0) > LIVES // 4, (kind, done)


def test_what_an_external_leader_had_acknowledged_stays_when_it_comes_back_with_less() -> None:
    done: dict[type[Decision | failover.Effect], int] = {}
    writes = 0
    for seed in range(LIVES):
        life = Life(seed, external=True)
        life.run()
        writes += len(life.acknowledged)
        for kind, times in life.done.items():
            done[kind] = done.get(kind, 0) + times
    assert writes > LIVES
    for kind in (FailOver, Admit, replicas.Dismiss, Settle, Follow, Seal, replicas.Forget):
        assert done.get(kind, 0) > LIVES // 4, (kind, done)


# Faults that are planted in the control


@contextmanager
def settle_at_once(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the members of before up before the new ones have everything."""
    patch.setattr(replicas, "_has_majority", lambda present, members: True)
    patch.setattr(replicas, "_is_kept", lambda look, level: True)
    yield


@contextmanager
def nobody_outgoing(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Change members while routers count by those of before."""
    admit, dismiss = replicas.Admit.apply, replicas.Dismiss.apply
    patch.setattr(replicas.Admit, "apply", lambda change, shard: replace(admit(change, shard), outgoing=()))
    patch.setattr(replicas.Dismiss, "apply", lambda change, shard: replace(dismiss(change, shard), outgoing=()))
    yield


@contextmanager
def attached_unlisted(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Attach a learner that routers do not know of, or know as a member."""
    seen = replicas.decide

    def decided(look: Look) -> tuple[Decision, ...]:
        return seen(replace(look, known=True))

    patch.setitem(globals(), "decide", decided)
    yield


@pytest.mark.parametrize("plant", [settle_at_once, nobody_outgoing, attached_unlisted])
def test_a_planted_fault_is_found(
    plant: Callable[[pytest.MonkeyPatch], object], monkeypatch: pytest.MonkeyPatch
) -> None:
    with plant(monkeypatch), pytest.raises(AssertionError, match="leads without"):  # type: ignore[attr-defined]
        for seed in range(MAX_LIVES):
            Life(seed).run()
