"""The data servers of a node: which ones it runs, from its start to its end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing

from helios.errors import StartError, StoreError
from helios.model.ids import founder_id, is_replica, shard_of_replica
from helios.model.sections import AofFsync
from helios.model.topology import Topology
from helios.node.files import NodeFolder
from helios.node.keeper import MemberKeeper
from helios.node.member import STOP_S
from helios.node.member_state import members_of
from helios.node.standing import has_fellows, placed_on, to_be_missed, to_hand_over, wished_on
from helios.node.waiting import drop
from helios.ports.following import lasting_updates, once_answered
from helios.ports.records import MEMBERS, REPLICAS, TOPOLOGY, MemberRecord, Record, ReplicasRecord, list_records
from helios.ports.store import Compare, Delete, Store
from helios.ports.topologies import TopologyReader, read_topology

logger = logging.getLogger(__name__)

_AGAIN_S = 1.0
_HANDED_OVER_LOOK_S = 0.05


class Members:
    """The data servers of one node, by member id.

    The node always has the one that it founds its shard with, beside it those that the coordinator wishes to have there
    or the topology lists. What neither does any more goes with its data, if the store takes that as a fact.
    """

    def __init__(self, folder: NodeFolder, store: Store, make: Callable[[str], MemberKeeper]) -> None:
        self._folder = folder
        self._node_id = folder.root.name
        self._store = store
        self._topologies = TopologyReader(store)
        self._make = make
        self._founder = make(founder_id(self._node_id))
        self._others: dict[str, MemberKeeper] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._tuned: tuple[AofFsync, int] | None = None

    def __str__(self) -> str:
        return str(self._founder.server)

    @property
    def plain(self) -> str:
        """The founder, for people, if it does not speak TLS; else empty."""
        return "" if self._founder.server.address.tls else str(self)

    @property
    def ready(self) -> bool:
        """Whether the founder serves, and each of the others that has come up."""
        return self._founder.ready and all(keeper.ready for keeper in self._others.values() if keeper.came_up)

    @property
    def trouble(self) -> str:
        """Why one of them cannot be started; empty where each can."""
        return next((keeper.trouble for keeper in (self._founder, *self._others.values()) if keeper.trouble), "")

    async def start(self) -> None:
        """Start or adopt the founder. Raises StartError or StoreError; call `stop` then."""
        await self._founder.start(await once_answered(lambda: read_topology(self._store), logger.warning))

    async def keep(self) -> None:
        """Keep the founder serving, and the others that are wanted. Never ends by itself."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._founder.keep())
            tasks.create_task(self._follow_wishes(tasks))

    async def _follow_wishes(self, tasks: asyncio.TaskGroup) -> None:
        await asyncio.to_thread(self._folder.clear_discarded)
        async with aclosing(lasting_updates(self._store, REPLICAS)) as following:
            async for _ in following:
                await self._settle(tasks)
        await asyncio.Event().wait()  # the store was closed: the agent is about to end

    async def _settle(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            if await self._try_settle(tasks):
                return
            await asyncio.sleep(_AGAIN_S)

    async def _try_settle(self, tasks: asyncio.TaskGroup) -> bool:
        """Run what is wanted, and remove what nobody wants any more; whether nothing is left to do."""
        try:
            wishes = await list_records(self._store, ReplicasRecord, REPLICAS)
            record = await self._topologies.read()
        except StoreError as error:
            logger.warning("members not looked at: node=%s error=%s", self._node_id, error)
            return False
        topology = Topology(epoch=0) if record is None else record.value
        wished = wished_on(self._node_id, (wish.value for wish in wishes))
        if any(wish.value.shard == self._node_id for wish in wishes):
            self._founder.solo = False
        wanted = (wished | placed_on(self._node_id, topology)) - {founder_id(self._node_id)}
        present = {*self._tasks, *filter(is_replica, self._folder.others())}
        done = [await self._run(member_id, tasks) for member_id in sorted(wanted - self._tasks.keys())]
        if record is not None:
            done += [await self._remove(member_id, record, wishes) for member_id in sorted(present - wanted)]
        # What is listed and not wished goes as soon as the topology does not list it any more.
        return all(done) and present & wanted <= wished

    async def _run(self, member_id: str, tasks: asyncio.TaskGroup) -> bool:
        try:
            keeper = self._others[member_id] = self._others.get(member_id) or self._make(member_id)
        except StartError as error:
            logger.warning("member not run: member=%s error=%s", member_id, error)
            return False
        if self._tuned is not None:
            await keeper.server.retune(*self._tuned)
        logger.info("member wanted: member=%s", member_id)
        self._tasks[member_id] = tasks.create_task(keeper.carry())
        return True

    async def _remove(
        self, member_id: str, topology: Record[Topology], wishes: Sequence[Record[ReplicasRecord]]
    ) -> bool:
        """Delete a member that neither the wishes nor the topology have, while the store says that they still stand."""
        try:
            keeper = self._others.get(member_id) or self._make(member_id)
            state = keeper.server.state
            if state is not None and state.epoch > topology.value.epoch:
                logger.warning("member kept, the topology is older: member=%s epoch=%d", member_id, state.epoch)
                return True
            self._others.pop(member_id, None)
            if (task := self._tasks.pop(member_id, None)) is not None:
                await drop([task])
            wish = REPLICAS + shard_of_replica(member_id)
            stands = next((record.version for record in wishes if record.key == wish), 0)
            compares = [Compare(TOPOLOGY, topology.version), Compare(wish, stands)]
            await self._store.commit([Delete(MEMBERS + member_id)], compares=compares)
            await keeper.server.remove()
        except (StoreError, StartError) as error:
            logger.warning("member not removed: member=%s error=%s", member_id, error)
            return False
        logger.info("member removed: member=%s epoch=%d", member_id, topology.value.epoch)
        return True

    async def hand_over(self) -> None:
        """Have others lead what these lead, and write without these.

        Returns when they do, or nobody is left who could. Raises StoreError.
        """
        if not any(has_fellows(self._node_id, shard) for shard in (await self._topology()).shards):
            return
        for keeper in [self._founder, *self._others.values()]:
            await keeper.announce_leaving()
        while True:
            records = [record.value for record in await list_records(self._store, MemberRecord, MEMBERS)]
            topology = await self._topology()
            if not any(waits(self._node_id, topology, records) for waits in (to_hand_over, to_be_missed)):
                return
            await asyncio.sleep(_HANDED_OVER_LOOK_S)

    async def _topology(self) -> Topology:
        record = await self._topologies.read()
        return Topology(epoch=0) if record is None else record.value

    async def retune(self, fsync: AofFsync, maxmemory_bytes: int) -> None:
        """Let them write their logs and use memory in this way from now on."""
        self._tuned = (fsync, maxmemory_bytes)
        keepers = [self._founder, *self._others.values()]
        await asyncio.gather(*(keeper.server.retune(fsync, maxmemory_bytes) for keeper in keepers))

    async def stop(self) -> None:
        """End them all, those of an earlier agent included; returns when they are gone."""
        await asyncio.gather(*(keeper.server.stop() for keeper in [self._founder, *self._others.values()]))
        await asyncio.gather(*(process.stop(STOP_S) for process in members_of(self._folder)))
