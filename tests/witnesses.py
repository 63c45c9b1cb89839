"""Clients of registers, counters, lists and sets that see all they can, and the reckoning of what they saw."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

from redis.exceptions import RedisError
from tests.additions import Adders, Story, elements_of, faults, lost
from tests.histories import Recorder
from tests.noting_clients import connected
from tests.waiting import until

from helios.model.ids import Address

_LONG_S = 120.0


class Witnesses:
    """They use every router. The keys are fresh, by a `label` of their own: a history that is short can be checked."""

    def __init__(
        self,
        ports: Sequence[int | Address],
        label: str,
        *,
        seed: int,
        keys: int = 8,
        login: tuple[str, str] | None = None,
        patience_s: float = 15,
    ) -> None:
        """`keys` are those of registers and counters, and as many of lists and sets."""
        registers, lists = ([f"{kind}:{label}:{n}" for n in range(keys)] for kind in ("reg", "add"))
        self._recorder = Recorder(ports, registers, seed=seed, pause_s=0.01, login=login, patience_s=patience_s)
        self._adders = Adders(ports, lists, seed=seed, login=login, patience_s=patience_s)
        self._login = login
        self._turn = itertools.cycle(ports)

    @property
    def operations(self) -> int:
        """How many have been answered."""
        return self._recorder.operations + self._adders.operations

    @property
    def refused(self) -> Counter[str]:
        """By code, how often an error came instead."""
        return self._recorder.refused + self._adders.refused

    def start(self, clients: int) -> None:
        """Begin with so many clients of either kind."""
        self._recorder.start(clients)
        self._adders.start(clients)

    async def stop(self) -> None:
        """End the clients, each after its last answer."""
        await asyncio.gather(self._recorder.stop(), self._adders.stop())

    async def check(self) -> None:
        """Fail if anything is lost, or appears from nowhere, or if answers fit no order."""
        async for key, story, final in self._ends():
            found = faults(story, final)
            assert not found, f"{key}: {found[:10]}"
        await asyncio.to_thread(self._recorder.check)

    async def lost(self) -> dict[str, int]:
        """Of which lists and sets how many acknowledged elements are not there."""
        return {key: len(gone) async for key, story, final in self._ends() if (gone := lost(story, final))}

    async def _ends(self) -> AsyncIterator[tuple[str, Story, list[bytes]]]:
        """Each list and set, and what it holds now."""
        for key, story in self._adders.stories.items():
            yield key, story, await self._finally(key, story)

    async def _finally(self, key: str, story: Story) -> list[bytes]:
        """What a list or set holds in the end: asked again as long as nobody says."""
        replies: list[list[bytes]] = []

        async def answered() -> bool:
            with suppress(RedisError):
                async with connected(next(self._turn), self._login, 15) as client:
                    replies.append(await elements_of(client, key, story))
            return bool(replies)

        await until(answered, f"{key} is read", limit_s=_LONG_S)
        return replies[0]
