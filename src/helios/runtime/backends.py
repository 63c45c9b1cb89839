"""Which store and which engine a process uses."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from helios.engines.valkey.connector import Credentials, ValkeyConnector
from helios.model.notation import split_etcd_url
from helios.model.settings import Settings
from helios.model.topology import Member
from helios.node.files import DataFolder
from helios.node.ownership import check_owned
from helios.ports.location import StoreLocation
from helios.ports.records import MEMBERS, MemberRecord, read_record
from helios.ports.store import Store
from helios.runtime.failpoints import committing
from helios.runtime.settings import absolute
from helios.stores.sqlite_location import SqliteLocation


def locate(settings: Settings, data: DataFolder) -> StoreLocation:
    """Where the settings say that the store of the cluster is."""
    url = settings.store.url
    if url.startswith("etcd://"):
        # Only who uses it pays for the import of an HTTP client.
        from helios.stores.etcd_location import EtcdLocation

        return EtcdLocation(*split_etcd_url(url))
    return SqliteLocation(absolute(url) if url else data.store)


@asynccontextmanager
async def opened_store(data: DataFolder, location: StoreLocation, *, expires: bool = True) -> AsyncIterator[Store]:
    """The store, closed at the end. Without `expires` it writes only what it is told to.

    Raises StoreError, or StartError where the data folder or the place of the store is not this user's.
    """
    data.check_owned()
    for path in location.paths:
        check_owned(path, 0)
    store = await location.open(expires=expires, before_commit=committing(os.environ))
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
