"""The whole state of a cluster as a file, to take it from one store into another: `export-store`, `import-store`."""

from __future__ import annotations

import asyncio
import hashlib
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import helios
from helios.errors import InvalidInput, NotFound, Refused
from helios.node.files import DataFolder, write_private
from helios.ports.clock import Clock
from helios.ports.location import StoreLocation
from helios.ports.records import CLUSTER, IMPORTING, LEASED, SETTINGS, TERM, TOPOLOGY
from helios.ports.store import Compare, Delete, Entry, Operation, Put, Store, batches
from helios.runtime.backends import locate
from helios.runtime.clock import SystemClock
from helios.runtime.lifecycle import say
from helios.runtime.settings import SettingsRead, data_folder

FORMAT = 1
_LAST = (CLUSTER, SETTINGS, TERM, TOPOLOGY)
_NAME = "the state of a cluster of Helios"


@dataclass(frozen=True, slots=True)
class Exported:
    """What a file says of itself."""

    records: int
    bytes: int
    written_by: str


async def export_store(store: Store, file: Path, clock: Clock) -> Exported:
    """Write everything but leases and what is bound to them. Raises Refused while the cluster runs."""
    entries = await at_rest(store)
    if not entries:
        raise Refused("there is no cluster in this store: name another by --store or --data-dir")
    if any(entry.key == IMPORTING for entry in entries):
        raise Refused("an import into this store was not finished: run it again, or export the store that it came from")
    lines = [json.dumps({"key": entry.key, "value": b64encode(entry.value).decode()}) for entry in entries]
    body = "".join(f"{line}\n" for line in lines)
    header = {
        "file": _NAME,
        "format": FORMAT,
        "version": helios.__version__,
        "at": clock.wall(),
        "records": len(entries),
        "sha256": hashlib.sha256(body.encode()).hexdigest(),
    }
    try:
        write_private(file, f"{json.dumps(header)}\n{body}")
    except OSError as error:
        raise InvalidInput(f"{file} cannot be written: {error.strerror}") from error
    return Exported(len(entries), len(body), helios.__version__)


async def import_store(store: Store, file: Path) -> Exported:
    """Write what a file has into a store that is empty. Raises Refused where it is not, InvalidInput for bad files.

    An import that was not finished is begun anew. The topology comes last: before it there is no cluster.
    """
    exported, puts = read_export(file)
    entries = await at_rest(store)
    marker = next((entry for entry in entries if entry.key == IMPORTING), None)
    if entries and marker is None:
        raise Refused(
            f"the store is not empty ({len(entries)} records, {entries[0].key} among them), and nothing was changed: "
            "name another prefix or path"
        )
    version = await store.commit([Put(IMPORTING, b"1")], compares=[Compare(IMPORTING, marker.version if marker else 0)])
    mine = [Compare(IMPORTING, version)]
    named = {put.key for put in puts}
    left: list[Operation] = [Delete(entry.key) for entry in entries if entry.key not in named | {IMPORTING}]
    last = [put for put in puts if put.key in _LAST]
    for batch in batches([*left, *(put for put in puts if put.key not in _LAST)], compares=1):
        await store.commit(batch, compares=mine)
    await store.commit([*last, Delete(IMPORTING)], compares=mine)
    return exported


def read_export(file: Path) -> tuple[Exported, list[Put]]:
    """What a file holds; raises InvalidInput where it is damaged, cut off, or of a newer version."""
    try:
        head, _, body = file.read_text("utf-8").partition("\n")
    except OSError as error:
        raise InvalidInput(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{file} is no export of a store, or damaged") from error
    try:
        header = json.loads(head)
        known, version, digest = (
            header["format"] <= FORMAT and header["file"] == _NAME,
            header["version"],
            header["sha256"],
        )
        intact = hashlib.sha256(body.encode()).hexdigest() == digest
        records = [json.loads(line) for line in body.splitlines()] if known and intact else []
        puts = [Put(record["key"], b64decode(record["value"])) for record in records]
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{file} is no export of a store, or damaged") from error
    if not known:
        raise InvalidInput(f"{file} was written by Helios {version}, which is newer: import it with that version")
    if not intact:
        raise InvalidInput(f"{file} is damaged or cut off: its checksum is another; export the store again")
    return Exported(len(puts), len(body), version), puts


async def at_rest(store: Store) -> Sequence[Entry]:
    """What is in the store; raises Refused while processes of the cluster run."""
    await store.commit([])  # Leases that are over end with the next commit.
    entries = (await store.list("")).entries
    leased = [entry.key for entry in entries if entry.key.startswith(LEASED)]
    if leased:
        raise Refused(
            f"the cluster runs ({len(leased)} leases are held in this store): end all its nodes and gateways first; "
            "after a crash their leases end in some ten seconds"
        )
    return entries


def run_export(read: SettingsRead, file: Path) -> None:
    """`helios export-store`."""
    data = DataFolder(data_folder(read.settings))
    location = locate(read.settings, data)
    if not location.exists():
        raise NotFound(f"there is no cluster at {location}: name it by --store or --data-dir")
    exported = asyncio.run(_with(location, lambda store: export_store(store, file, SystemClock())))
    say(f"exported {exported.records} records from {location} to {file}, which holds passwords: keep it secret")
    say("once they are in another store, do not start the cluster on this one any more")


def run_import(read: SettingsRead, file: Path) -> None:
    """`helios import-store`."""
    data = DataFolder(data_folder(read.settings))
    location = locate(read.settings, data)
    read_export(file)
    if location.paths:
        data.prepare()
    exported = asyncio.run(_with(location, lambda store: import_store(store, file)))
    say(f"imported {exported.records} records of Helios {exported.written_by} into {location}")
    say("start the cluster with the same --store; it must not run on the store that this came from any more")


async def _with(location: StoreLocation, job: Callable[[Store], Coroutine[Any, Any, Exported]]) -> Exported:
    store = await location.open()
    try:
        return await job(store)
    finally:
        await store.close()
