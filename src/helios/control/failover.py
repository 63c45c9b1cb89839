"""The control of one failover: who leads a shard after its leader is gone, so that nothing acknowledged is lost. Pure.

A write is acknowledged when a majority of the shard's members has it, the leader included. So members are detached
from the old leader, each of which acknowledges nothing to it any more, until every majority has one among them (while
the members change, every majority of those of before, for nobody goes by the others alone);
the most advanced of these has all that was acknowledged, and is promoted. Positions compare only along one history:
a member that has lost its own (it was restarted, or never synced) is detached, but counts for nothing. The store's
compare-and-set alone makes a leader; until then anything may be done again, by a successor, too.

Members on external servers have no vote, for Helios does not start them: one that comes back may lead with less than
it had, or nothing. They are told nothing and never chosen. But one that led, and leads in its term still, has lost
nothing: where it cannot be replaced without loss it goes on. So does one that was restarted while its first copy was
being admitted, unless it is empty: it alone had everything, and leads with what it has kept, as without a copy.

STAGES says how a failover goes on; tests/control/failover has transcripts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from helios.model.topology import Term

MAX_TERMS = 8  # of which the topology keeps the histories: who is further behind needs a whole copy anyway
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0


class Stage(StrEnum):
    """How far a failover has come."""

    FENCING = "fencing"
    DETACHING = "detaching"
    PROMOTING = "promoting"
    PUBLISHING = "publishing"
    DONE = "done"


@dataclass(frozen=True, slots=True)
class Position:
    """How much a member has: `offset` bytes of the history that its leader's replication id names; "" if unknown."""

    history: str
    offset: int


@dataclass(frozen=True, slots=True)
class FailoverState:
    """What a coordinator knows of the failover that it performs.

    `memberships` are the sets of members that may acknowledge: two while some router may still count by the one
    before, which is the last. Nobody goes by the other alone then, so a majority of the last has everything.

    `lineage` are the shard's terms, the latest first. `chosen` is promoted, or to be; `lossy` tells that it may lack
    acknowledged writes, and `alone` that a person has given up the others for it, whatever is `accepted` since.
    `preferred` is a member that was seen to have all, when nothing was under way behind the fence any more: it is to
    lead then, if it can. `external` are the members on servers that Helios does not start; `asked` tells that the
    leader is one of them and is asked whether it goes on, and `over` that it cannot. Of several that have as much, the
    first of `wanted` leads.
    """

    shard: str
    leader: str
    memberships: tuple[frozenset[str], ...]
    lineage: tuple[Term, ...]
    quorum: bool = True
    stage: Stage = Stage.FENCING
    detached: Mapping[str, Position] = field(default_factory=dict)
    failures: Mapping[str, int] = field(default_factory=dict)
    chosen: str = ""
    lossy: bool = False
    alone: bool = False
    accepted: str = ""
    preferred: str = ""
    wanted: tuple[str, ...] = ()
    external: frozenset[str] = frozenset()
    asked: bool = False
    over: bool = False

    @property
    def members(self) -> frozenset[str]:
        """Every member of either membership, the old leader included."""
        return frozenset().union(*self.memberships)

    @property
    def voters(self) -> frozenset[str]:
        """Every member whose word counts."""
        return self.members - self.external

    @property
    def was_alone(self) -> bool:
        """Whether the leader is an external server that had no fellow before the change that is under way."""
        return self.memberships[-1] <= self.external

    @property
    def answered(self) -> frozenset[str]:
        """The members that were detached, or could not be."""
        return frozenset(self.detached.keys() | self.failures.keys())

    @property
    def comparable(self) -> frozenset[str]:
        """The detached members whose positions can be compared."""
        known = {term.history for term in self.lineage}
        return frozenset(member for member, at in self.detached.items() if at.history in known)

    @property
    def missing(self) -> int:
        """How many more members have to be detached before a leader can be chosen without loss; 0 if enough are."""
        members = self.memberships[-1]
        return max(0, _meeting(members) - len(members & self.comparable))


# Events


@dataclass(frozen=True, slots=True)
class Begun:
    """A coordinator takes the failover up; `fenced` if the topology holds the shard's commands already."""

    fenced: bool = False


@dataclass(frozen=True, slots=True)
class Published:
    """What was to be published is in the store."""


@dataclass(frozen=True, slots=True)
class Detached:
    """The member acknowledges nothing to the old leader any more, and has this much."""

    member: str
    position: Position


@dataclass(frozen=True, slots=True)
class Failed:
    """The member could not be detached, or promoted: it may or may not be."""

    member: str
    reason: str


@dataclass(frozen=True, slots=True)
class Promoted:
    """The member would lead now, under a history of its own."""

    member: str
    history: str


@dataclass(frozen=True, slots=True)
class LossAccepted:
    """A person wants this member to lead, whatever it lacks."""

    member: str


@dataclass(frozen=True, slots=True)
class Answered:
    """The external leader was asked: it leads in its term still, or, without `stands`, was restarted, maybe `empty`."""

    stands: bool
    empty: bool = False


Event = Begun | Published | Detached | Failed | Promoted | LossAccepted | Answered

# Effects


@dataclass(frozen=True, slots=True)
class PublishFence:
    """Have routers hold every command of the shard, then report Published."""

    shard: str


@dataclass(frozen=True, slots=True)
class Detach:
    """Make the member follow nobody, after `delay_s`, then report Detached or Failed."""

    member: str
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Promote:
    """Make the member fit to lead if it is where it was, then report Promoted; Failed if it was restarted meanwhile."""

    member: str
    position: Position


@dataclass(frozen=True, slots=True)
class PublishLeader:
    """Make the member the leader in a new term, the first of `lineage`, and lift the fence; then report Published.

    The term is of its history alone: should the member be restarted, it has another one, and leads no more. `alone`:
    no other counts any more, since the loss of what the others have was accepted, or since none has counted before.
    `lossy`: it may lack deletions, too, those of keys among them that the shard has given away.
    """

    member: str
    lineage: tuple[Term, ...]
    alone: bool = False
    lossy: bool = False


@dataclass(frozen=True, slots=True)
class Follow:
    """Make the member follow the new leader, as soon as it answers; whatever was asked of it before is over."""

    member: str
    leader: str


@dataclass(frozen=True, slots=True)
class Ask:
    """Ask the external leader, until it answers, whether it leads in its term still; then report Answered."""

    leader: str


@dataclass(frozen=True, slots=True)
class LiftFence:
    """Have the leader go on in its term, as if nothing had been, then report Published."""

    shard: str


Effect = PublishFence | Detach | Promote | PublishLeader | Follow | Ask | LiftFence

# The stage after an event or effect, by the stage before; what is not named here changes nothing.
STAGES: Mapping[Stage, Mapping[type[Event | Effect], Stage]] = {
    Stage.FENCING: {Published: Stage.DETACHING},
    Stage.DETACHING: {Promote: Stage.PROMOTING, LiftFence: Stage.PUBLISHING, PublishLeader: Stage.PUBLISHING},
    Stage.PROMOTING: {Promoted: Stage.PUBLISHING, Failed: Stage.DETACHING},
    Stage.PUBLISHING: {Published: Stage.DONE},
    Stage.DONE: {},
}


def step(state: FailoverState, event: Event) -> tuple[FailoverState, tuple[Effect, ...]]:
    """What the event means and what is to be done now. Events that have become pointless change nothing."""
    match event:
        case Begun(fenced):
            if not fenced:
                return state, (PublishFence(state.shard),)
            return _detach_all(replace(state, stage=Stage.DETACHING))
        case Published() if state.stage is Stage.FENCING:
            return _detach_all(_staged(state, Published))
        case Published() if state.stage is Stage.PUBLISHING:
            # Who follows a leader that goes on, whoever cares for the members will see.
            others = sorted(state.voters - {state.chosen}) if state.chosen else ()
            return _staged(state, Published), tuple(Follow(member, state.chosen) for member in others)
        case Detached(member, position) if state.stage is not Stage.DONE:
            return _choose(replace(state, detached={**state.detached, member: position}))
        case Failed(member, _) if state.stage is not Stage.DONE:
            return _failed(state, member)
        case Promoted(member, history) if state.stage is Stage.PROMOTING and member == state.chosen:
            chosen = PublishLeader(member, _lineage(state, history), alone=state.alone, lossy=state.lossy)
            return _staged(state, Promoted), (chosen,)
        case LossAccepted(member) if member in state.voters:
            return _choose(replace(state, accepted=member))
        case Answered():
            return _answered(state, event)
    return state, ()


def _staged(state: FailoverState, cause: type[Event | Effect]) -> FailoverState:
    return replace(state, stage=STAGES[state.stage][cause])


def _detach_all(state: FailoverState) -> tuple[FailoverState, tuple[Effect, ...]]:
    if not state.voters:
        # There is an external server, and nobody else: a person accepted a loss that has been taken meanwhile, say.
        return _staged(state, LiftFence), (LiftFence(state.shard),)
    # The old leader is among them: where it answers, it stops taking writes, and waits to be told whom to follow.
    return state, tuple(Detach(member) for member in sorted(state.voters))


def _failed(state: FailoverState, member: str) -> tuple[FailoverState, tuple[Effect, ...]]:
    if state.stage is Stage.PROMOTING and member == state.chosen:
        # What it has may be another thing by now: it is asked again, like one that has not answered yet.
        detached = {other: at for other, at in state.detached.items() if other != member}
        state = replace(_staged(state, Failed), detached=detached, chosen="", lossy=False, alone=False)
    failures = state.failures.get(member, 0) + 1
    state = replace(state, failures={**state.failures, member: failures})
    again = Detach(member, min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** (failures - 1)))
    state, effects = _choose(state)
    return state, (again, *effects)


def _choose(state: FailoverState) -> tuple[FailoverState, tuple[Effect, ...]]:
    if state.stage is not Stage.DETACHING:
        return state, ()
    chosen, lossy = _candidate(state)
    if chosen:
        state = replace(_staged(state, Promote), chosen=chosen, lossy=lossy, alone=lossy and chosen == state.accepted)
        return state, (Promote(chosen, state.detached[chosen]),)
    if state.leader in state.external and not state.asked and state.answered >= state.voters:
        return replace(state, asked=True), (Ask(state.leader),)
    return state, ()


def _answered(state: FailoverState, said: Answered) -> tuple[FailoverState, tuple[Effect, ...]]:
    """What the external leader has said; where others can be chosen by now it is of no importance."""
    goes_on = said.stands or (state.was_alone and not said.empty)
    if not goes_on:
        return _choose(replace(state, over=True))
    if state.stage is not Stage.DETACHING:
        return replace(state, asked=False), ()
    if said.stands:
        return _staged(state, LiftFence), (LiftFence(state.shard),)
    return _staged(state, PublishLeader), (PublishLeader(state.leader, (), alone=True, lossy=True),)


def _candidate(state: FailoverState) -> tuple[str, bool]:
    """Who is to lead, "" while nobody can, and whether it may lack what was acknowledged."""
    if state.preferred in state.comparable and (state.missing == 0 or not state.quorum):
        return state.preferred, False
    if state.preferred and state.preferred not in state.answered:
        return "", False
    best = min(state.comparable, key=lambda member: _behind(state, member), default="")
    if state.quorum and state.missing == 0:
        return best, False
    if state.accepted in state.detached and state.answered >= state.voters:
        return state.accepted, True  # no sooner: the others may make a loss needless
    if not state.quorum and best and state.answered >= state.voters - {state.leader}:
        return best, True
    # All were restarted, and no position is left to compare. The old leader had everything, but for what it
    # had not yet written to its disk; of so many deaths at once nobody promises more. The only replica of an external
    # leader had as much; of several a person has to choose.
    if state.detached.keys() >= state.voters:
        if state.leader in state.voters:
            return state.leader, True
        if state.over and len(state.voters) == 1:
            return min(state.voters), True
    return "", False


def _behind(state: FailoverState, member: str) -> tuple[int, int, int, str]:
    """How far a member is behind, as Raft has it: by the term of the last that it has, then by how much that is.

    Of those that have as much, those come first that are wanted. One that has joined a new history, but only come to a
    point before the beginning of its term, has nothing of it.
    """
    at = state.detached[member]
    joined = next(age for age, term in enumerate(state.lineage) if term.history == at.history)
    older = range(joined, len(state.lineage))
    latest = next((age for age in older if at.offset > state.lineage[age].begins), older[-1])
    place = state.wanted.index(member) if member in state.wanted else len(state.wanted)
    return latest, -at.offset, place, member


def _lineage(state: FailoverState, history: str) -> tuple[Term, ...]:
    begins = state.detached[state.chosen].offset
    # A leader that has lost its own history counts anew: nothing of before can be compared with what follows.
    before = state.lineage if state.chosen in state.comparable else ()
    return (Term(history, begins), *before)[:MAX_TERMS]


def _meeting(members: frozenset[str]) -> int:
    """How many of the members meet every majority of them."""
    return len(members) - (len(members) // 2 + 1) + 1
