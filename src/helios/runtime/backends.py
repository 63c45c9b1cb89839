"""Which store and which engine a process uses."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helios.engines.valkey.connector import Credentials, ValkeyConnector
from helios.model.topology import Member
from helios.node.files import DataFolder
from helios.ports.records import MEMBERS, MemberRecord, read_record
from helios.ports.store import Store
from helios.runtime.failpoints import committing
from helios.stores.sqlite import SqliteStore


@asynccontextmanager
async def opened_store(data: DataFolder, *, expires: bool = True) -> AsyncIterator[Store]:
    """The store of a data folder, closed at the end. Without `expires` it writes only what it is told to.

    Raises StoreError, or StartError where the folder is not this user's.
    """
    data.check_owned()
    store = await SqliteStore.open(data.store, expires=expires, before_commit=committing(os.environ))
    try:
        yield store
    finally:
        await store.close()


def connector(store: Store) -> ValkeyConnector:
    """Opens engines on members; the administrators of supervised ones are in the store."""
    return ValkeyConnector(_credentials(store))


def _credentials(store: Store) -> Credentials:
    async def administrator(member: Member) -> tuple[str, str] | None:
        record = await read_record(store, MemberRecord, MEMBERS + member.id)
        return None if record is None else (record.value.user, record.value.password)

    return administrator
