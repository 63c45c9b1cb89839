"""The right to run a node, among all hosts of a cluster. On one host the lock of the node's folder gives it, too."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress

from helios.errors import Conflict, LeaseLost, StartError, StoreError
from helios.model.ids import Address
from helios.node.files import NodeFolder, read_json, write_json
from helios.node.process import ProcessId
from helios.ports.pulse import rest
from helios.ports.records import RUNNING, RunningRecord, put_record, read_record
from helios.ports.store import Compare, Store

logger = logging.getLogger(__name__)

LEASE_S = 10.0
_SPARE_S = 3.0  # a store may let a lease live a little longer
_LOOK_S = 0.2
_GOODBYE_S = 2.0


def this_process(node_id: str, address: Address, folder: NodeFolder) -> RunningRecord:
    """This process as the one that runs a node. The caller holds the lock of the node's folder."""
    known = read_json(folder.instance)
    if known is None:
        known = {"instance": secrets.token_hex(8)}
        write_json(folder.instance, known)
    me = ProcessId.this()
    root = str(folder.root.resolve())
    return RunningRecord(node_id, address, socket.gethostname(), me.boot, os.getpid(), root, str(known["instance"]))


def runs_here(record: RunningRecord, folder: NodeFolder) -> bool:
    """Whether it is a process of this machine and on this very folder that runs, or ran, a node."""
    known = read_json(folder.instance) or {}
    here = (ProcessId.this().boot, str(folder.root.resolve()), str(known.get("instance", "")))
    return _place(record) == here


class NodeClaim:
    """A record in the store that goes when its lease does, and the lease goes when nobody renews it."""

    def __init__(self, store: Store, me: RunningRecord, lease_s: float = LEASE_S) -> None:
        self._store = store
        self._me = me
        self._key = RUNNING + me.node
        self._lease_s = lease_s
        self._lease = ""
        self._renewing: asyncio.Task[None] | None = None

    async def take(self, tell: Callable[[str], None]) -> None:
        """Claim the node, and renew its lease from now on.

        Waits for the lease of a host that may have died. Raises StartError if a process lives there.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._lease_s + _SPARE_S
        told = False
        while (other := await self._try()) is not None:
            if loop.time() > deadline:
                raise StartError(f"the node {described(other)} already: end it there, or choose another --id")
            if not told:
                tell(f"the node {described(other)}, or did a moment ago: waiting for the end of its lease")
                told = True
            await asyncio.sleep(_LOOK_S)
        # A start may take longer than the lease: a data server that loads its log takes its time.
        self._renewing = asyncio.create_task(self._renew(), name="claim")

    async def _try(self) -> RunningRecord | None:
        """Claim the node unless another process has it: that process."""
        while True:
            record = await read_record(self._store, RunningRecord, self._key)
            if record is not None and not self._succeeds(record.value):
                return record.value
            lease = await self._store.grant(self._lease_s)
            put = put_record(self._key, self._me, lease)
            try:
                await self._store.commit([put], compares=[Compare(self._key, record.version if record else 0)])
            except (Conflict, LeaseLost):  # somebody was quicker, or this process very slow
                await self._store.revoke(lease)
                continue
            self._lease = lease
            return None

    def _succeeds(self, other: RunningRecord) -> bool:
        """Whether that process was an earlier one on this very folder: who holds its lock now knows that it is gone."""
        return _place(other) == _place(self._me)

    async def lost(self) -> None:
        """Raise StartError once the node has been started elsewhere, while this process was cut off."""
        assert self._renewing is not None, "the node was claimed"
        await asyncio.shield(self._renewing)

    async def _renew(self) -> None:
        while True:
            await rest(self._lease_s / 3)
            try:
                await self._store.keep_alive(self._lease)
            except LeaseLost:
                await self._reclaim()
            except StoreError as error:
                logger.warning("claim not renewed: node=%s error=%s", self._me.node, error)

    async def _reclaim(self) -> None:
        try:
            other = await self._try()
        except StoreError as error:
            logger.warning("claim not renewed: node=%s error=%s", self._me.node, error)
            return
        if other is not None:
            raise StartError(
                f"while this host was cut off, the node was started elsewhere: the node {described(other)} now"
            )
        logger.info("claimed again: node=%s", self._me.node)

    async def release(self) -> None:
        """Let another process run the node at once."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        with suppress(StoreError, TimeoutError):
            await asyncio.wait_for(self._store.revoke(self._lease), _GOODBYE_S)


def described(record: RunningRecord) -> str:
    """The node, and where which process runs it, for people."""
    return f"{record.node} runs on {record.host} at {record.address} (process {record.pid}, {record.folder})"


def _place(record: RunningRecord) -> tuple[str, str, str]:
    return (record.boot, record.folder, record.instance)
