"""A cluster of Helios whose nodes are on hosts of their own, with etcd on each: as docs/MANY_MACHINES.md sets it up."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import shlex
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.cluster import HELIOS
from tests.hosts.idle_time import idle_s
from tests.hosts.network import Host, Network, made_network
from tests.ledger import Ledger

from helios.model.ids import Address
from helios.model.passwords import hashed
from helios.node.files import DataFolder
from helios.node.locks import holder_of
from helios.node.process import ProcessId

PORT = 6379
LOGIN = ("boss", "an-open-secret")
PROGRAMS = {"helios": HELIOS, "helios-cli": (str(Path(sys.executable).with_name("helios-cli")),)}
GUIDE = Path(__file__).parents[2] / "docs" / "MANY_MACHINES.md"
LIMIT_S = 60.0
HEALED_S = 10.0  # after which everything serves again, of time in which the machine is not busy
_PATIENCE_S = 3.0

# Short leases, so that a test need not wait long for their end.
_CONFIG = """\
security:
  users:
    boss: {{role: admin, password_hash: "{hash}"}}
sharding:
  auto_rebalance: true
  migration_rate: 0
  replication_factor: {copies}
replication:
  durability: quorum
  reads: linearizable
  failover_timeout: {failover_s:g}s
coordinator:
  fence_ack_timeout: 3s
router:
  session_ttl: 4s
"""
FAILOVER_S = 2.0  # how long a member may be silent
_ETCD_HOSTS = 3


class HostsCluster:
    """What a test knows of it."""

    def __init__(self, network: Network, folder: Path, copies: int) -> None:
        self.hosts = network.hosts
        self.etcd_hosts = network.hosts[:_ETCD_HOSTS]
        self.subnet = network.subnet
        self.folder = folder
        self.config = folder / "sharded-cluster.yaml"
        password = hashed(LOGIN[1].encode(), b"sixteen bytes ok")
        self.config.write_text(_CONFIG.format(hash=password, copies=copies, failover_s=FAILOVER_S))
        self.processes: dict[tuple[str, str], subprocess.Popen[bytes]] = {}

    # --- setting it up ---

    def start_etcd(self, host: Host) -> None:
        """Run etcd on a host, or run it again; a host that has none stays without."""
        if host not in self.etcd_hosts:
            return
        client, peer = f"http://{host.etcd_address}:2379", f"http://{host.etcd_address}:2380"
        peers = ",".join(f"{each.name}=http://{each.etcd_address}:2380" for each in self.etcd_hosts)
        words = ["etcd", "--name", host.name, "--data-dir", str(host.folder / "etcd")]
        words += ["--listen-client-urls", client, "--advertise-client-urls", client]
        words += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", peers]
        self.processes[host.name, "etcd"] = host.start(words, "etcd.log")

    def found(self) -> None:
        """`helios init` on the first host, and the key's file carried to the others."""
        first = self.hosts[0]
        done = first.run(self.shown(first, "helios init"))
        assert done.returncode == 0, done.stderr
        assert "founded the cluster" in done.stdout
        for host in self.hosts[1:]:
            shutil.copy(first.folder / "cluster.key", host.folder / "cluster.key")

    def start_node(self, host: Host) -> None:
        """`helios node` on a host."""
        words = self.shown(host, f"helios node --id {self.node(host)}")
        self.processes[host.name, "node"] = host.start(words, "node.log")

    def add_node(self, host: Host) -> None:
        """Take a node that runs into the cluster, from the first host."""
        first = self.hosts[0]
        done = first.run(
            self.shown(first, f"helios-cli -h 10.0.0.1 --user boss addnode {self.node(host)}", host), 120.0
        )
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.logs()}"

    def shown(self, host: Host, beginning: str, about: Host | None = None) -> list[str]:
        """The command that the guide shows and that begins so, as it is typed on a host, perhaps about another one."""
        guide, last = GUIDE.read_text(encoding="utf-8"), (about or host).number
        if last > 3:  # it shows three hosts: a fourth one is set up as the third
            guide = guide.replace("shard-3", f"shard-{last}").replace("10.0.0.3", f"10.0.0.{last}")
        lines = guide.splitlines()
        exports = [line.removeprefix("export ") for line in lines if line.startswith("export ")]
        command = next(line for line in lines if line.startswith(beginning))
        program, *words = shlex.split(command)
        here = {
            "/etc/helios/sharded-cluster.yaml": str(self.config),
            "/etc/helios/cluster.key": str(host.folder / "cluster.key"),
            "/var/lib/helios": str(host.folder / "data"),
        }
        typed = ["env", f"HELIOS_PASSWORD={LOGIN[1]}", *exports, *PROGRAMS[program], *words]
        if program == "helios":
            here[f"10.0.0.{host.number}:"] = f"{host.address}:"
        here["10.0.0."] = f"{self.subnet}."
        for there, mine in here.items():
            typed = [word.replace(there, mine) for word in typed]
        return typed

    def node(self, host: Host) -> str:
        """The id of a host's node."""
        return host.name.replace("host", "shard")

    def power_on(self, host: Host) -> None:
        """What its system would start when it boots."""
        host.plug()
        self.start_etcd(host)
        self.start_node(host)

    def part(self, host: Host, *, from_etcd_only: bool = False) -> None:
        """Let nothing pass between a host and the others, or their etcd; clients reach all of them."""
        for other in self.hosts:
            if other is not host:
                host.mute(*self._addresses(other, from_etcd_only))
                other.mute(*self._addresses(host, from_etcd_only))

    def join(self, host: Host, *, from_etcd_only: bool = False) -> None:
        """The end of that."""
        for other in self.hosts:
            if other is not host:
                host.unmute(*self._addresses(other, from_etcd_only))
                other.unmute(*self._addresses(host, from_etcd_only))

    def _addresses(self, host: Host, of_etcd_only: bool) -> list[str]:
        return [host.etcd_address] if of_etcd_only else [host.address, host.etcd_address]

    # --- asking it ---

    def client(self, host: Host) -> redis.Redis:
        """A client of one node, from outside. It repeats nothing by itself."""
        return redis.Redis(
            host=host.address,
            port=PORT,
            username=LOGIN[0],
            password=LOGIN[1],
            socket_timeout=_PATIENCE_S,
            socket_connect_timeout=_PATIENCE_S,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
        )

    def command(self, host: Host, *words: str, timeout_s: float = LIMIT_S) -> object:
        """The reply of a node to one command. Raises redis.RedisError."""
        with self.client(host) as client:
            client.connection_pool.connection_kwargs["socket_timeout"] = timeout_s
            return client.execute_command(*words)

    def empty(self) -> None:
        """No node has a key; a connection to a host that was cut off in the meantime may refuse that at first."""

        def emptied() -> bool:
            try:
                return self.command(self.hosts[0], "FLUSHALL") is True
            except redis.ResponseError:
                return False

        self.until(emptied, "every node is emptied")

    def cli(self, host: Host, *words: str, timeout_s: float = 120.0) -> str:
        """What `helios-cli` prints on a host."""
        argv = [*PROGRAMS["helios-cli"], "-h", host.address, "--user", LOGIN[0], *words]
        done = host.run(["env", f"HELIOS_PASSWORD={LOGIN[1]}", *argv], timeout_s)
        assert done.returncode == 0, f"{' '.join(words)}: {done.stdout}{done.stderr}"
        return done.stdout

    def serves(self, host: Host) -> bool:
        """Whether the node reads and writes keys of every shard."""
        try:
            with self.client(host) as client:
                return all(client.set(f"probe:{number}", "x") for number in range(20))
        except redis.RedisError:
            return False

    def wait_serving(self) -> None:
        """Soon, every node serves every key."""
        with ThreadPoolExecutor(len(self.hosts)) as threads:
            # list raises what a thread has raised.
            list(threads.map(lambda host: self.until(lambda: self.serves(host), f"{host.name} serves"), self.hosts))

    def wait_healed(self) -> None:
        """Within ten seconds, every node serves every key again."""
        began, began_idle = time.monotonic(), idle_s()
        self.wait_serving()
        took_s, idle = time.monotonic() - began, idle_s() - began_idle
        print(f"all serves again {took_s:.1f} s after healing, in which the machine rested {idle:.1f} s")
        assert idle <= HEALED_S, f"it took {took_s:.1f} s, {idle:.1f} of them at rest\n{self.logs()}"

    def wait_refusing(self, host: Host) -> None:
        """Soon, the node says that its lease has ended."""

        def refuses() -> bool:
            try:
                self.command(host, "GET", "probe:1", timeout_s=_PATIENCE_S)
            except redis.RedisError as error:
                return "has no lease" in str(error)
            return False

        self.until(refuses, f"{host.name} says that it has no lease")

    def wait_clean(self) -> None:
        """Soon, the cluster's own check finds nothing and every migration has ended."""

        def clean() -> bool:
            try:
                said = json.loads(self.cli(self.hosts[0], "--json", "check"))
                moving = json.loads(self.cli(self.hosts[0], "--json", "activemigrations"))
            except (AssertionError, ValueError):
                return False
            return bool(said["clean"]) and not moving["migrations"]

        self.until(clean, "the check is clean", limit_s=2 * LIMIT_S)

    def until(self, condition: Callable[[], bool], what: str, limit_s: float = LIMIT_S) -> None:
        """Return when the condition holds."""
        deadline = time.monotonic() + limit_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {limit_s:g} s: {what}\n{self.logs()}"
            time.sleep(0.1)

    def etcd_leader(self) -> Host:
        """The host whose etcd leads, as soon as one does."""
        leaders: list[Host] = []

        def found() -> bool:
            leaders.extend(host for host in self.etcd_hosts if self._leads(host))
            return bool(leaders)

        self.until(found, "etcd has a leader")
        return leaders[0]

    def _leads(self, host: Host) -> bool:
        request = urllib.request.Request(f"http://{host.etcd_address}:2379/v3/maintenance/status", data=b"{}")
        try:
            with urllib.request.urlopen(request, timeout=2) as answer:
                status = json.load(answer)
        except (OSError, urllib.error.URLError):
            return False
        # A cluster that has no leader says nothing of one.
        return bool(status.get("leader")) and status["leader"] == status["header"]["member_id"]

    def etcd_healthy(self) -> bool:
        """Whether etcd answers with a majority."""
        for host in self.etcd_hosts:
            with contextlib.suppress(OSError, urllib.error.URLError):
                return b'"true"' in urllib.request.urlopen(f"http://{host.etcd_address}:2379/health", timeout=2).read()
        return False

    def routers(self, host: Host) -> list[ProcessId]:
        """The routers of a host."""
        folder = DataFolder(host.folder / "data").node(self.node(host))
        holders = [holder_of(path) for _, path in folder.router_locks()]
        return [holder.process for holder in holders if holder]

    def coordinator(self) -> Host:
        """The host whose node coordinates, as soon as one does and etcd says which."""
        found: list[Host] = []

        def known() -> bool:
            with contextlib.suppress(OSError):  # etcd may be electing
                record = self.stored("coordinator") or {}
                found.extend(host for host in self.hosts if self.node(host) == record.get("node"))
            return bool(found)

        self.until(known, "there is a coordinator")
        return found[0]

    def stored(self, key: str) -> dict[str, object] | None:
        """A record as it stands in etcd, None if there is none."""
        url = f"http://{self.etcd_leader().etcd_address}:2379/v3/kv/range"
        body = json.dumps({"key": base64.b64encode(f"/prod//{key}".encode()).decode()})
        with urllib.request.urlopen(urllib.request.Request(url, data=body.encode()), timeout=5) as answer:
            found = json.load(answer).get("kvs", [])
        record = json.loads(base64.b64decode(found[0]["value"])) if found else None
        assert record is None or isinstance(record, dict)
        return record

    def ledger(self, seed: int) -> Ledger:
        """Writers on all hosts that note what was acknowledged."""
        places = [Address(host.address, PORT) for host in self.hosts]
        return Ledger(places, seed=seed, pause_s=0.01, login=LOGIN, patience_s=_PATIENCE_S, label=f":{seed}")

    def shards(self, host: Host) -> dict[str, str]:
        """Each shard with the node that leads it, as a node says; "" where none does. Raises redis.RedisError."""
        said = self.command(host, "LISTSHARDS", timeout_s=_PATIENCE_S)
        assert isinstance(said, list), said
        return {view["id"]: view["leader_node"] for view in said}

    def led_on(self, host: Host) -> list[str]:
        """The shards that are led on a host; waits until every shard is led."""
        found: dict[str, str] = {}

        def all_led() -> bool:
            with contextlib.suppress(redis.RedisError):
                found.update(self.shards(self.hosts[0]))
            return bool(found) and all(found.values())

        self.until(all_led, "every shard has a leader")
        return sorted(shard for shard, node in found.items() if node == self.node(host))

    def key_of(self, shard: str) -> str:
        """A key that the shard owns, unless keys move."""
        for number in itertools.count():
            said = self.command(self.hosts[0], "NODEFORKEY", f"beat:{number}")
            assert isinstance(said, dict), said
            if said["node_id"] == shard:
                return f"beat:{number}"
        raise AssertionError("there is no end of keys")

    def logs(self) -> str:
        """The ends of all logs, for a failing test."""
        paths = [path for host in self.hosts for path in sorted(host.folder.rglob("*.log"))]
        return "\n".join(
            f"== {path.relative_to(self.folder)}\n{path.read_text(errors='replace')[-1500:]}" for path in paths
        )


@contextmanager
def running_hosts(folder: Path, count: int = 3, *, copies: int = 1) -> Iterator[HostsCluster]:
    """A cluster whose nodes serve, each on a host of its own; at the end nothing of it is left."""
    with made_network(count, folder) as network:
        cluster = HostsCluster(network, folder, copies)
        for host in cluster.etcd_hosts:
            cluster.start_etcd(host)
        cluster.until(cluster.etcd_healthy, "etcd elects a leader")
        cluster.found()
        first, *others = cluster.hosts
        cluster.start_node(first)
        cluster.until(lambda: cluster.serves(first), "the first node serves")
        for host in others:
            cluster.start_node(host)
        for host in others:
            log = host.folder / "node.log"
            cluster.until(lambda log=log: "ready\n" in log.read_text(), f"{host.name} is ready")  # type: ignore[misc]
            cluster.add_node(host)
        cluster.wait_serving()
        yield cluster


@asynccontextmanager
async def broken(
    cluster: HostsCluster, breaking: Callable[[], object], healing: Callable[[], object]
) -> AsyncIterator[None]:
    """What is done to the cluster at the beginning of the block, and undone at its end: then everything serves soon."""
    await asyncio.to_thread(breaking)
    try:
        yield
    finally:
        await asyncio.to_thread(healing)
    await asyncio.to_thread(cluster.wait_healed)
