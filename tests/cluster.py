"""A whole cluster as real processes for tests: `helios up` on free ports, ended by pid whatever becomes of the test."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hiredis
from tests.cluster_store import ON_ETCD, store_settings
from tests.leftovers import end, running_with
from tests.ports import free_ports
from tests.waiting import blocking_until

from helios.model.ids import Address
from helios.model.topology import Member, Shard
from helios.node.files import DataFolder
from helios.node.locks import holder_of
from helios.node.member_state import member_of
from helios.node.process import ProcessId

START_S = 60.0
STOP_S = 60.0
CHECK_S = 90.0
# However busy the machine is, no client gets an error because a router or a replica was late.
PATIENT = {
    "HELIOS_COORDINATOR__FENCE_ACK_TIMEOUT": "20",
    "HELIOS_ROUTER__HOLD_TIMEOUT": "30",
    "HELIOS_REPLICATION__ACK_TIMEOUT": "20",
}
# A move waits for the disk twice, for a second each time where it is written once a second.
FAST_MOVES = {"HELIOS_SHARDING__MIGRATION_RATE": "0", "HELIOS_ATLAS__AOF_FSYNC": "every"}
HELIOS = (sys.executable, "-P", "-m", "helios.cli.main")


class HeliosProcess:
    """A running `helios` command; what it prints is collected in files."""

    def __init__(self, words: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        number = len(list(folder.glob("*.out")))
        self.out_path, self.err_path = folder / f"{number}.out", folder / f"{number}.err"
        with self.out_path.open("wb") as out, self.err_path.open("wb") as err:
            self.process = subprocess.Popen(
                [*HELIOS, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=folder,
                env={**os.environ, **(env or {})},
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        """What it has printed."""
        return self.out_path.read_text()

    @property
    def err(self) -> str:
        """What it has complained of."""
        return self.err_path.read_text()

    def wait_ready(self, limit_s: float = START_S) -> None:
        """Return when it has printed `ready`; fails if it ends before."""
        deadline = time.monotonic() + limit_s
        while "ready\n" not in self.out:
            status = self.process.poll()
            assert status is None, f"ended with {status} before it was ready:\n{self.out}\n{self.err}"
            assert time.monotonic() < deadline, f"not ready after {limit_s:g} s:\n{self.out}\n{self.err}"
            time.sleep(0.02)

    def wait(self, timeout_s: float = STOP_S) -> int:
        """Its exit status, when it has ended."""
        return self.process.wait(timeout_s)

    def terminate(self) -> int:
        """Ask it to end, as Ctrl-C does; its exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.wait()

    def kill(self) -> None:
        """End it at once."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Cluster:
    """What a test knows of a running cluster."""

    def __init__(self, folder: Path, shards: int, env: Mapping[str, str] | None, flags: Sequence[str]) -> None:
        self.folder = folder
        self.externals: dict[str, int] = {}  # ports of servers that are nodes and that nobody here supervises
        self.data_dir = folder / "data"
        self.data = DataFolder(self.data_dir)
        self.shards = shards
        self.env = {**store_settings(), **(env or {})}
        self.flags = list(flags)
        self._take_ports()
        self.up: HeliosProcess | None = None
        # How `command` is let in: a user with its password, and so many ports above the nodes' own.
        self.login: tuple[str, str] | None = None
        self.command_offset = 0

    def _take_ports(self) -> None:
        # All in one piece, so that REST keeps clear of the other ports that nodes may have above their own.
        first = free_ports(self.shards + 1)
        self.resp_ports = list(range(first, first + self.shards))
        self.api_port = first + self.shards

    @property
    def api(self) -> str:
        """The base of the REST interface."""
        return f"http://127.0.0.1:{self.api_port}"

    @property
    def store_url(self) -> str:
        """Where its store is; empty where that is in the data folder."""
        if "--store" in self.flags:
            return self.flags[self.flags.index("--store") + 1]
        return self.env.get("HELIOS_STORE__URL", "")

    def words(self) -> list[str]:
        """The command line behind `helios`."""
        words = ["up", "--shards", str(self.shards), "--port", str(self.resp_ports[0])]
        return [*words, "--api-port", str(self.api_port), "--data-dir", str(self.data_dir), *self.flags]

    def begin(self, *flags: str) -> HeliosProcess:
        """Run `helios up` without waiting for it."""
        self.up = HeliosProcess([*self.words(), *flags], self.folder / "output", self.env)
        return self.up

    def start(self, limit_s: float = START_S) -> HeliosProcess:
        """Run `helios up` until it is ready."""
        up = self.begin()
        up.wait_ready(limit_s)
        return up

    def start_anywhere(self, limit_s: float = START_S) -> None:
        """Run `helios up` until it is ready, on other ports where somebody else was quicker to take these."""
        up = self.begin()
        while True:
            try:
                up.wait_ready(limit_s)
            except AssertionError:
                if "is taken by another process" not in up.err:
                    raise
                self._take_ports()
                up = self.begin("--move-ports")  # its nodes may have been founded before a port was missing
            else:
                return

    def stop(self) -> int:
        """End it as Ctrl-C does; its exit status."""
        assert self.up is not None, "it was started"
        return self.up.terminate()

    def init(self) -> None:
        """Let nodes be started by commands of their own, as over SQLite they can be at once."""
        if ON_ETCD:
            founded = self.run("init")
            assert founded.returncode == 0, founded.stderr

    def found(self, node_id: str, *flags: str) -> HeliosProcess:
        """Run the first node by a command of its own, until it owns all keys."""
        self.init()
        address = f"localhost:{self.resp_ports[0]}"
        node = self.helios("node", "--id", node_id, "--listen", address, *flags)
        node.wait_ready()
        if not ON_ETCD:
            assert not isinstance(self.command("ADDNODE", node_id, address), hiredis.ReplyError)
        blocking_until(lambda: node_id in str(self.command("LISTNODES")))
        return node

    def helios(self, *words: str) -> HeliosProcess:
        """Run another `helios` command on the same data folder."""
        return HeliosProcess([*words, "--data-dir", str(self.data_dir)], self.folder / "output", self.env)

    def run(self, *words: str, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run another `helios` command on the same data folder to its end."""
        argv = [*HELIOS, *words, "--data-dir", str(self.data_dir)]
        env = {**os.environ, **self.env}
        return subprocess.run(argv, capture_output=True, text=True, timeout=timeout_s, env=env, check=False)

    def command(self, *words: str | bytes, port: int | None = None, timeout_s: float = 10.0) -> object:
        """The reply to one command at a node (the first unless a port is given)."""
        if port is None:
            port = self.resp_ports[0] + self.command_offset
        return ask(port, *words, login=self.login, timeout_s=timeout_s)

    def agent(self, node_id: str) -> ProcessId | None:
        """The running agent of a node."""
        holder = holder_of(self.data.node(node_id).lock)
        return holder.process if holder else None

    def member(self, node_id: str) -> ProcessId | None:
        """The running data server of a node."""
        found = member_of(self.data.node(node_id).founder)
        return found.id if found else None

    def server(self, member: Member) -> ProcessId | None:
        """The running data server that a member is."""
        found = member_of(self.data.node(member.node).member(member.id))
        return found.id if found else None

    def routers(self, node_id: str) -> list[ProcessId]:
        """The running router workers of a node."""
        holders = [holder_of(path) for _, path in self.data.node(node_id).router_locks()]
        return [holder.process for holder in holders if holder]

    def member_address(self, node_id: str) -> Address:
        """Where a node's data server listens."""
        state = json.loads(self.data.node(node_id).founder.state.read_text())
        return Address("127.0.0.1", int(state["port"]))

    def server_port(self, member_id: str) -> int:
        """Where the data server that a member is listens, or did."""
        return int(self._server_state(member_id)["port"])

    def _server_state(self, member_id: str) -> dict[str, Any]:
        node_id = member_id.partition("@")[2] or member_id.rpartition(".")[0]
        state: dict[str, Any] = json.loads(self.data.node(node_id).member(member_id).state.read_text())
        return state

    def member_command(self, node_id: str, *words: str | bytes) -> object:
        """The reply of a node's data server itself, past every router."""
        if node_id in self.externals:
            return ask(self.externals[node_id], *words)
        state = json.loads(self.data.node(node_id).founder.state.read_text())
        return ask(int(state["port"]), *words, login=("helios-admin", state["password"]))

    def leader_command(self, shard: Shard, *words: str | bytes) -> object:
        """The reply of the data server that leads a shard, past every router."""
        if shard.id in self.externals:
            return ask(self.externals[shard.id], *words)
        return self.server_command(shard.leading.id, *words)

    def server_command(self, member_id: str, *words: str | bytes) -> object:
        """The reply of the data server that a member is."""
        state = self._server_state(member_id)
        return ask(int(state["port"]), *words, login=("helios-admin", state["password"]))

    def leftovers(self) -> dict[int, str]:
        """The processes that belong to this data folder, by pid, found by their command lines."""
        return running_with(str(self.data_dir))

    def clean_up(self) -> None:
        """End everything that is left."""
        if self.up is not None:
            self.up.kill()
        end(self.leftovers, STOP_S)

    def assert_checked(self) -> None:
        """Soon, the cluster's own check finds nothing."""
        deadline = time.monotonic() + CHECK_S
        while True:
            said = self.command("CHECK", timeout_s=30.0)
            if isinstance(said, list) and dict(zip(said[::2], said[1::2], strict=True))[b"clean"] in (1, b"true"):
                return
            assert time.monotonic() < deadline, f"the check is not clean: {said!r}"
            time.sleep(0.1)

    def logs(self) -> str:
        """The ends of all logs, for a failing test."""
        paths = sorted(self.data.logs.glob("*.log"))
        return "\n".join(f"== {path.name}\n{path.read_text(errors='replace')[-2000:]}" for path in paths)


def ask(port: int, *words: str | bytes, login: tuple[str, str] | None = None, timeout_s: float = 10.0) -> object:
    """The reply to one command over a connection of its own; an error reply is a value. Raises OSError."""
    commands = [("AUTH", *login)] if login else []
    parser = hiredis.Reader()
    reply: object = False
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        for command in [*commands, words]:
            connection.sendall(hiredis.pack_command(tuple(command)))  # type: ignore[arg-type]
            while (reply := parser.gets()) is False:
                data = connection.recv(65536)
                if not data:
                    raise ConnectionError("the connection was closed")
                parser.feed(data)
    return reply


@contextmanager
def ending(cluster: Cluster) -> Iterator[None]:
    """Leave nothing of the cluster running at the end; prints its logs if the block fails."""
    try:
        yield
    except BaseException:
        print(cluster.logs())
        raise
    finally:
        cluster.clean_up()


@contextmanager
def running_cluster(
    tmp_path: Path,
    shards: int = 3,
    env: Mapping[str, str] | None = None,
    flags: Sequence[str] = (),
    *,
    checked: bool = True,
    start_s: float = START_S,
) -> Iterator[Cluster]:
    """A cluster that is ready; at the end nothing of it is left running. Prints its logs if the block fails.

    If it still runs at the end its own check must find nothing, unless a test that leaves it broken says so.
    """
    cluster = Cluster(tmp_path, shards, env, flags)
    with ending(cluster):
        cluster.start_anywhere(start_s)
        yield cluster
        if checked and cluster.up is not None and cluster.up.process.poll() is None:
            cluster.assert_checked()
