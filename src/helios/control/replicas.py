"""The control of a shard's members: who follows its leader, who counts, who goes. Pure.

What is acknowledged is on a majority of the members. So that this stays true while members come and go, one change
is made at a time, and until every router counts by the new membership and a majority of it has all that was
acknowledged before, a majority of the old one is asked for as well: `Shard.outgoing`. Who is no member is never made
leader. Who may be attached to the leader is listed, as a learner at least, and every router knows of it before it is
attached: what it acknowledges is never taken for a member's.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

from helios.control.failover import PublishLeader
from helios.control.leaders import is_missed
from helios.errors import Refused
from helios.model.ids import Address
from helios.model.topology import Member, Shard, Term, Topology

_MAX_LAG_BYTES = 1 << 20  # a learner that is further behind would keep writes waiting as a member


@dataclass(frozen=True, slots=True)
class Sight:
    """What a server said of itself when it was looked at: how much it has of which history, and whom it follows."""

    leads: bool
    history: str
    offset: int
    leader: Address | None = None
    in_sync: bool = False


@dataclass(frozen=True, slots=True)
class Look:
    """A shard, and what a look at its servers has found. The leader is asked first, the others after its answer.

    `wanted` are the servers that are to have its keys, as far as they run; `known` tells that every router went by the
    shard as it stands before the look began. Of those that did not answer, `gone` have been silent for too long, `dead`
    have no process, and `absent` have been given up by their agents. It never shrinks below `least` members because
    some are gone. `successors` are those that are to lead, the best first; none where whoever leads may.

    Who follows logs in as a user that a leader knows until it is restarted: `let_in` are those that have got such a
    login since, as far as is known.

    `leaving` are on nodes that are about to stop.

    `external` are on servers that Helios does not start. Such a one follows nobody, and counts no more once another
    leads. Where it leads, what follows it knows a login only until it has come in: those that did are `sealed`, and not
    `let_in` any more. A server that is restarted in its place, perhaps empty, has no followers then that would empty
    themselves after it.
    """

    shard: Shard
    wanted: tuple[Member, ...]
    sights: Mapping[str, Sight]
    known: bool
    gone: Collection[str] = ()
    dead: Collection[str] = ()
    absent: Collection[str] = ()
    least: int = 1
    successors: tuple[str, ...] = ()
    external: Collection[str] = ()
    sealed: Collection[str] = ()
    let_in: Collection[str] = ()
    leaving: Collection[str] = ()

    @property
    def led_from_outside(self) -> bool:
        """Whether the shard is led by a server that Helios does not start."""
        return self.shard.leader in self.external


# Decisions


@dataclass(frozen=True, slots=True)
class FailOver:
    """The leader is gone: who leads is to be decided anew."""

    reason: str


@dataclass(frozen=True, slots=True)
class HandOver:
    """The leader is to go: have this member lead, which lacks nothing, without anybody noticing."""

    member: Member


@dataclass(frozen=True, slots=True)
class Lead:
    """Make the member lead, which is the only one of its shard, and yet takes no writes."""

    member: Member


@dataclass(frozen=True, slots=True)
class Follow:
    """Make the member follow the leader."""

    member: Member


@dataclass(frozen=True, slots=True)
class Seal:
    """Have the member forget how it logs in to the leader: it follows as long as its connection lasts."""

    member: Member


@dataclass(frozen=True, slots=True)
class Detach:
    """Make the member follow nobody."""

    member: Member


@dataclass(frozen=True, slots=True)
class Enlist:
    """The server is a learner from now on."""

    member: Member

    def apply(self, shard: Shard) -> Shard:
        """The shard with it."""
        return replace(shard, learners=(*shard.learners, self.member))


@dataclass(frozen=True, slots=True)
class Admit:
    """The learner becomes a member; `history` is the leader's at this moment."""

    member: Member
    history: str

    def apply(self, shard: Shard) -> Shard:
        """The shard with it among the members, and those of before outgoing."""
        alone = len(shard.members) == 1
        return replace(
            shard,
            members=(*shard.members, self.member),
            learners=_without(shard.learners, self.member),
            outgoing=shard.members,
            lineage=(Term(self.history, 0),) if alone else shard.lineage,
        )


@dataclass(frozen=True, slots=True)
class Dismiss:
    """The member counts no more. It is a learner: it may be attached as before."""

    member: Member

    def apply(self, shard: Shard) -> Shard:
        """The shard with it among the learners, and the members of before outgoing."""
        return replace(
            shard,
            members=_without(shard.members, self.member),
            learners=(*shard.learners, self.member),
            outgoing=shard.members,
        )


@dataclass(frozen=True, slots=True)
class Settle:
    """The members of before are asked no more."""

    def apply(self, shard: Shard) -> Shard:
        """The shard with one membership; one member alone keeps its present term, by which routers know it again."""
        return replace(shard, outgoing=(), lineage=shard.lineage if len(shard.members) > 1 else shard.lineage[:1])


@dataclass(frozen=True, slots=True)
class Forget:
    """The learner is attached to nobody, and is to go."""

    member: Member

    def apply(self, shard: Shard) -> Shard:
        """The shard without it."""
        return replace(shard, learners=_without(shard.learners, self.member))


Mutation = Enlist | Admit | Dismiss | Settle | Forget
Decision = FailOver | HandOver | Lead | Follow | Seal | Detach | Mutation


def decide(look: Look) -> tuple[Decision, ...]:
    """What is to be done now. At most one mutation changes who counts; what follows it comes by the next look."""
    shard = look.shard
    lost = _leader_lost(look)
    if lost:
        return (FailOver(lost),)
    if _leads_nobody(look):
        # Its node has left while another led the shard that it had then, and has come back.
        return (Lead(shard.leading),)
    listed = {member.id for member in shard.servers}
    newcomers = tuple(Enlist(member) for member in look.wanted if member.id not in listed)
    gone = tuple(Forget(member) for member in shard.learners if _is_over(look, member))
    leader = look.sights.get(shard.leader)
    if leader is None or not leader.leads:
        return (*newcomers, *gone)
    changes = (*newcomers, *gone, *_membership(look, leader))
    return (*changes, *_attachments(look), *(_succession(look, leader) if not changes else ()))


def mutated(topology: Topology, shard_id: str, seen: Shard, mutation: Mutation) -> Topology:
    """The topology with the shard changed. Raises Refused where it is not as it was seen, or is being failed over."""
    shard = topology.shard(shard_id)
    if shard_id in topology.fenced_shards:
        raise Refused(f"{shard_id} is being failed over")
    if shard is None or (shard.leader, shard.memberships) != (seen.leader, seen.memberships):
        raise Refused(f"the members of {shard_id} have changed meanwhile")
    return with_shard(topology, shard_id, mutation.apply)


def failed_over(topology: Topology, shard_id: str, chosen: PublishLeader) -> Topology:
    """The topology in which a failover of the shard has ended.

    Where the leader may lack deletions, it may have keys that the shard does not own.
    """
    doubtful = frozenset({shard_id}) if chosen.lossy else frozenset()
    transition = topology.transition
    if transition is not None:
        transition = replace(transition, unclean=transition.unclean | doubtful)
    return replace(
        with_shard(topology, shard_id, lambda shard: _led(shard, chosen)),
        fenced_shards=topology.fenced_shards - {shard_id},
        unclean=topology.unclean | doubtful,
        transition=transition,
    )


def _led(shard: Shard, chosen: PublishLeader) -> Shard:
    """The shard under a new leader, which is the only member from now on if it is to be `alone`.

    One that was being dismissed may alone have all that was acknowledged. It is a member again then, and the membership
    is the one of before: nobody has gone by the other alone.
    """
    leader = chosen.member
    if all(member.id != leader for member in shard.members):
        back = {member.id for member in shard.outgoing}
        learners = tuple(member for member in shard.learners if member.id not in back)
        shard = replace(shard, members=shard.outgoing, outgoing=(), learners=learners)
    if chosen.alone:
        members = tuple(member for member in shard.members if member.id == leader)
        others = tuple(member for member in shard.servers if member.id != leader)
        return replace(shard, leader=leader, members=members, learners=others, outgoing=(), lineage=())
    return replace(shard, leader=leader, lineage=chosen.lineage)


def located(shard: Shard, addresses: Mapping[str, Address]) -> Shard:
    """The shard with its servers where they listen now, by member id."""

    def moved(members: tuple[Member, ...]) -> tuple[Member, ...]:
        return tuple(replace(member, address=addresses.get(member.id, member.address)) for member in members)

    return replace(shard, members=moved(shard.members), learners=moved(shard.learners), outgoing=moved(shard.outgoing))


def with_shard(topology: Topology, shard_id: str, change: Callable[[Shard], Shard]) -> Topology:
    """The topology with this shard changed."""
    return replace(
        topology, shards=tuple(change(shard) if shard.id == shard_id else shard for shard in topology.shards)
    )


def _leads_nobody(look: Look) -> bool:
    """Whether the shard's only member takes no writes."""
    shard, sight = look.shard, look.sights.get(look.shard.leader)
    if sight is None or sight.leads or look.led_from_outside:
        return False
    return frozenset().union(*shard.memberships) == {shard.leader}


def _leader_lost(look: Look) -> str:
    """Why the shard needs another leader; empty where it does not, or has nobody else."""
    shard = look.shard
    if frozenset().union(*shard.memberships) == {shard.leader}:
        return ""
    sight = look.sights.get(shard.leader)
    if sight is not None and sight.leads and sight.history == shard.lineage[0].history:
        return ""
    if sight is not None:
        return "it was restarted" if not sight.leads else "it leads, but not in its term"
    if shard.leader in look.dead:
        return "its process has ended"
    return "it does not answer" if shard.leader in look.gone else ""


def _membership(look: Look, leader: Sight) -> tuple[Mutation, ...]:
    shard = look.shard
    level = {member_id for member_id, sight in look.sights.items() if _is_level(sight, leader)} | {shard.leader}
    if shard.outgoing:
        return (Settle(),) if look.known and _is_kept(look, level) else ()
    wanted, counted = {member.id for member in look.wanted}, {member.id for member in shard.members}
    for learner in shard.learners:
        if look.led_from_outside and learner.id not in look.sealed:
            continue
        if learner.id in look.leaving:
            continue
        if learner.id in wanted and look.known and _has_caught_up(look.sights.get(learner.id), leader):
            return (Admit(learner, leader.history),)
    for member in shard.members:
        rest = _without(shard.members, member)
        if member.id == shard.leader or not _has_majority(level, rest):
            continue
        surplus = member.id not in wanted and wanted <= {one.id for one in rest}  # who takes its place comes first
        missed = shard.leader not in look.leaving and is_missed(member.id, counted, look.leaving)
        gone = member.id in look.gone or member.id in look.external or missed
        if surplus or (gone and len(rest) >= look.least):
            return (Dismiss(member),)
    return ()


def _succession(look: Look, leader: Sight) -> tuple[HandOver, ...]:
    shard = look.shard
    wanted = look.successors or tuple(member.id for member in look.wanted)
    if shard.leader in wanted or shard.outgoing:
        return ()
    members = {member.id: member for member in shard.members if member.id not in look.external}
    able = (members[member_id] for member_id in wanted if member_id in members)
    return tuple(HandOver(member) for member in able if _has_caught_up(look.sights.get(member.id), leader))[:1]


def is_caught_up(look: Look, member_id: str) -> bool:
    """Whether a member has what its leader has, but for what is on the way; the leader itself always has."""
    leader = look.sights.get(look.shard.leader)
    if leader is None or not leader.leads:
        return False
    return member_id == look.shard.leader or _has_caught_up(look.sights.get(member_id), leader)


def _attachments(look: Look) -> tuple[Follow | Seal | Detach, ...]:
    shard = look.shard
    wanted = {member.id for member in look.wanted}
    counted = frozenset().union(*shard.memberships)
    found: list[Follow | Seal | Detach] = []
    for member in shard.servers:
        sight = look.sights.get(member.id)
        if sight is None or member.id == shard.leader or member.id in look.external or member.id in look.absent:
            continue  # Who has no agent of ours is told nothing.
        if member.id not in counted and member.id not in wanted:
            if sight.leader is not None:
                found.append(Detach(member))
        elif sight.leader != shard.leading.address or _is_shut_out(look, member, sight):
            if member.id in counted or look.known:
                found.append(Follow(member))
        elif look.led_from_outside and sight.in_sync and member.id not in look.sealed:
            found.append(Seal(member))
    return tuple(found)


def _is_shut_out(look: Look, member: Member, sight: Sight) -> bool:
    """Whether a member has lost its leader, and cannot log in to it by itself."""
    return not sight.in_sync and member.id not in look.let_in


def _is_over(look: Look, member: Member) -> bool:
    """Whether a learner is not wanted, and is attached to nobody for certain."""
    if any(other.id == member.id for other in look.wanted):
        return False
    if any(member.id in membership for membership in look.shard.memberships):
        return False  # As one of those of before it is to follow, and is attached again.
    if member.id in look.external:
        return True  # It never was attached to anybody.
    sight = look.sights.get(member.id)
    return member.id in look.absent if sight is None else sight.leader is None


def _is_level(sight: Sight, leader: Sight) -> bool:
    """Whether it has all that the leader had when that was asked, before it."""
    return sight.history == leader.history != "" and sight.offset >= leader.offset


def _has_caught_up(sight: Sight | None, leader: Sight) -> bool:
    if sight is None or not sight.in_sync or not sight.history or sight.history != leader.history:
        return False
    return sight.offset >= leader.offset - _MAX_LAG_BYTES


def _has_majority(present: Collection[str], members: Collection[Member]) -> bool:
    return sum(member.id in present for member in members) > len(members) // 2


def _is_kept(look: Look, level: Collection[str]) -> bool:
    """Whether one of those that have everything is asked in every failover of the members that remain.

    That is a majority of them; or fewer, where an external one was replaced: it is never asked, nor has anything more.
    """
    members = look.shard.members
    behind = sum(member.id not in level and member.id not in look.external for member in members)
    return behind < len(members) - len(members) // 2


def _without(members: tuple[Member, ...], gone: Member) -> tuple[Member, ...]:
    return tuple(member for member in members if member.id != gone.id)
