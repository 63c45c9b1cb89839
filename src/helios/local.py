"""A whole cluster for a notebook or a test: real processes, in a folder and on ports of their own, gone at the end."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from helios.client.asynchronous import AsyncAdminClient
from helios.client.blocking import AdminClient
from helios.client.connection import RespClient
from helios.client.entry import Entry
from helios.client.progress import Progress
from helios.errors import InvalidInput, NotFound, Refused, StartError
from helios.model.setting_info import all_settings, nearest
from helios.node.files import DataFolder
from helios.node.ports import free_ports
from helios.node.process import in_words
from helios.runtime.command_lines import child_command, helios_command
from helios.runtime.lifecycle import COMPLAINT
from helios.runtime.settings import variable

__all__ = ["LocalCluster"]

_HOST = "127.0.0.1"
_TRIES = 3  # somebody else may take a port between the look and the start
_START_S = 60.0
_STOP_S = 30.0
_LOOK_S = 0.02
_MAX_SHARDS = 64
_AS_ANYBODY = Entry()

# Its flags to `helios up` win over these.
_OWN = ("atlas.data_dir", "store.url", "network.bind", "gateway.listen")

# What is kept for minutes need not reach the disk, and a test should not wait for keys to trickle.
_DEFAULTS = {"atlas.aof_fsync": "no", "sharding.migration_rate": "0"}


class LocalCluster:
    """Shards, routers and the REST gateway on this machine, as `helios up` runs them, for as long as a block runs.

        with helios.LocalCluster(shards=3) as cluster:
            redis.Redis(port=cluster.port).set("key", "value")
            cluster.admin.stats()

    It works with `async with`, too, and without a block by `start` and `close`. Everything is in a temporary folder
    and ends, folder included, with the block, and also when this process is killed. To start takes a few seconds.
    """

    def __init__(
        self, shards: int = 3, *, settings: Mapping[str, object] | None = None, entry: Entry = _AS_ANYBODY
    ) -> None:
        """A cluster of nodes shard-1 to shard-N that is not started yet.

        `settings` are those of configs/default.yaml by their full names, such as {"router.workers": 2}. Beside the
        usual defaults, moves are not slowed down (`sharding.migration_rate` 0) and nothing waits for the disk. Those
        that the environment has for other clusters (HELIOS_...) do not count. Where they name users or TLS, `entry`
        says as whom the clients of this object come in.
        """
        if not 1 <= shards <= _MAX_SHARDS:
            raise InvalidInput(f"shards is {shards} but must be from 1 to {_MAX_SHARDS}")
        for name in settings or {}:
            if name not in all_settings():
                raise InvalidInput(
                    f"{name!r} is not a setting; {nearest(name)}use full names, such as sharding.migration_rate"
                )
            if name in _OWN:
                raise InvalidInput(f"{name} cannot be set: a LocalCluster has a temporary folder and ports of its own")
        self.shards = shards
        self._entry = entry
        self._settings = {**_DEFAULTS, **{name: _written(value) for name, value in (settings or {}).items()}}
        self._data: DataFolder | None = None
        self._up: _Program | None = None
        self._nodes: dict[str, _Program] = {}
        self._addresses: dict[str, str] = {}
        self._api_port = 0
        self._admin: AdminClient | None = None
        self._async_admin: AsyncAdminClient | None = None

    # Its life

    def start(self) -> Self:
        """Start it and return when it serves. Raises StartError with the reason; nothing is left running then."""
        if self._up is not None:
            raise Refused("this cluster runs already")
        for last in range(_TRIES):
            try:
                self._start()
            except StartError as error:
                self.close()
                if last == _TRIES - 1 or " is taken by another process" not in str(error):
                    raise
            except BaseException:
                self.close()
                raise
            else:
                break
        return self

    def close(self) -> None:
        """End all its processes and remove its folder. It may be started again, empty."""
        if self._admin is not None:
            self._admin.close()
        self._admin = self._async_admin = None
        for program in [*self._nodes.values(), *([self._up] if self._up else [])]:
            program.end()
        for program in [*self._nodes.values(), *([self._up] if self._up else [])]:
            program.await_end()
        self._nodes, self._addresses, self._up = {}, {}, None
        if self._data is not None:
            shutil.rmtree(self._data.root, ignore_errors=True)
        self._data = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._async_admin is not None:
            await self._async_admin.close()
        await asyncio.to_thread(self.close)

    # Where it is

    @property
    def host(self) -> str:
        """Where its nodes listen: 127.0.0.1."""
        return _HOST

    @property
    def port(self) -> int:
        """The port of its first node, for any Redis client."""
        return int(self.addresses["shard-1"].rpartition(":")[2])

    @property
    def addresses(self) -> dict[str, str]:
        """Where each node that was started here listens, as host:port, by id."""
        self._running()
        return dict(self._addresses)

    @property
    def url(self) -> str:
        """Its first node as client libraries take it: redis://127.0.0.1:PORT/0, or rediss:// with TLS; without user."""
        return f"{'rediss' if self._entry.tls else 'redis'}://{_HOST}:{self.port}/0"

    @property
    def rest(self) -> str:
        """The base of its REST interface: http://127.0.0.1:PORT, or https:// with TLS."""
        self._running()
        return f"{'https' if self._entry.tls else 'http'}://{_HOST}:{self._api_port}"

    @property
    def folder(self) -> Path:
        """Its data folder; logs/ in it has the logs of all processes."""
        return self._running().root

    @property
    def admin(self) -> AdminClient:
        """The verbs of administration."""
        if self._admin is None:
            self._admin = AdminClient(*self.addresses.values(), entry=self._entry)
        return self._admin

    @property
    def async_admin(self) -> AsyncAdminClient:
        """The verbs of administration, to be awaited."""
        if self._async_admin is None:
            self._async_admin = AsyncAdminClient(*self.addresses.values(), entry=self._entry)
        return self._async_admin

    # What can be done to it

    def flush(self) -> None:
        """Delete every key. Waits for the end of a switch that is under way."""
        with RespClient(_HOST, self.port, entry=self._entry) as client:
            client.call(b"FLUSHALL")

    def start_node(self, node_id: str = "", *, zone: str = "") -> str:
        """Start the processes of one more node, outside the cluster; its address, for `admin.add_node`.

        Without an id it is the next shard-N. It ends with the cluster. Raises StartError.
        """
        data = self._running()
        node_id = node_id or self._next_id()
        if node_id in self._addresses:
            raise Refused(f"{node_id} runs already, at {self._addresses[node_id]}")
        for last in range(_TRIES):
            address = f"{_HOST}:{free_ports(1)}"
            words = ["--id", node_id, "--listen", address, *(["--zone", zone] if zone else [])]
            command = child_command("node", data.settings, *words)
            program = _Program(node_id, command, data.logs / f"{node_id}.out", _environment({}))
            try:
                program.await_ready()
            except StartError as error:
                if last == _TRIES - 1 or " is taken by another process" not in str(error):
                    raise
            else:
                break
        self._nodes[node_id], self._addresses[node_id] = program, address
        return address

    def add_node(self, node_id: str = "", *, weight: float = 1.0, zone: str = "") -> Progress:
        """Start one more node, take it in, and return when it has its share of the keys."""
        node_id = node_id or self._next_id()
        address = self.start_node(node_id, zone=zone)
        try:
            change = self.admin.add_node(node_id, address, weight=weight, zone=zone)
        except Refused:
            self.stop_node(node_id)
            raise
        return self.admin.wait(change)

    def remove_node(self, node_id: str) -> Progress:
        """Drain a node, let it go, and end its processes if they were started by `start_node` or `add_node`."""
        progress = self.admin.wait(self.admin.remove_node(node_id))
        if node_id in self._nodes:
            self.stop_node(node_id)
        return progress

    def stop_node(self, node_id: str) -> None:
        """End the processes of a node that was started by `start_node` or `add_node`; the cluster is not told."""
        program = self._nodes.pop(node_id, None)
        if program is None:
            raise NotFound(f"no node {node_id!r} was started by start_node or add_node")
        program.end()
        program.await_end()
        del self._addresses[node_id]

    def __repr__(self) -> str:
        return f"LocalCluster({self.shards}, {'running at ' + self.url if self._up else 'not running'})"

    def _start(self) -> None:
        first = free_ports(self.shards + 1)
        self._api_port = first + self.shards
        self._data = data = DataFolder(Path(tempfile.mkdtemp(prefix="helios-")))
        data.prepare()
        words = ["up", "--shards", str(self.shards), "--port", str(first), "--api-port", str(self._api_port)]
        words += ["--bind", _HOST, "--data-dir", str(data.root), "--parent-pipe", "--temporary"]
        self._up = _Program("the cluster", helios_command(*words), data.logs / "up.out", _environment(self._settings))
        self._addresses = {f"shard-{n + 1}": f"{_HOST}:{first + n}" for n in range(self.shards)}
        self._up.await_ready()

    def _next_id(self) -> str:
        taken = {*self._addresses, *(node.id for node in self.admin.list_nodes())}
        return next(name for number in range(1, 10_000) if (name := f"shard-{number}") not in taken)

    def _running(self) -> DataFolder:
        if self._data is None:
            raise Refused("this cluster does not run: use it inside `with`, or call start() first")
        return self._data


class _Program:
    """A process of Helios that ends when this one does, or when it is told to."""

    def __init__(self, name: str, command: list[str], out: Path, env: Mapping[str, str]) -> None:
        self._name = name
        # Held open, since a cluster that cannot start deletes its folder before it says why.
        self._out = out.open("w+b")
        # A session of its own: Ctrl-C at a terminal is for us, who then end it in order.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=self._out,
            stderr=self._out,
            env=dict(env),
            start_new_session=True,
        )

    def await_ready(self) -> None:
        """Return when it says that it is ready; raises StartError with its complaint, and ends it."""
        deadline = time.monotonic() + _START_S
        while True:
            ended = self._process.poll() is not None  # before the look, so that last words are seen
            lines = self._said()
            if "ready" in lines:
                return
            if ended or time.monotonic() > deadline:
                self.end()
                self.await_end()
                why = "\n".join(line.removeprefix(COMPLAINT) for line in lines if line.startswith(COMPLAINT))
                status = in_words(self._process.returncode)
                silent = f"it ended with {status}" if ended else f"it was not ready after {_START_S:g} s"
                raise StartError(f"{self._name} could not start: {why or '; '.join([silent, *lines[-12:]])}")
            time.sleep(_LOOK_S)

    def _said(self) -> list[str]:
        """The lines that it has written so far."""
        size = os.fstat(self._out.fileno()).st_size
        return os.pread(self._out.fileno(), size, 0).decode(errors="replace").splitlines()

    def end(self) -> None:
        """Tell it to end, as its parent's death would."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def await_end(self) -> None:
        """Return when it has ended, which is not waited for without limit."""
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._out.close()


def _environment(settings: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with these settings of Helios and no others."""
    kept = {name: value for name, value in os.environ.items() if not (name.startswith("HELIOS_") and "__" in name)}
    return kept | {variable(name): value for name, value in settings.items()}


def _written(value: object) -> str:
    """A value as a settings file would have it; a mapping, such as `security.users`, as JSON."""
    if isinstance(value, Mapping):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)
