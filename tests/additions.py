"""Clients that add elements to lists and sets, and read the whole of them; and what must be true of all that they saw.

Every element is added once and nothing is ever taken away, so that what each reply says can be compared with all
others (as Elle does): a list that is read is the beginning of every later one.
"""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import redis.asyncio
from redis.exceptions import ConnectionError as LostConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoAnswer
from tests.noting_clients import NotingClients, code_of

from helios.model.ids import Address


@dataclass(frozen=True, slots=True)
class Added:
    """An element that somebody added; `ended` is infinite where nobody knows whether it came to that."""

    element: bytes
    begun: float
    ended: float
    length: int = 0  # of the list with it, as the reply said


@dataclass(frozen=True, slots=True)
class Seen:
    """All elements that somebody read, a list's in their order."""

    elements: tuple[bytes, ...]
    begun: float
    ended: float


@dataclass
class Story:
    """All that happened to one list or set. `refused` was said not to have been executed."""

    ordered: bool
    added: list[Added] = field(default_factory=list)
    seen: list[Seen] = field(default_factory=list)
    refused: set[bytes] = field(default_factory=set)


def lost(story: Story, final: Sequence[bytes]) -> list[bytes]:
    """The elements that were acknowledged and are not there in the end."""
    there = set(final)
    return [one.element for one in story.added if not math.isinf(one.ended) and one.element not in there]


def faults(story: Story, final: Sequence[bytes]) -> list[str]:
    """What could not have come from one copy that does one thing at a time; `final` is what is there in the end."""
    return [
        *(f"lost: {element!r}" for element in lost(story, final)),
        *_phantoms(story, final),
        *_vanished(story, final),
        *_stale(story),
        *(_out_of_order(story, final) if story.ordered else ()),
    ]


def _phantoms(story: Story, final: Sequence[bytes]) -> Iterable[str]:
    """What is there, or was read, and never was added, or was added twice."""
    known = {one.element for one in story.added}
    for elements in (final, *(seen.elements for seen in story.seen)):
        for element, times in Counter(elements).items():
            if element in story.refused:
                yield f"phantom: {element!r} was said not to have been added"
            elif element not in known:
                yield f"phantom: {element!r} was never added"
            elif times > 1:
                yield f"phantom: {element!r} is there {times} times"


def _vanished(story: Story, final: Sequence[bytes]) -> Iterable[str]:
    """What was read, and is not there in the end."""
    there = set(final)
    gone = {element for seen in story.seen for element in seen.elements if element not in there}
    return (f"vanished: {element!r} was read" for element in sorted(gone))


def _stale(story: Story) -> Iterable[str]:
    """What a read did not show, although it had been acknowledged, or read, before that began."""
    told: list[tuple[float, frozenset[bytes]]] = [(one.ended, frozenset([one.element])) for one in story.added]
    told += [(seen.ended, frozenset(seen.elements)) for seen in story.seen]
    told.sort(key=lambda one: one[0])
    before: set[bytes] = set()
    number = 0
    for seen in sorted(story.seen, key=lambda one: one.begun):
        while number < len(told) and told[number][0] < seen.begun:
            before |= told[number][1]
            number += 1
        for element in sorted(before.difference(seen.elements)):
            yield f"stale: {element!r} was known at {seen.begun:.6f}, and not read then"


def _out_of_order(story: Story, final: Sequence[bytes]) -> Iterable[str]:
    """Lists that are not the beginning of what is there in the end, and lengths that do not fit."""
    whole = tuple(final)
    for seen in story.seen:
        if whole[: len(seen.elements)] != seen.elements:
            yield f"another order: {seen.elements!r} was read at {seen.begun:.6f}"
    for one in story.added:
        if one.length and whole[one.length - 1 : one.length] != (one.element,):
            yield f"another order: {one.element!r} was said to be number {one.length}"


class Adders(NotingClients):
    """Clients that add to and read lists and sets that nobody else writes and that do not exist at the start."""

    def __init__(
        self,
        ports: Sequence[int | Address],
        keys: Sequence[str],
        *,
        seed: int,
        pause_s: float = 0.01,
        login: tuple[str, str] | None = None,
        patience_s: float = 15,
    ) -> None:
        """The first half of the keys are lists."""
        super().__init__(ports, seed=seed, pause_s=pause_s, login=login, patience_s=patience_s)
        self.stories = {key: Story(number < len(keys) / 2) for number, key in enumerate(keys)}

    @property
    def operations(self) -> int:
        """How many have been answered."""
        return sum(
            len(story.seen) + sum(not math.isinf(one.ended) for one in story.added) for story in self.stories.values()
        )

    async def _act(self, client: redis.asyncio.Redis, chooser: random.Random, number: int, count: int) -> bool:
        key = chooser.choice(list(self.stories))
        story = self.stories[key]
        try:
            if chooser.random() < 0.4:
                await self._read(client, key, story)
            else:
                await self._add(client, key, story, b"%d.%d" % (number, count))
        except (LostConnection, NoAnswer):
            return False
        return True

    async def _read(self, client: redis.asyncio.Redis, key: str, story: Story) -> None:
        begun = time.monotonic()
        try:
            elements = await elements_of(client, key, story)
        except ResponseError as error:
            self.refused[code_of(error)] += 1
        else:
            story.seen.append(Seen(tuple(elements), begun, time.monotonic()))

    async def _add(self, client: redis.asyncio.Redis, key: str, story: Story, element: bytes) -> None:
        begun = time.monotonic()
        try:
            length = await client.execute_command("RPUSH" if story.ordered else "SADD", key, element)
        except ResponseError as error:
            self.refused[code_of(error)] += 1
            if code_of(error) == "UNKNOWN":
                story.added.append(Added(element, begun, math.inf))
            else:
                story.refused.add(element)  # It says that nothing was executed.
        except (LostConnection, NoAnswer):
            story.added.append(Added(element, begun, math.inf))
            raise
        else:
            story.added.append(Added(element, begun, time.monotonic(), length if story.ordered else 0))


async def elements_of(client: redis.asyncio.Redis, key: str, story: Story) -> list[bytes]:
    """All that is in a list, in its order, or in a set."""
    words = ("LRANGE", key, "0", "-1") if story.ordered else ("SMEMBERS", key)
    return list(await client.execute_command(*words))
