"""Which cluster a store and a folder are of, and its key."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import helios
from helios.errors import StartError
from helios.model.codec import encode
from helios.model.passwords import derived
from helios.model.sections import SecuritySettings
from helios.model.settings import ClusterSettings
from helios.node.files import DataFolder
from helios.ports.records import CLUSTER, FORMAT, SETTINGS, ClusterRecord, put_record
from helios.ports.store import Put
from helios.runtime.clock import SystemClock
from helios.runtime.identity import check_folder, make_key, read_key, settle_identity
from helios.stores.etcd_location import EtcdLocation
from helios.stores.memory import MemoryStore

PLACE = EtcdLocation(("http://10.0.0.1:2379",), "prod")
KEY = bytes(range(32))


def folder(path: Path) -> DataFolder:
    data = DataFolder(path)
    data.prepare()
    return data


async def settled(store: MemoryStore, data: DataFolder, key: bytes = b"", founder: str = "") -> ClusterRecord:
    return await settle_identity(store, data, PLACE, SystemClock(), key, founder=founder)


async def test_a_folder_belongs_to_the_cluster_that_it_was_first_started_in(tmp_path: Path) -> None:
    one, other = MemoryStore(), MemoryStore()
    data = folder(tmp_path / "data")
    with pytest.raises(StartError, match="knows of no cluster: check --store, or found one there by `helios init`"):
        await settled(one, data)
    first = await settled(one, data, founder="helios init")
    assert first.founded_by == "helios init"
    assert await settled(one, data) == first
    second = await settled(other, folder(tmp_path / "elsewhere"), founder="helios up")
    with pytest.raises(StartError, match=f"is of the cluster {first.id}, and .* is the store of {second.id}"):
        await settled(other, data)
    with pytest.raises(StartError, match=f"is of the cluster {first.id}"):
        await check_folder(other, data, PLACE)
    await check_folder(one, data, PLACE)
    await check_folder(MemoryStore(), data, PLACE)  # one that was emptied is judged by what the nodes remember


async def test_a_cluster_from_before_ids_gets_one_and_a_lost_store_its_own_again(tmp_path: Path) -> None:
    store, data = MemoryStore(), folder(tmp_path / "data")
    await store.commit([put_record(SETTINGS, ClusterSettings())])
    old = await settled(store, data)
    assert (await settled(MemoryStore(), data, founder="helios up")).id == old.id


async def test_an_older_release_refuses_a_store_of_a_newer_one_and_names_both(tmp_path: Path) -> None:
    store, data = MemoryStore(), folder(tmp_path / "data")
    mine = await settled(store, data, founder="helios up")
    assert (mine.format, mine.version) == (FORMAT, helios.__version__)
    newer = replace(mine, format=FORMAT + 1, version="9.1.0")
    await store.commit([put_record(CLUSTER, newer)])
    with pytest.raises(
        StartError, match=rf"have format {FORMAT + 1}, since Helios 9\.1\.0 runs on them; this is Helios "
    ):
        await settled(store, data)


async def test_what_a_newer_release_adds_to_a_record_is_passed_over(tmp_path: Path) -> None:
    store, data = MemoryStore(), folder(tmp_path / "data")
    mine = await settled(store, data, founder="helios up")
    await store.commit([Put(CLUSTER, encode(mine)[:-1] + b',"colour":"blue"}')])
    assert await settled(store, data) == mine


async def test_everybody_has_the_same_key_or_none(tmp_path: Path) -> None:
    keyed, keyless, data = MemoryStore(), MemoryStore(), folder(tmp_path / "data")
    await settled(keyed, data, KEY, founder="helios init")
    assert (await settled(keyed, data, KEY)).key_check
    with pytest.raises(StartError, match="has another key"):
        await settled(keyed, data, bytes(32))
    with pytest.raises(StartError, match="has a key: name its file"):
        await settled(keyed, data)
    await settled(keyless, folder(tmp_path / "b"), founder="helios init")
    with pytest.raises(StartError, match="was founded without a key"):
        await settled(keyless, folder(tmp_path / "b"), KEY)


def test_the_keys_file_is_made_once_and_is_for_its_owner_alone(tmp_path: Path) -> None:
    security = SecuritySettings(cluster_key_file=str(tmp_path / "key"))
    with pytest.raises(StartError, match=r"cannot be read .*copy it from a host of the cluster"):
        read_key(security)
    assert make_key(security) == tmp_path / "key"
    key = read_key(security)
    assert len(key) == 32
    assert make_key(security) is None and read_key(security) == key
    (tmp_path / "key").chmod(0o640)
    with pytest.raises(StartError, match="open to other users: run chmod 600"):
        read_key(security)
    (tmp_path / "key").chmod(0o600)
    (tmp_path / "key").write_text("short\n")
    with pytest.raises(StartError, match="holds no key"):
        read_key(security)
    assert make_key(SecuritySettings()) is None and read_key(SecuritySettings()) == b""


def test_a_password_depends_on_key_salt_and_server() -> None:
    passwords = {derived(key, salt, of) for key in (KEY, bytes(32)) for salt in "ab" for of in ("s.0", "s.1")}
    assert len(passwords) == 8 and derived(KEY, "a", "s.0") in passwords
