"""`helios doctor`: what is wrong with a machine is found, and what to do is said."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.certificates import Authority
from tests.ports import free_ports
from typer.testing import CliRunner

from helios.cli.main import app
from helios.model.health import NodeHealth, NodeStatus
from helios.model.settings import Settings
from helios.node.files import DataFolder, write_json
from helios.node.locks import RunLock
from helios.node.process import ProcessId
from helios.ports.records import HEALTH, HealthRecord, put_record
from helios.runtime.backends import locate, opened_store
from helios.runtime.doctor import Machine, examine
from helios.runtime.findings import Finding, Verdict
from helios.runtime.preflight import UpOptions


def machine(folder: Path, **numbers: str) -> Machine:
    """A machine in order, but for what is given (`vm__overcommit_memory="0"`)."""
    facts = {"vm__overcommit_memory": "1", "net__core__somaxconn": "4096", "fs__inotify__max_user_instances": "128"}
    for name, number in {**facts, **numbers}.items():
        path = folder / "proc" / "sys" / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{number}\n")
    memory = "MemTotal:       8388608 kB\nMemFree:  1 kB\nMemAvailable:   4194304 kB\n"
    (folder / "proc" / "meminfo").write_text(memory)
    pages = folder / "sys" / "kernel/mm/transparent_hugepage/enabled"
    pages.parent.mkdir(parents=True, exist_ok=True)
    pages.write_text("always [madvise] never\n")
    return Machine(folder / "proc", folder / "sys")


@pytest.fixture
def port() -> int:
    return free_ports(4)


def examined(tmp_path: Path, port: int, found: Machine | None = None, **sections: object) -> dict[str, Finding]:
    settings = Settings.of({"gateway": {"listen": f"127.0.0.1:{port + 3}"}, **sections})
    options = UpOptions(shards=2, port=port)
    data = DataFolder(tmp_path / "data")
    return {f.check: f for f in examine(data, settings, options, found or machine(tmp_path))}


def test_a_machine_in_order(tmp_path: Path, port: int) -> None:
    findings = examined(tmp_path, port)
    assert {f.check for f in findings.values() if f.verdict is not Verdict.OK} <= {"open files", "disk space"}
    assert f"shard-2 127.0.0.1:{port + 1}" in findings["ports"].found
    assert findings["python"].found == ".".join(map(str, sys.version_info[:3]))
    assert list(tmp_path.glob(".helios-doctor*")) == []
    assert not (tmp_path / "data").exists()


def test_of_a_host_among_many_only_the_ports_of_its_own_nodes_count(tmp_path: Path, port: int) -> None:
    settings = Settings.of(
        {"store": {"url": f"etcd://127.0.0.1:{port + 2}/prod"}, "gateway": {"listen": f"127.0.0.1:{port}"}}
    )
    data = DataFolder(tmp_path / "data")

    def ports() -> Finding:
        findings = examine(data, settings, UpOptions(), machine(tmp_path))
        return next(finding for finding in findings if finding.check == "ports")

    with socket.create_server(("127.0.0.1", port)):
        assert (ports().verdict, ports().found) == (Verdict.OK, "no node was started here so far")
        data.node("shard-1").root.mkdir(parents=True)
        write_json(data.node("shard-1").agent, {"listen": f"127.0.0.1:{port + 1}"})
        assert (ports().verdict, ports().found) == (Verdict.OK, f"shard-1 127.0.0.1:{port + 1} (free)")
        write_json(data.node("shard-1").agent, {"listen": f"127.0.0.1:{port}"})
        assert ports().verdict is Verdict.FAIL
        assert f"shard-1: port {port}" in ports().found
        for path in (data.node("shard-1").lock, data.node("shard-1").router_lock(0)):  # an agent, or what it has left
            lock = RunLock.try_acquire(path)
            assert lock is not None
            lock.name(ProcessId.this())
            assert (ports().verdict, ports().found) == (Verdict.OK, f"shard-1 127.0.0.1:{port} (runs)")
            lock.release()


@pytest.mark.parametrize(
    ("name", "value", "check", "todo"),
    [
        ("vm__overcommit_memory", "0", "overcommit memory", "sysctl vm.overcommit_memory=1"),
        ("net__core__somaxconn", "128", "connection backlog", "sysctl net.core.somaxconn=1024"),
        ("fs__inotify__max_user_instances", "10", "file watches", "sysctl fs.inotify.max_user_instances="),
    ],
)
def test_limits_of_the_kernel(tmp_path: Path, port: int, name: str, value: str, check: str, todo: str) -> None:
    finding = examined(tmp_path, port, machine(tmp_path, **{name: value}))[check]
    assert finding.verdict is Verdict.WARN
    assert finding.todo.startswith(todo)


def test_memory_and_huge_pages(tmp_path: Path, port: int) -> None:
    found = machine(tmp_path)
    (found.sys / "kernel/mm/transparent_hugepage/enabled").write_text("[always] madvise never\n")
    findings = examined(tmp_path, port, found, atlas={"maxmemory": "3gb"})
    assert findings["huge pages"].verdict is Verdict.WARN
    assert findings["atlas.maxmemory"].verdict is Verdict.WARN
    assert findings["atlas.maxmemory"].found == "2 x 3gb of 8.0 GB"
    assert "atlas.maxmemory" not in examined(tmp_path, port)


def test_a_system_without_these_files_is_not_judged_by_them(tmp_path: Path, port: int) -> None:
    findings = examined(tmp_path, port, Machine(tmp_path / "none", tmp_path / "none"))
    assert not {"memory", "huge pages", "overcommit memory"} & findings.keys()


def test_a_port_that_is_taken_and_a_server_that_is_missing(tmp_path: Path, port: int) -> None:
    with socket.create_server(("127.0.0.1", port + 1)):
        findings = examined(tmp_path, port, atlas={"server": "/nowhere"})
    assert findings["ports"].verdict is Verdict.FAIL
    assert f"port {port + 1} on 127.0.0.1 is taken" in findings["ports"].found
    assert findings["data server"].verdict is Verdict.FAIL
    assert "/nowhere" in findings["data server"].found


def test_a_folder_that_cannot_be_written(tmp_path: Path, port: int) -> None:
    (tmp_path / "data").write_text("a file")
    finding = examined(tmp_path, port)["data folder"]
    assert finding.verdict is Verdict.FAIL
    assert "--data-dir" in finding.todo


def test_a_disk_that_is_full(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    finding = examined(tmp_path, port)["data folder"]
    assert (finding.verdict, finding.todo.partition(";")[0]) == (Verdict.FAIL, "make room on its disk")


def test_the_server_is_named_with_its_build_and_where_it_comes_from(tmp_path: Path, port: int) -> None:
    program = tmp_path / "valkey-server"
    program.write_text("#!/bin/sh\necho 'Valkey server v=8.1.0 sha=00000000:0 malloc=libc bits=64 build=1f'\n")
    program.chmod(0o755)
    found = examined(tmp_path, port, atlas={"server": str(program)})["data server"].found
    assert found == f"valkey 8.1.0 at {program}, from atlas.server (malloc=libc bits=64 build=1f)"


def test_a_folder_of_somebody_else_and_a_key_for_everybody(tmp_path: Path, port: int) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    finding = examined(tmp_path, port)["data folder"]
    assert finding.verdict is Verdict.FAIL
    assert "can be written by other users" in finding.found
    cert, key = Authority(tmp_path).issue()
    security = {"tls_cert_file": str(cert), "tls_key_file": str(key)}
    assert examined(tmp_path, port, security=security)["TLS"].verdict is Verdict.OK
    key.chmod(0o644)
    finding = examined(tmp_path, port, security=security)["TLS"]
    assert finding.verdict is Verdict.WARN
    assert finding.found == f"every user of this machine can read the TLS key {key}"
    assert finding.todo == f"chmod o-rwx {key}"


@pytest.fixture
def router(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the lock of a router of a node that has no agent."""
    folder = DataFolder(tmp_path / "data").node("shard-1")
    folder.root.mkdir(parents=True)
    write_json(folder.agent, {"listen": "127.0.0.1:1"})
    lock = RunLock.try_acquire(folder.router_lock(0))
    assert lock is not None
    process = subprocess.Popen(["sleep", "100"], pass_fds=[lock.descriptor])
    identity = ProcessId.of(process.pid)
    assert identity is not None
    lock.name(identity)
    lock.let_go()
    yield process
    process.kill()
    process.wait()


def test_what_an_earlier_run_has_left_is_named(tmp_path: Path, port: int, router: subprocess.Popen[bytes]) -> None:
    finding = examined(tmp_path, port)["processes"]
    assert finding.verdict is Verdict.WARN
    assert finding.found == f"left by an earlier run: router of shard-1 (process {router.pid})"
    os.kill(router.pid, signal.SIGSTOP)
    os.waitpid(router.pid, os.WUNTRACED)
    finding = examined(tmp_path, port)["processes"]
    assert finding.verdict is Verdict.FAIL
    assert finding.found == f"stopped by a signal: router of shard-1 (process {router.pid})"


def test_a_node_that_a_script_holds_up_is_named_while_the_cluster_runs(tmp_path: Path, port: int) -> None:
    data = DataFolder(tmp_path / "data")
    data.prepare()
    why = "its data server does not answer: a script that has written cannot be ended"
    online = NodeHealth("shard-1", NodeStatus.ONLINE, 0.0)
    stuck = NodeHealth("shard-2", NodeStatus.SUSPECT, 0.0, why)

    async def tell(*nodes: NodeHealth) -> None:
        async with opened_store(data, locate(Settings(), data)) as store:
            await store.commit([put_record(HEALTH, HealthRecord(nodes))])

    asyncio.run(tell(online, stuck))
    assert "nodes" not in examined(tmp_path, port)
    lock = RunLock.acquire(data.up_lock)
    try:
        found = examined(tmp_path, port)["nodes"]
        assert (found.verdict, found.found) == (Verdict.FAIL, f"shard-2 is suspect: {why}")
        asyncio.run(tell(online))
        assert examined(tmp_path, port)["nodes"] == Finding("nodes", Verdict.OK, "1 are online")
    finally:
        lock.release()


def test_the_command_tells_people_and_programs_and_its_exit_status(tmp_path: Path, port: int) -> None:
    words = ["doctor", "--data-dir", str(tmp_path / "data"), "--shards", "2", "--port", str(port)]
    words += ["--api-port", str(port + 3)]
    shown = CliRunner().invoke(app, [*words, "--json"])
    assert shown.exit_code == 0, shown.output
    assert {finding["verdict"] for finding in json.loads(shown.stdout)} <= {"ok", "warn"}
    with socket.create_server(("127.0.0.1", port)):
        failed = CliRunner().invoke(app, words)
    assert failed.exit_code == 1
    assert "ports: see what it says" in failed.stdout
