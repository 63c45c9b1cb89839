"""The end of an import that fails or is cancelled: what its last batch has brought to owners leaves the joining server.

Else a key would lie on both sides, and whoever asks for the import again would bring back what clients have deleted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace

from helios.coordinator.access import Access, Identity
from helios.coordinator.import_doubts import Doubts
from helios.coordinator.import_note import ImportNote, mark_of
from helios.coordinator.publisher import Publisher
from helios.coordinator.sweep import REGISTER, make_durable
from helios.errors import EngineError, NotFound
from helios.model.topology import Member, Topology
from helios.placement.routing import Routes
from helios.ports.engine import Engine

_NAMED = 5


def named(keys: Collection[bytes]) -> str:
    """The names of the first few keys."""
    names = [repr(key.decode(errors="backslashreplace")) for key in sorted(keys)[:_NAMED]]
    return ", ".join([*names, *(["…"] if len(keys) > _NAMED else [])])


async def abandon(access: Access, publisher: Publisher, change: str, server: Member, *, known: bool) -> str:
    """Separate the two sides of an import that goes no further; a sentence about the keys for which that failed.

    Such keys stay at the joining server, for a person to decide, and are noted as in doubt. Owners that do not answer
    are unclean from now on. The batch stays noted until the request has ended: a successor does all this again. Where
    the joining server is is not `known` if it has never been started. Raises StoreError.
    """
    note, doubts = ImportNote(publisher, change), Doubts(publisher, server)
    keys, copied = await note.read() or (set(), True)
    async with AsyncExitStack() as opened:
        identity = opened.enter_context(access.identity())
        parting = _Parting(access, identity, opened, publisher.topology, mark_of(change))
        await parting.open_owners()
        before = await doubts.read()
        source = await parting.opened_or_none(server) if known and (keys or before) else None
        taken = keys if copied else await parting.taken(keys)
        parting.doubtful |= keys - taken - parting.never_came
        run = await _run_without(source, taken)
        if not run:
            parting.doubtful |= taken
        doubtful = await _there(source, parting.doubtful | before)
        await doubts.note(doubtful)
        await parting.delete_registers()
    if parting.unclean:
        await publisher.publish(lambda topology: replace(topology, unclean=topology.unclean | parting.unclean))
    where = str(server.address) if known else "the joining server"
    anew = f"{'' if run else 'if '}{where} was started anew" if note.lost(run) else ""
    return _said(where, doubtful, anew)


def _said(where: str, doubtful: set[bytes], anew: str) -> str:
    said = ""
    if doubtful:
        said += (
            f"; {len(doubtful)} keys may be in the cluster, too, or have been deleted there by clients, and were left "
            f"at {where} ({named(doubtful)}). No import takes them: set in the cluster what is to come, delete them at "
            f"{where}, and add the node again"
        )
    if anew:
        said += (
            f"; {anew}, and keys that had left it may be back there, also such as clients have deleted since. Delete "
            "there what is not to come back, and add the node again"
        )
    return said


@dataclass
class _Parting:
    access: Access
    identity: Identity
    opened: AsyncExitStack
    topology: Topology
    mark: bytes
    owners: dict[str, Engine] = field(default_factory=dict)
    unclean: set[str] = field(default_factory=set)
    doubtful: set[bytes] = field(default_factory=set)
    never_came: set[bytes] = field(default_factory=set)

    async def open_owners(self) -> None:
        """Those that answer; what an earlier mover had sent them can no longer run."""
        for owner, _ in self.topology.placement.weights:
            try:
                engine = await self.opened_or_none(self.access.leader(owner))
            except NotFound:
                engine = None
            if engine is None:
                self.unclean.add(owner)
            else:
                self.owners[owner] = engine

    async def opened_or_none(self, member: Member) -> Engine | None:
        """The member's engine, None where it does not answer."""
        try:
            engine = await self.access.open(member, self.identity)
        except EngineError:
            return None
        self.opened.push_async_callback(engine.close)
        return engine

    async def taken(self, keys: set[bytes]) -> set[bytes]:
        """Those of a batch that their owners have had, and which no power cut takes from them."""
        routes = Routes(self.topology)
        by_owner: dict[str, set[bytes]] = {}
        for key in keys:
            by_owner.setdefault(routes.owner(key), set()).add(key)
        found = await asyncio.gather(*(self._taken_by(owner, mine) for owner, mine in by_owner.items()))
        return set().union(*found)

    async def _taken_by(self, owner: str, keys: set[bytes]) -> set[bytes]:
        engine = self.owners.get(owner)
        if engine is None:
            return set()
        try:
            registered = await engine.registered(REGISTER)
            if self.mark in registered:
                taken = keys & registered
                never_came = keys - taken
            else:
                # The owner was emptied, or has lost what came last: it may have had more than it has.
                there = await engine.exists(sorted(keys))
                taken = {key for key, exists in zip(sorted(keys), there, strict=True) if exists}
                never_came = set()
            if taken:
                await make_durable(engine)
                await self.access.on_majority(owner, engine)
        except EngineError:
            self.unclean.add(owner)
            return set()
        self.never_came |= never_came
        return taken

    async def delete_registers(self) -> None:
        """No power cut brings one back: also one that was deleted a moment ago."""
        await asyncio.gather(*(self._delete_register(owner, engine) for owner, engine in self.owners.items()))

    async def _delete_register(self, owner: str, engine: Engine) -> None:
        try:
            await engine.delete([REGISTER])
            await make_durable(engine)
            await self.access.on_majority(owner, engine)
        except EngineError:
            self.unclean.add(owner)


async def _run_without(source: Engine | None, keys: set[bytes]) -> str:
    """Delete keys that are their owners' now, for good; in which run of the server. Empty where that is not known."""
    if source is None:
        return ""
    try:
        await source.delete(sorted(keys))
        await make_durable(source)
        return (await source.info()).run_id
    except EngineError:
        return ""


async def _there(source: Engine | None, keys: set[bytes]) -> set[bytes]:
    """Those of the keys that are still at the joining server, as far as it says."""
    if source is None or not keys:
        return keys
    try:
        there = await source.exists(sorted(keys))
    except EngineError:
        return keys
    return {key for key, exists in zip(sorted(keys), there, strict=True) if exists}
