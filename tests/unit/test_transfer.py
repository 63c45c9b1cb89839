"""A cluster's state as a file, and into another store."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from helios.errors import HeliosError, InvalidInput, Refused, StoreError
from helios.ports.records import IMPORTING, LEASED, SETTINGS, TOPOLOGY
from helios.ports.store import Compare, Operation, Put, Store
from helios.runtime.clock import SystemClock
from helios.runtime.transfer import export_store, import_store
from helios.stores.memory import MemoryStore

CLOCK = SystemClock()


async def filled() -> MemoryStore:
    store = MemoryStore()
    for n in range(300):
        await store.commit([Put(f"/records/{n:03}", bytes([n % 256]) * n)])
    await store.commit([Put(SETTINGS, b"{}"), Put(TOPOLOGY, b"{}")])
    return store


async def state(store: Store) -> dict[str, bytes]:
    return {entry.key: entry.value for entry in (await store.list("")).entries}


async def test_everything_comes_into_an_empty_store(tmp_path: Path) -> None:
    file, source, target = tmp_path / "state", await filled(), MemoryStore()
    exported = await export_store(source, file, CLOCK)
    assert exported.records == 302
    assert file.stat().st_mode & 0o077 == 0
    assert await import_store(target, file) == exported
    assert await state(target) == await state(source)


async def test_a_store_with_anything_in_it_is_left_alone(tmp_path: Path) -> None:
    file, target = tmp_path / "state", MemoryStore()
    await export_store(await filled(), file, CLOCK)
    await target.commit([Put("/topology", b"another cluster's")])
    with pytest.raises(Refused, match=r"the store is not empty \(1 records, /topology among them\)"):
        await import_store(target, file)
    assert await state(target) == {"/topology": b"another cluster's"}


@pytest.mark.parametrize("prefix", LEASED)
async def test_a_cluster_that_runs_is_neither_exported_nor_written_over(tmp_path: Path, prefix: str) -> None:
    file, source, target = tmp_path / "state", await filled(), MemoryStore()
    await export_store(source, file, CLOCK)
    for store in (source, target):
        await store.commit([Put(f"{prefix}x", b"1", await store.grant(60.0))])
    with pytest.raises(Refused, match="the cluster runs"):
        await export_store(source, tmp_path / "again", CLOCK)
    with pytest.raises(Refused, match="the cluster runs"):
        await import_store(target, file)
    assert not (tmp_path / "again").exists()


async def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    store = MemoryStore()
    await store.commit([Put("/a", b"1")])
    with pytest.raises(InvalidInput, match=f"^{tmp_path}/none/state cannot be written: No such file or directory$"):
        await export_store(store, tmp_path / "none" / "state", SystemClock())


async def test_an_empty_store_is_not_exported(tmp_path: Path) -> None:
    with pytest.raises(Refused, match="there is no cluster"):
        await export_store(MemoryStore(), tmp_path / "state", CLOCK)


def _cut(text: str) -> str:
    return text[: len(text) // 2]


def _changed(text: str) -> str:
    return text.replace('"/records/007"', '"/records/008"')


def _newer(text: str) -> str:
    head, _, body = text.partition("\n")
    return f"{json.dumps(json.loads(head) | {'format': 2, 'version': '9.9'})}\n{body}"


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "damaged or cut off: its checksum is another"),
        (_changed, "damaged or cut off: its checksum is another"),
        (_newer, r"written by Helios 9\.9, which is newer"),
        (lambda text: "", "no export of a store, or damaged"),
        (lambda text: "[1, 2]\n", "no export of a store, or damaged"),
        (lambda text: "{}\n", "no export of a store, or damaged"),
    ],
)
async def test_a_file_that_cannot_be_trusted_is_not_imported(tmp_path: Path, damage: object, said: str) -> None:
    assert callable(damage)
    file, target = tmp_path / "state", MemoryStore()
    await export_store(await filled(), file, CLOCK)
    file.write_text(damage(file.read_text()))
    with pytest.raises(InvalidInput, match=said):
        await import_store(target, file)
    assert await state(target) == {}
    file.write_bytes(b"\xff\x00")
    with pytest.raises(InvalidInput, match="no export of a store, or damaged"):
        await import_store(target, file)
    with pytest.raises(InvalidInput, match="cannot be read"):
        await import_store(target, tmp_path / "none")


class Mortal:
    """A store whose user dies at a commit."""

    def __init__(self, store: MemoryStore, commits: int) -> None:
        self._store = store
        self._left = commits

    async def commit(self, operations: list[Operation], *, compares: list[Compare] | None = None) -> int:
        self._left -= 1
        if self._left < 0:
            raise StoreError("dead")
        return await self._store.commit(operations, compares=compares or ())

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)


@pytest.mark.parametrize("commits", [1, 2, 3, 5])
async def test_an_import_that_was_broken_off_is_no_cluster_and_can_be_done_again(tmp_path: Path, commits: int) -> None:
    file, source, target = tmp_path / "state", await filled(), MemoryStore()
    await export_store(source, file, CLOCK)
    with pytest.raises(StoreError, match="dead"):
        await import_store(Mortal(target, commits), file)  # type: ignore[arg-type]
    there = await state(target)
    assert not {SETTINGS, TOPOLOGY} & there.keys()
    if IMPORTING in there:
        with pytest.raises(HeliosError, match="not finished"):
            await export_store(target, tmp_path / "half", CLOCK)
        await target.commit([Put("/left/by/an/earlier/one", b"")])
    await import_store(target, file)
    assert await state(target) == await state(source)
