"""A folder in which the commands of a document run as in a clone of the repository, on ports of their own.

What is changed between the document and what runs, and nothing else:

- `make up` is what the Makefile makes of it, `helios up`; a test of its own holds the Makefile to that.
- Ports: those of the documents become free ones, and back again in what is printed. `helios-cli` without --port
  finds its port in HELIOS_PORT; `helios up` gets --port and --api-port.
- Paths: the data folder is named by --data-dir, and /home/you/helios/helios-data in what is printed.
- `.venv/bin` is where the Python of the test run is; `valkey-server` is the program that Helios would start.

Commands that stay in the foreground (`helios up`, `helios node`, `valkey-server`) run beside the others from when they
are ready. The same command once more means that the reader has pressed Ctrl-C and starts it again.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.cluster import Cluster, HeliosProcess
from tests.docs.console import ROOT, Block, Step, difference
from tests.ports import free_ports
from tests.servers import start_valkey

from helios.node.server import find_server

_STEP_S = 60.0
_MOVES_S = 60.0
_UP = ("make", "up")
_DATA = "/home/you/helios/helios-data"


class Workplace:
    """Runs blocks of commands one after the other."""

    def __init__(self, cluster: Cluster, stack: ExitStack) -> None:
        self._cluster = cluster
        self._stack = stack
        self._folder = cluster.folder / "clone"
        node_port = free_ports(1)
        self._ports = {6379 + number: port for number, port in enumerate(cluster.resp_ports)}
        self._ports |= {8443: cluster.api_port, 6382: node_port}
        self._ports |= {port + 10_000: real + 10_000 for port, real in self._ports.items() if 6379 <= port <= 6382}
        self._running: dict[str, HeliosProcess] = {}
        self._env = self._prepare()

    def run(self, block: Block) -> None:
        """Run a block; fails where a command fails or prints something else than the document shows."""
        if block.after_moves:
            self._await_moves()
        for step in block.steps:
            where = f"{block.document}:{step.line}: $ {step.command}"
            printed = self._foreground(step)
            if printed is None:
                result = self._command(step.command)
                assert result.returncode == block.status, f"{where}\nended with {result.returncode}:\n{result.stdout}"
                printed = result.stdout
            if not block.output_differs:
                differs = difference(step.output, self._as_documented(printed))
                assert not differs, f"{where}\n{differs}"

    def _prepare(self) -> Mapping[str, str]:
        programs = self._folder / ".venv" / "bin"
        programs.mkdir(parents=True)
        (programs / "activate").write_text("")
        (programs / "valkey-server").symlink_to(find_server().path)
        for name in ("examples", "configs"):
            (self._folder / name).symlink_to(ROOT / name)
        path = os.pathsep.join([str(Path(sys.executable).parent), str(programs), os.environ["PATH"]])
        return {**os.environ, "PATH": path, "HELIOS_PORT": str(self._ports[6379]), "TZ": "UTC"}

    def _command(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-o", "pipefail", "-c", self._as_here(command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_STEP_S,
            cwd=self._folder,
            env=self._env,
            check=False,
        )

    def _foreground(self, step: Step) -> str | None:
        """Start a command that stays in the foreground; what it has printed when it is ready. None for any other."""
        words = tuple(shlex.split(self._as_here(step.command)))
        if words[0] == "valkey-server":
            assert words[1:] == ("--port", "6390"), "the only way in which the documents start one"
            self._ports[6390] = self._stack.enter_context(start_valkey(self._cluster.folder / "legacy")).port
            return ""
        if words[:2] not in (_UP, ("helios", "node")):
            return None
        if step.command in self._running:
            status = self._running.pop(step.command).terminate()
            assert status == 0, f"{step.command} ended with {status} on Ctrl-C"
        process = self._cluster.begin() if words[:2] == _UP else self._cluster.helios(*words[1:])
        self._running[step.command] = process
        process.wait_ready()
        return process.out

    def _await_moves(self) -> None:
        deadline = time.monotonic() + _MOVES_S
        while self._cluster.command("ACTIVEMIGRATIONS"):
            assert time.monotonic() < deadline, "the moves do not end"
            time.sleep(0.1)

    def _as_here(self, command: str) -> str:
        return _replaced(r"\b\d{4,5}\b", command, self._ports)

    def _as_documented(self, printed: str) -> str:
        printed = printed.replace(str(self._cluster.data_dir), _DATA)
        # Other numbers, such as counts of keys, may happen to be the same as a port.
        return _replaced(r"((?<=\w:)|(?<=port ))\d{4,5}\b", printed, {real: port for port, real in self._ports.items()})


def _replaced(pattern: str, text: str, numbers: Mapping[int, int]) -> str:
    return re.sub(pattern, lambda found: str(numbers.get(int(found[0]), found[0])), text)


@contextmanager
def workplace(tmp_path: Path, env: Mapping[str, str] | None = None) -> Iterator[Workplace]:
    """A workplace in which nothing runs yet; at the end nothing runs any more. Prints logs if the block fails."""
    cluster = Cluster(tmp_path, 3, env, [])
    with ExitStack() as stack:
        stack.callback(cluster.clean_up)
        try:
            yield Workplace(cluster, stack)
        except BaseException:
            print(cluster.logs())
            raise
