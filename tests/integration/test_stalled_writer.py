"""A process that is frozen inside a commit to the store: it is ended, and the others go on."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cluster import running_cluster
from tests.cluster_store import ON_ETCD
from tests.crashes import process_stopped
from tests.waiting import blocking_until, until

from helios.node.files import DataFolder, write_json
from helios.node.locks import RunLock
from helios.node.process import ProcessId
from helios.node.stalled_writer import StalledWriterWatch
from helios.ports.failpoints import Point
from helios.ports.store import Put
from helios.runtime.failpoints import STOP, VARIABLE, FileFailpoints
from helios.stores.sqlite import SqliteStore
from helios.stores.sqlite_location import SqliteLocation

pytestmark = pytest.mark.processes

# Freezes itself when the record is written and the transaction not ended.
WRITER = """
import asyncio, signal, sys, threading
from pathlib import Path
from helios.ports.store import Put
from helios.stores.sqlite import SqliteStore

def freeze():
    signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)

async def main():
    store = await SqliteStore.open(Path(sys.argv[1]), before_commit=freeze)
    await store.commit([Put("/never", b"seen")])

asyncio.run(main())
"""


@pytest.fixture
def data(tmp_path: Path) -> DataFolder:
    data = DataFolder(tmp_path)
    data.prepare()
    folder = data.node("shard-1")
    folder.root.mkdir()
    write_json(folder.agent, {"listen": "127.0.0.1:1"})
    return data


@contextmanager
def frozen_writer(data: DataFolder, *, ours: bool) -> Iterator[ProcessId]:
    """A process that is frozen in a commit; `ours`: it holds the lock of a router of this folder."""
    lock = RunLock.try_acquire(data.node("shard-1").router_lock(0))
    assert lock is not None
    process = subprocess.Popen([sys.executable, "-c", WRITER, str(data.store)], pass_fds=[lock.descriptor] * ours)
    identity = ProcessId.of(process.pid)
    assert identity is not None
    if ours:
        lock.name(identity)
    lock.let_go()
    try:
        process_stopped(process.pid)
        yield identity
    finally:
        process.kill()
        process.wait()


async def test_a_process_of_ours_is_ended_and_its_commit_was_never(data: DataFolder) -> None:
    store = await SqliteStore.open(data.store)
    with frozen_writer(data, ours=True) as process:
        assert SqliteLocation(data.store).writers() == {process.pid}
        watching = asyncio.create_task(
            StalledWriterWatch(data, SqliteLocation(data.store), request_timeout_s=0.1).watch()
        )
        await store.commit([Put("/after", b"written")])  # waits for the lock, and gets it
        await until(lambda: not process.alive())
        watching.cancel()
    assert await store.get("/never") is None
    await store.close()


async def test_patience_is_kept_and_strangers_and_those_that_run_are_left_alone(data: DataFolder) -> None:
    store = await SqliteStore.open(data.store)
    with frozen_writer(data, ours=True) as process:
        look = StalledWriterWatch(data, SqliteLocation(data.store), request_timeout_s=1.0).look
        for now in (10.0, 10.9):
            look(now)
        assert process.stopped()
        # One that has woken up meanwhile begins anew when it is stopped again, and one outside of a commit may stand.
        os.kill(process.pid, signal.SIGCONT)
        await until(lambda: not SqliteLocation(data.store).writers())
        look(11.5)
        assert await store.get("/never") is not None
    with frozen_writer(data, ours=False) as stranger:
        watch = StalledWriterWatch(data, SqliteLocation(data.store), request_timeout_s=0.0)
        watch.look(10.0)
        watch.look(20.0)
        assert stranger.stopped()
    await store.close()


@pytest.mark.skipif(ON_ETCD, reason="nobody holds a lock of etcd")
def test_a_cluster_serves_again_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "points"
    folder.mkdir()
    points = FileFailpoints(folder)
    with running_cluster(tmp_path / "cluster", shards=2, env={VARIABLE: str(folder)}) as cluster:

        def ended() -> set[str]:
            texts = [path.read_text() for path in cluster.data.logs.glob("*.log")]
            return {pid for text in texts for pid in re.findall(r"stopped in a commit, ended: pid=(\d+)", text)}

        def serves() -> bool:
            try:
                return all(cluster.command("SET", "a", "1", port=port) == b"OK" for port in cluster.resp_ports)
            except OSError:
                return False  # it was a router that was ended, and another one is not there yet

        for number in (1, 2):
            points.arm(Point.COMMITTING, STOP)
            blocking_until(lambda: points.reached(Point.COMMITTING))
            blocking_until(lambda number=number: len(ended()) == number)  # type: ignore[misc]
            blocking_until(serves)
            assert cluster.up is not None
            assert cluster.up.process.poll() is None
