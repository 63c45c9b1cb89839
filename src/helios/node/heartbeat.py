"""The heartbeat of an agent: its record in the store, and the news that people read there."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable

from helios.errors import StoreError
from helios.model.ids import Address
from helios.model.topology import NodeKind
from helios.ports.clock import Clock
from helios.ports.pulse import rest
from helios.ports.records import AGENTS, AgentRecord, put_record
from helios.ports.store import Store

logger = logging.getLogger(__name__)

HEARTBEAT_S = 2.0
_NEWS = 8  # sentences that a record holds: nobody who follows it misses more of them at once


class Heartbeat:
    """Tells the cluster that a node's agent lives, whether the node serves, and what has happened to it."""

    def __init__(
        self,
        node_id: str,
        address: Address,
        version: str,
        store: Store,
        clock: Clock,
        *,
        ready: Callable[[], bool],
        trouble: Callable[[], str] = str,
    ) -> None:
        self._node_id = node_id
        self._address = address
        self._version = version
        self._store = store
        self._clock = clock
        self._ready = ready
        self._trouble = trouble
        self._news: deque[str] = deque(maxlen=_NEWS)
        self._news_count = 0

    async def beat(self) -> None:
        """Write the record once. Raises StoreError."""
        record = AgentRecord(
            node=self._node_id,
            address=self._address,
            kind=NodeKind.SUPERVISED,
            seen_at=self._clock.wall(),
            ready=self._ready(),
            pid=os.getpid(),
            version=self._version,
            news=tuple(self._news),
            news_count=self._news_count,
            trouble=self._trouble(),
        )
        # A hundred nodes on one machine would keep its disk busy by this alone.
        await self._store.commit([put_record(AGENTS + self._node_id, record, durable=False)])

    async def run(self) -> None:
        """Write the record again and again. Never ends by itself."""
        while True:
            await self._try_beat()
            await rest(HEARTBEAT_S)

    async def tell(self, sentence: str) -> None:
        """Let people know, in the next heartbeat, which comes at once."""
        self._news.append(sentence)
        self._news_count += 1
        await self._try_beat()

    async def _try_beat(self) -> None:
        try:
            await self.beat()
        except StoreError as error:
            logger.warning("heartbeat failed: node=%s error=%s", self._node_id, error)
