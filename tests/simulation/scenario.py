"""What a seed decides before a world begins."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from helios.model.sections import CoordinatorSettings, ShardingSettings
from helios.model.settings import ClusterSettings


class Danger(StrEnum):
    """What a life is about."""

    CALM = "calm"  # nothing but the operator's verbs
    MIXED = "mixed"
    POWER = "power"  # servers lose what is not on their disks
    ZOMBIES = "zombies"  # coordinators freeze and wake when they have been replaced
    STALLS = "stalls"  # external servers stand still, and routers wake with commands that they should have sent before
    SLOW = "slow"  # the store takes its time, and many keys end by themselves meanwhile


class ServerKind(StrEnum):
    """Whose a server is."""

    SUPERVISED = "supervised"
    EXTERNAL = "external"
    PLAIN = "plain"  # external, and without users


class StoreKind(StrEnum):
    """Whose ways the store has."""

    SQLITE = "sqlite"  # answers or does not, and nothing of it is on its way for long
    ETCD = "etcd"


class Edge(StrEnum):
    """What not every life has."""

    EXTERNAL = "external"  # some servers are nobody's but the user's
    PLAIN = "plain"  # and know no users
    LOSING = "losing"  # servers lose keys by themselves: they evict, or are emptied past the routers
    IMPORTS = "imports"  # servers that join bring keys
    XSETID = "xsetid"  # clients give streams other last ids
    SEVERAL = "several"  # clients use several keys at once
    FLUSHES = "flushes"  # clients empty the cluster
    CLOCKS = "clocks"  # clocks drift and jump, and stop while a machine is suspended
    STORE = "store"  # commits arrive after they were given up, and watches are lost
    ELSEWHERE = "elsewhere"  # servers come back at other addresses
    ADOPTED = "adopted"  # a server that runs already, with keys, becomes a cluster
    SCRIPTS = "scripts"  # clients call scripts and functions, some of which write keys that they do not declare
    TRAPS = "traps"  # nothing fails but what shows wrong rules for leaders
    ACCEPTED = "accepted"  # a person has copies lead: in order, or whatever they lack where a majority is away
    COPIES = "copies"  # a person changes how many copies there are to be, and how few there may be
    ASYNC = "async"  # some keys, or all, are acknowledged once the leader has them
    LEADER_READS = "leader-reads"  # reads show what the leader has
    REPLICA_READS = "replica-reads"  # clients let replicas answer some of what they read
    SETTINGS = "settings"  # a person changes times and rates
    PROMISES = "promises"  # a person changes what writes wait for, and what reads show
    OUTSIDE = "outside"  # a server that Helios does not start has keys of which there are copies


# Those that show faults which are not mended yet. They occur only where the command line asks for them.
WAITING: set[Edge] = set()
_OFTEN = {
    Edge.EXTERNAL: 0.3,
    Edge.PLAIN: 0.1,
    Edge.LOSING: 0.25,
    Edge.IMPORTS: 0.25,
    Edge.XSETID: 0.5,
    Edge.SEVERAL: 0.5,
    Edge.FLUSHES: 0.1,
    Edge.CLOCKS: 0.3,
    Edge.STORE: 0.3,
    Edge.ELSEWHERE: 0.3,
    Edge.ADOPTED: 0.1,
    Edge.SCRIPTS: 0.3,
}
_LATER = (Edge.SCRIPTS,)
_SERVERS_MAX = 5
ADOPTED = 1  # which of the servers a cluster is made of, where it is made of one
_PLAIN_PEACE_S = 2.0  # in which moves begin that only a coordinator asleep can hurt
SKEW_S = 0.2  # at most, of a server's clock
_DANGERS = (Danger.MIXED, Danger.POWER, Danger.ZOMBIES, Danger.SLOW, Danger.STALLS)


@dataclass(frozen=True, slots=True)
class Scenario:
    """Sizes, settings and dangers of one world. Times are in seconds."""

    settings: ClusterSettings
    big_bytes: int  # values beyond this are copied in steps
    nodes: int
    spare_nodes: int
    routers: int
    coordinators: int
    clients: int
    keys_per_client: int
    counters: int
    cold_keys_per_client: int  # written once and then only read
    peace_s: float  # before the first fault
    trouble_s: float
    fault_every_s: float
    fault_at_phase: float
    verb_every_s: float
    think_s: float
    late: float  # how often a request or a reply is late, by up to seconds
    store_late: float  # the same for the store
    ending: float  # how many of the clients' writes end by themselves
    session_ttl_s: float
    hold_timeout_s: float
    danger: Danger
    store: StoreKind
    brief: bool
    room_bytes: int  # on the way from a router to a server
    registers: int
    pairs: int
    queues: int
    streams_per_client: int  # among its keys
    edges: frozenset[Edge]
    kinds: tuple[ServerKind, ...]  # of all servers
    skews_s: tuple[float, ...]  # of the servers' clocks
    register_weight: int = 20  # how often registers are used, beside other deeds
    flush_weight: int = 1  # the same for flushes
    lists: bool = True  # whether a listing shows what there is, and not what a failover may take back

    @property
    def skew_ms(self) -> float:
        """By how much a server's clock may be wrong."""
        return SKEW_S * 1000 if any(self.skews_s) else 0.0


def danger_of(seed: int) -> Danger:
    """What the life of a seed is about: the same in every fifth."""
    return Danger.CALM if seed % 50 == 49 else _DANGERS[seed % len(_DANGERS)]


def _kinds(random: Random, edges: frozenset[Edge], *, all_plain: bool) -> Iterator[ServerKind]:
    yield ServerKind.SUPERVISED  # the first may always be a target
    for number in range(1, _SERVERS_MAX):
        kind = _kind(random, edges)
        if all_plain:
            yield ServerKind.PLAIN
        elif number == ADOPTED and Edge.ADOPTED in edges and kind is ServerKind.SUPERVISED:
            yield ServerKind.EXTERNAL
        else:
            yield kind


def _kind(random: Random, edges: frozenset[Edge]) -> ServerKind:
    choice = random.random()
    if Edge.PLAIN in edges and choice < 0.7:
        return ServerKind.PLAIN
    if Edge.EXTERNAL in edges and choice > 0.3:
        return ServerKind.EXTERNAL
    return ServerKind.SUPERVISED


def choose(seed: int) -> Scenario:
    """The scenario of a seed."""
    random = Random(f"{seed}/scenario")
    danger = danger_of(seed)
    # Most lives are short: a move or two and what befalls them, so that many more of them can be lived.
    brief = random.random() < 0.9
    power, zombies, slow = danger is Danger.POWER, danger is Danger.ZOMBIES, danger is Danger.SLOW
    # What has come later has a source of its own, so that the rest of a seed's life stays what it was.
    edges = Random(f"{seed}/edges")
    drawn = frozenset(edge for edge, often in _OFTEN.items() if edge not in _LATER and edges.random() < often)
    later = Random(f"{seed}/later edges")
    drawn |= frozenset(edge for edge in _LATER if later.random() < _OFTEN[edge])
    if danger is Danger.STALLS:
        drawn |= {Edge.EXTERNAL}
    if zombies and edges.random() < 0.4:
        drawn |= {Edge.PLAIN}  # which those who wake too late could hurt most
    drawn -= WAITING
    # What changes unnamed in a stream does so between its copy and the fence: that takes its time.
    slowly = Edge.XSETID in drawn and edges.random() < 0.5
    settings = ClusterSettings(
        sharding=ShardingSettings(
            virtual_nodes=random.choice((2, 4, 8)),
            migration_rate=random.choice((20, 50) if zombies or slowly else (0, 0, 50, 500)),
            auto_rebalance=random.random() < 0.5,
            rebalance_interval=random.choice((1.0, 3.0)),
            rebalance_rest=random.choice((0.0, 2.0)),
            verify_moves=random.random() < 0.2,
        ),
        coordinator=CoordinatorSettings(
            lease_ttl=random.choice((1.0, 1.0, 2.0)),
            copy_batch=random.choice((1, 2) if zombies else (1, 3, 20)),
            fence_budget=random.choice((1, 5, 100)),
            fence_ack_timeout=random.choice((0.1, 0.3, 1.0)),
        ),
    )
    skew_s = SKEW_S if Edge.CLOCKS in drawn else 0.0
    # Where neither knows users, nobody who wakes too late between a source and a target can be ended.
    all_plain = Edge.PLAIN in drawn and zombies
    return Scenario(
        settings=settings,
        big_bytes=random.choice((1 << 20, 1 << 20, 6, 12)),
        nodes=max(random.randint(2, 3), 3 if all_plain else 2),
        spare_nodes=random.randint(0, 2),
        routers=random.randint(1, 2 if brief else 3),
        coordinators=2 if brief else random.randint(2, 3),
        clients=random.randint(1, 2) if brief else random.randint(2, 4),
        keys_per_client=random.randint(3, 8),
        counters=random.randint(0, 2),
        cold_keys_per_client=random.randint(1, 3),
        # What a power cut may take is young: it comes when there is something older.
        peace_s=3.0 if power else _PLAIN_PEACE_S if all_plain else 0.0,
        trouble_s=random.uniform(1.0, 2.5) if brief else random.uniform(3.0, 8.0),
        fault_every_s=random.choice((0.5, 1.0) if brief else (0.5, 1.5, 5.0)),
        fault_at_phase=random.choice((0.3, 0.5) if power or zombies else (0.0, 0.1, 0.3, 0.5)),
        verb_every_s=random.choice((0.3, 0.8)) if brief else random.choice((0.2, 0.5, 1.5)),
        think_s=random.choice((0.05, 0.1) if brief else (0.03, 0.08, 0.2)),
        late=0.03 if slow else random.choice((0.0, 0.002, 0.01, 0.03)),
        store_late=0.3 if slow else random.choice((0.0, 0.002, 0.01, 0.03)),
        ending=0.4 if slow else 0.1,
        session_ttl_s=random.choice((1.5, 3.0)),
        hold_timeout_s=random.choice((2.0, 5.0)),
        danger=danger,
        store=Random(f"{seed}/store").choice(list(StoreKind)),
        brief=brief,
        room_bytes=edges.choice(
            (20, 60) if danger is Danger.STALLS else (1 << 20, 1 << 20, 20, 60)
        ),  # a command has 30 or more
        registers=edges.choice((0, 1, 2)),
        pairs=edges.choice((0, 0, 1)),
        queues=edges.choice((0, 0, 1)),
        streams_per_client=edges.choice((0, 1, 1)) + 2 * (Edge.XSETID in drawn),
        edges=drawn,
        kinds=tuple(_kinds(edges, drawn, all_plain=all_plain)),
        skews_s=tuple(edges.uniform(-skew_s, skew_s) for _ in range(_SERVERS_MAX)),
    )
