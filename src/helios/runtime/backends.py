"""Which store and which engine a process uses."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from helios.engines.valkey.connector import Credentials, ValkeyConnector
from helios.errors import StartError
from helios.model.notation import EtcdUrl, split_etcd_url
from helios.model.passwords import derived
from helios.model.sections import StoreSettings
from helios.model.settings import Settings
from helios.model.topology import Member
from helios.node.files import DataFolder
from helios.node.ownership import check_owned
from helios.ports.following import once_answered
from helios.ports.location import StoreLocation
from helios.ports.records import ADOPTION, IMPORTING, MEMBERS, AdoptionRecord, MemberRecord, read_record
from helios.ports.store import Store
from helios.runtime.failpoints import committing
from helios.runtime.identity import read_key
from helios.runtime.security import known_servers, server_tls
from helios.runtime.settings import absolute
from helios.stores.sqlite_location import SqliteLocation


def locate(settings: Settings, data: DataFolder) -> StoreLocation:
    """Where the settings say that the store of the cluster is. Raises StartError where a file of theirs is amiss."""
    url = settings.store.url
    if url.startswith(("etcd://", "etcds://")):
        return _in_etcd(split_etcd_url(url), settings.store)
    return SqliteLocation(absolute(url) if url else data.store)


def _in_etcd(url: EtcdUrl, settings: StoreSettings) -> StoreLocation:
    # Only who uses it pays for the import of an HTTP client.
    from helios.stores.etcd_location import EtcdLocation, EtcdTls

    ca, cert, key = (
        absolute(name) if name else None
        for name in (settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file)
    )
    tls = EtcdTls(ca, cert, key) if url.tls or ca or cert else None
    password = url.password or settings.password or _first_line(settings.password_file)
    return EtcdLocation(tuple(map(str, url.places)), url.prefix, url.user or settings.user, password, tls)


def _first_line(name: str) -> str:
    if not name:
        return ""
    try:
        return absolute(name).read_text("utf-8").partition("\n")[0].rstrip("\r")
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"{name} (store.password_file) cannot be read: {error}") from error


@asynccontextmanager
async def opened_store(
    data: DataFolder,
    location: StoreLocation,
    *,
    expires: bool = True,
    unfinished: bool = False,
    tell: Callable[[str], None] | None = None,
) -> AsyncIterator[Store]:
    """The store, closed at the end. Without `expires` it writes only what it is told to.

    With `tell` it waits for a store that does not answer, and says so. Raises StoreError, or StartError where the data
    folder or the place of the store is not this user's, or an import or an adoption was not finished; with
    `unfinished` the latter is no obstacle.
    """
    data.check_owned()
    for path in location.paths:
        check_owned(path, 0)
    store = await once_answered(lambda: location.open(expires=expires, before_commit=committing(os.environ)), tell)
    try:
        if await once_answered(lambda: store.get(IMPORTING), tell) is not None:
            raise StartError(f"an import into {location} was not finished: run helios import-store again")
        adoption = await once_answered(lambda: read_record(store, AdoptionRecord, ADOPTION), tell)
        if adoption is not None and not unfinished:
            missing = ", ".join(adoption.value.missing)
            raise StartError(
                f"the cluster in {location} is being made again from what its nodes remember, and {missing} is still "
                "to be heard: run `helios init --adopt nodes` there"
            )
        yield store
    finally:
        await store.close()


def connector(store: Store, settings: Settings) -> ValkeyConnector:
    """Opens engines on members; what the administrators of supervised ones are let in by comes from the store.

    Raises StartError where the file of the cluster's key or one of TLS cannot be used.
    """
    credentials = _credentials(store, read_key(settings.security))
    return ValkeyConnector(credentials, tls=known_servers(server_tls(settings.atlas)))


def _credentials(store: Store, key: bytes) -> Credentials:
    async def administrator(member: Member) -> tuple[str, str] | None:
        record = await read_record(store, MemberRecord, MEMBERS + member.id)
        if record is None:
            return None
        salt = record.value.salt
        return record.value.user, derived(key, salt, record.value.id) if salt else record.value.password

    return administrator
