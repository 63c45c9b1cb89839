"""The store that tests of whole clusters run over: SQLite, or etcd by `make test STORE=etcd`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from tests.etcd_servers import started_etcd

from helios.ports.store import Store
from helios.stores.etcd import EtcdStore
from helios.stores.etcd_gateway import Access
from helios.stores.sqlite import SqliteStore

ON_ETCD = os.environ.get("STORE") == "etcd"

_addresses: list[str] = []  # of the etcd of this process


@contextmanager
def serving_clusters(folder: Path) -> Iterator[None]:
    """An etcd for the clusters of this process's tests, if they are to run over one."""
    if not ON_ETCD:
        yield
        return
    with started_etcd(folder) as address:
        _addresses.append(address)
        yield
        _addresses.clear()


def store_settings() -> dict[str, str]:
    """What tells the processes of a new cluster where its store is, as environment variables."""
    if not ON_ETCD:
        return {}
    return {"HELIOS_STORE__URL": f"etcd://{_addresses[0].removeprefix('http://')}/tests/{uuid4().hex}"}


async def open_store(folder: Path) -> Store:
    """The store of a new cluster."""
    if ON_ETCD:
        return await EtcdStore.open(Access((_addresses[0],)), f"tests/{uuid4().hex}")
    return await SqliteStore.open(folder / "helios.db")
