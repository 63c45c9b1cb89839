"""Which cluster this is, by the store and by the data folder, and the key that the cluster's hosts share."""

from __future__ import annotations

import secrets
import stat
from collections.abc import Callable
from pathlib import Path

from helios import __version__
from helios.errors import Conflict, StartError
from helios.model.ids import Address
from helios.model.passwords import key_check
from helios.model.sections import SecuritySettings
from helios.node.files import DataFolder, read_json, write_json, write_private
from helios.ports.clock import Clock
from helios.ports.location import StoreLocation
from helios.ports.records import CLUSTER, FORMAT, SETTINGS, ClusterRecord, put_record, read_record
from helios.ports.store import Compare, Store
from helios.runtime.settings import absolute

INIT = "helios init"
"""The command that founds a cluster whose nodes are on many hosts."""

_KEY_BYTES = 32
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def read_key(security: SecuritySettings) -> bytes:
    """The cluster's key; empty where no file is set. Raises StartError where it cannot be used."""
    if not security.cluster_key_file:
        return b""
    path = absolute(security.cluster_key_file)
    try:
        if path.stat().st_mode & _OTHERS:
            raise StartError(f"{path} (security.cluster_key_file) is open to other users: run chmod 600 {path}")
        key = bytes.fromhex(path.read_text("ascii").strip())
    except OSError as error:
        raise StartError(
            f"{path} (security.cluster_key_file) cannot be read ({error.strerror}): copy it from a host of the "
            "cluster, where `helios init` has made it"
        ) from error
    except ValueError:
        key = b""
    if len(key) != _KEY_BYTES:
        raise StartError(f"{path} (security.cluster_key_file) holds no key: copy it from a host of the cluster")
    return key


def make_key(security: SecuritySettings) -> Path | None:
    """Make the key's file if one is set and not there yet; its path if it was made."""
    if not security.cluster_key_file:
        return None
    path = absolute(security.cluster_key_file)
    if path.exists():
        return None
    try:
        write_private(path, secrets.token_hex(_KEY_BYTES) + "\n")
    except OSError as error:
        raise StartError(f"{path} (security.cluster_key_file) cannot be written: {error.strerror}") from error
    return path


async def settle_identity(
    store: Store, data: DataFolder, location: StoreLocation, clock: Clock, key: bytes, *, founder: str = ""
) -> ClusterRecord:
    """The cluster of the store, once it is sure that the folder and the key are of the same.

    Where the store knows of none, `founder` founds it: the command that this process runs. Raises StartError.
    """
    known = _cluster_of(data)
    record = await read_record(store, ClusterRecord, CLUSTER)
    # Clusters had no id once; such a one gets it from the first process that asks.
    if record is None and not founder and await store.get(SETTINGS) is None:
        raise no_cluster(location)
    if record is None:
        found = new_cluster(clock, founder, key, known)
        try:
            await store.commit([put_record(CLUSTER, found)], compares=[Compare(CLUSTER, 0)])
        except Conflict:
            return await settle_identity(store, data, location, clock, key, founder=founder)
    else:
        found = record.value
    _check(found, key, data, location)
    if not known:
        write_json(data.cluster, {"cluster": found.id})
    return found


async def check_identity(
    store: Store, data: DataFolder, location: StoreLocation, key: Callable[[], bytes]
) -> ClusterRecord | None:
    """The cluster of the store, if it knows of one; changes nothing. `key` is read only where there is one.

    Raises StartError where folder, key or release do not go with it.
    """
    record = await read_record(store, ClusterRecord, CLUSTER)
    if record is None:
        if _cluster_of(data):
            raise no_cluster(location)
        return None
    _check(record.value, key(), data, location)
    return record.value


def _check(cluster: ClusterRecord, key: bytes, data: DataFolder, location: StoreLocation) -> None:
    _check_format(cluster, location)
    _check_key(cluster, key, location)
    _check_folder(cluster, data, location)


async def check_folder(store: Store, data: DataFolder, location: StoreLocation) -> None:
    """Raise StartError where the data folder has been used with another cluster than that of the store."""
    record = await read_record(store, ClusterRecord, CLUSTER)
    if record is not None:
        _check_folder(record.value, data, location)


def _check_folder(cluster: ClusterRecord, data: DataFolder, location: StoreLocation) -> None:
    known = _cluster_of(data)
    if known and known != cluster.id:
        raise StartError(
            f"the data folder {data.root} is of the cluster {known}, and {location} is the store of {cluster.id}: name "
            "the store of that cluster by --store, or choose another --data-dir"
        )


def new_cluster(
    clock: Clock, founder: str, key: bytes, known: str = "", adopts: Address | None = None
) -> ClusterRecord:
    """The record of a cluster that is founded now; `known`: by the id that a folder has for it already."""
    check = key_check(key) if key else ""
    return ClusterRecord(known or secrets.token_hex(8), clock.wall(), founder, check, FORMAT, __version__, adopts)


def no_cluster(location: StoreLocation) -> StartError:
    """What is wrong where a node or a gateway finds an empty store."""
    return StartError(
        f"{location} knows of no cluster: check --store, or found one there by `helios init` with the same --store"
    )


def _cluster_of(data: DataFolder) -> str:
    value = read_json(data.cluster)
    return "" if value is None else str(value.get("cluster", ""))


def _check_format(cluster: ClusterRecord, location: StoreLocation) -> None:
    if cluster.format > FORMAT:
        raise StartError(
            f"the records in {location} have format {cluster.format}, since Helios {cluster.version} runs on them; "
            f"this is Helios {__version__}, which knows formats up to {FORMAT}: install the newer one here"
        )


def _check_key(cluster: ClusterRecord, key: bytes, location: StoreLocation) -> None:
    if cluster.key_check == (key_check(key) if key else ""):
        return
    if not cluster.key_check:
        raise StartError(f"the cluster of {location} was founded without a key: leave security.cluster_key_file out")
    raise StartError(
        f"the cluster of {location} has another key: name its file by security.cluster_key_file, the same on every host"
        if key
        else f"the cluster of {location} has a key: name its file, the same on every host, by security.cluster_key_file"
    )
