"""A scan gives every key that is there all the time, whatever moves meanwhile; and it comes to an end."""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.model.topology import Shard, Topology, with_numbers
from helios.placement import scanning
from helios.placement.scanning import Ahead, CursorTooLong, Place

TABLE = 64  # buckets of a server's table


@dataclass
class Server:
    """A process with a table of its own order."""

    run: int
    seed: int

    def scan(self, cursor: int, count: int, keys: set[int]) -> tuple[int, set[int]]:
        """Some buckets from the cursor on, which is 0 at the end."""
        end = cursor + count
        found = {key for key in keys if cursor <= Random(f"{self.seed} {key}").randrange(TABLE) < end}
        return (0 if end >= TABLE else end), found


class World:
    """Shards whose keys move at random while somebody scans."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.runs = 0
        names = [f"s{number}" for number in range(random.randint(1, 5))]
        generation = random.choice((0, 7, 2046, 2047, 5000))
        self.topology = Topology(1, shards=with_numbers([Shard(name, "", ()) for name in names]), generation=generation)
        self.before = self.topology
        self.servers = {name: self.server() for name in names}
        self.home = {key: random.choice(names) for key in range(random.randint(1, 40))}
        self.home_before = dict(self.home)
        self.source = ""  # of the last switch
        self.persistent = set(self.home)

    def server(self) -> Server:
        self.runs += 1
        return Server(self.runs, self.random.getrandbits(32))

    def switch(self) -> None:
        """Some keys of one shard belong to another from now on."""
        if len(self.topology.shards) < 2:
            return
        source, target = self.random.sample([shard.id for shard in self.topology.shards], 2)
        self.before, self.home_before, self.source = self.topology, dict(self.home), source
        generation = self.topology.generation + 1
        shards = tuple(
            replace(shard, received=generation) if shard.id == target else shard for shard in self.topology.shards
        )
        self.topology = replace(self.topology, generation=generation, shards=shards)
        for key, home in self.home.items():
            if home == source and self.random.random() < 0.7:
                self.home[key] = target

    def write(self) -> None:
        """A key goes or comes: the scan may give it or not."""
        key = self.random.choice([*self.home, 1000 + self.random.randrange(50)])
        if key in self.home:
            del self.home[key]
            self.persistent.discard(key)
        else:
            self.home[key] = self.random.choice(self.topology.shards).id

    def restart(self) -> None:
        self.servers[self.random.choice(list(self.servers))] = self.server()

    def join_or_leave(self) -> None:
        """A shard without keys joins, or one leaves."""
        names = {shard.id for shard in self.topology.shards}
        empty = [shard for shard in self.topology.shards if shard.id not in self.home.values()]
        if empty and len(names) > 1 and self.random.random() < 0.5:
            shards = tuple(shard for shard in self.topology.shards if shard is not empty[0])
        else:
            name = next(name for name in (f"s{n}" for n in range(99)) if name not in names)
            shards = with_numbers((*self.topology.shards, Shard(name, "", ())))
            self.servers[name] = self.server()
        self.topology = replace(self.topology, shards=tuple(sorted(shards, key=lambda shard: shard.id)))
        self.before, self.home_before = self.topology, dict(self.home)

    def happen(self) -> None:
        for event, chance in ((self.switch, 0.3), (self.write, 0.3), (self.restart, 0.03), (self.join_or_leave, 0.1)):
            if self.random.random() < chance:
                event()

    def place(self, cursor: int, topology: Topology) -> tuple[Place, Shard] | Literal["ahead"] | None:
        try:
            return scanning.shard_at(scanning.decode(cursor, topology), topology)
        except Ahead:
            return "ahead"

    def stands_at_source(self, found: tuple[Place, Shard] | Literal["ahead"] | None) -> bool:
        return found is not None and found != "ahead" and found[1].id == self.source

    def ask(self, cursor: int) -> tuple[int, set[int]]:
        """One SCAN, of a router that may not have heard of the last switch."""
        topology, home = self.topology, self.home
        if self.random.random() < 0.3:
            topology, home = self.before, {**self.home_before}
        found = self.place(cursor, topology)
        # It has no fence, so it was forced off the source; or it has one, and holds the command.
        if found == "ahead" or (topology is self.before is not self.topology and self.stands_at_source(found)):
            topology, home = self.topology, self.home
            found = self.place(cursor, topology)
            assert found != "ahead"
        found = found or self.place(cursor, self.topology)
        assert found != "ahead"
        if found is None:
            return 0, set()
        place, shard = found
        if place.last:
            visited = {each.id for each in self.topology.shards if place.visits(each)}
            return 0, {key for key, home in self.home.items() if home in visited}
        server = self.servers[shard.id]
        here = {key for key, home in home.items() if home == shard.id and self.home.get(key) is not None}
        inner, keys = server.scan(place.inner, self.random.choice((5, 30, 70)), here)
        if not inner and not place.cut_off(server.run):
            # Who would end the scan makes sure first that it was not forced off.
            following = scanning.after(place, topology) or scanning.after(place, self.topology)
            return scanning.encode(following), keys
        return scanning.encode(place.within(inner, server.run)), keys


@given(st.integers(0, 2**32))
def test_a_scan_misses_nothing_and_ends_while_keys_move(seed: int) -> None:
    random = Random(seed)
    world = World(random)
    seen: set[int] = set()
    cursor = 0
    steps = 0
    while True:
        world.happen()
        cursor, keys = world.ask(cursor)
        seen |= keys
        steps += 1
        if not cursor:
            break
        assert steps < 2000
    assert world.persistent <= seen


def test_a_scan_ends_although_keys_go_on_moving() -> None:
    random = Random(1)
    world = World(random)
    while len(world.topology.shards) < 3:
        world.join_or_leave()
    cursor, steps = 0, 0
    while True:
        world.switch()
        cursor, _ = world.ask(cursor)
        steps += 1
        if not cursor:
            break
    assert scanning.ROUNDS < steps < (scanning.ROUNDS + 1) * TABLE * 9


def test_a_scan_of_keys_at_rest_visits_every_shard_once() -> None:
    topology = Topology(1, shards=with_numbers([Shard(name, "", (), received=9) for name in "abc"]), generation=9)
    place: Place | None = scanning.start(topology)
    visited = []
    while place is not None:
        found = scanning.shard_at(place, topology)
        assert found is not None
        visited.append(found[1].id)
        place = scanning.after(found[0], topology)
    assert visited == ["a", "b", "c"]


def test_only_shards_that_received_keys_are_visited_again() -> None:
    shards = with_numbers([Shard(name, "", ()) for name in "abc"])
    before = Topology(1, shards=shards, generation=4)
    after = replace(before, generation=5, shards=(replace(shards[0], received=5), *shards[1:]))
    second = scanning.Place(2, 4)
    third = scanning.after(second, after)
    assert third is not None
    assert (third.number, third.round) == (3, 0)
    again = scanning.after(third, after)
    assert again is not None
    assert (again.number, again.round, again.since, again.generation) == (1, 1, 4, 5)
    assert scanning.after(again, after) is None


@given(
    st.integers(1, scanning.SHARDS_MAX),
    st.integers(0, 5000),
    st.integers(0, scanning.ROUNDS),
    st.one_of(st.none(), st.integers(1, 31)),
    st.integers(0, 2**30 - 1),
    st.integers(0, 63),
    st.integers(0, 1900),
)
def test_a_cursor_stands_for_its_place(
    number: int, generation: int, round_: int, span: int | None, inner: int, run: int, since: int
) -> None:
    place = Place(number, generation, round_, None if span is None else generation - span, inner, run)
    cursor = scanning.encode(place)
    assert 0 < cursor < 1 << 64
    assert scanning.decode(cursor, Topology(1, generation=generation + since)) == place


def test_a_cursor_of_a_later_generation_is_not_answered() -> None:
    cursor = scanning.encode(Place(1, 8))
    with pytest.raises(Ahead):
        scanning.decode(cursor, Topology(1, generation=7))


@given(st.integers(1, (1 << 64) - 1), st.integers(0, 3000))
def test_any_number_is_some_place(cursor: int, generation: int) -> None:
    topology = Topology(1, shards=with_numbers([Shard(name, "", ()) for name in "ab"]), generation=generation)
    try:
        found = scanning.shard_at(scanning.decode(cursor, topology), topology)
    except Ahead:
        return
    assert found is None or found[1] in with_numbers(topology.shards)


def test_a_server_cursor_that_is_too_long_is_no_cursor() -> None:
    with pytest.raises(CursorTooLong):
        scanning.encode(Place(1, 0, inner=1 << 30))
    with pytest.raises(CursorTooLong):
        scanning.encode_element(1 << 46, Shard("a", "", (), number=1), 0)


@given(st.integers(1, (1 << 46) - 1), st.integers(0, 2**16), st.integers(1, 1023), st.integers(1, 1023))
def test_cursors_of_elements_belong_to_one_server(inner: int, run: int, number: int, other: int) -> None:
    shard = Shard("a", "", (), number=number)
    cursor = scanning.encode_element(inner, shard, run)
    assert 0 < cursor < 1 << 64
    decoded, low = scanning.decode_element(cursor, shard)
    assert decoded == inner
    assert scanning.same_run(run, low)
    assert not scanning.same_run(run + 1, low)
    again, _ = scanning.decode_element(cursor, replace(shard, number=other))
    assert again == (inner if other == number else 0)
    assert scanning.encode_element(0, shard, run) == 0
    restart = scanning.restart_element(shard, run)
    assert restart
    assert scanning.decode_element(restart, shard)[0] == 0
