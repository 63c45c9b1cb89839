"""The data server behind a node: started once, adopted after the agent's death, never started twice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import hiredis

from helios.errors import EngineUnreachable, StartError
from helios.model.ids import Address
from helios.model.sections import AofFsync
from helios.node.files import NodeFolder, read_json, write_json, write_private
from helios.node.locks import RunLock, holder_of
from helios.node.ports import choose_member_port, taken
from helios.node.probe import Reply, ask
from helios.node.process import Process, ProcessId, size_of, start_process, tail
from helios.node.server import ADMIN_USER, ServerConfig, ServerProgram, find_server, listen_backlog, render
from helios.ports.records import MemberRecord

logger = logging.getLogger(__name__)

_POLL_S = 0.02
_ANSWER_S = 30.0  # a server that loads answers at once that it does; this is for one that says nothing at all
_FREE_S = 20.0
STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """What an agent is told of the data server that it is to run. `listen` is the node's own address."""

    id: str
    node: str
    listen: Address
    fsync: AofFsync = AofFsync.INTERVAL
    maxmemory_bytes: int = 0
    server: str = ""
    host: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class MemberState:
    """What is remembered of a data server in its node's folder. `started`: it has once come up with its data.

    `server` is the program that ran last, for people: which one runs next, the folder does not say.
    """

    id: str
    port: int
    password: str
    server: str = ""
    version: str = ""
    started: bool = False


class MemberServer:
    """One data server process, its folder and what is remembered of it."""

    def __init__(self, spec: MemberSpec, folder: NodeFolder, logs: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.log = logs
        self.process: Process | None = None
        self.state = _read_state(folder.member_state, spec.id)

    @property
    def address(self) -> Address:
        """Where the server listens."""
        return Address(self.spec.host, self._known.port)

    def record(self) -> MemberRecord:
        """How to reach and administer the server, for the store."""
        return MemberRecord(self.spec.id, self.spec.node, self.address, ADMIN_USER, self._known.password)

    def __str__(self) -> str:
        return f"{self._known.version} at {self.address}"

    @property
    def _known(self) -> MemberState:
        assert self.state is not None, "the server has been prepared"
        return self.state

    @property
    def _lock_path(self) -> Path:
        return self.folder.member / "member.lock"

    def has_data(self) -> bool:
        """Whether the folder holds what the server writes at its first start."""
        return any((self.folder.member / "appendonlydir").glob("*.manifest"))

    def check_data(self, needed: bool) -> None:
        """Raise StartError if starting would bring up an empty server in place of one that had data."""
        if needed and not self.has_data():
            raise StartError(
                f"the data of {self.spec.id} is gone from {self.folder.member}, and the cluster counts on it: "
                "put the folder back (from a backup); an empty server is not started in its place"
            )

    async def start(self, *, needed: bool) -> None:
        """Start the server, or adopt the one that already runs on this data, and wait until it serves.

        Loading takes as long as it takes. Raises StartError. If this is cancelled, `process` is what runs.
        """
        self.folder.member.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = RunLock.try_acquire(self._lock_path)
        if lock is None and await self._adopt():
            return
        if lock is None:
            # The server is dead, but a child of it that rewrites its log lives on for a while.
            lock = await RunLock.wait(self._lock_path, _FREE_S)
        if lock is None:
            raise StartError(f"another process still uses the data of {self.spec.id} in {self.folder.member}")
        try:
            self.check_data(needed)
            program = self._choose_program()
            config = self._prepare(program)
            seen = size_of(self.log)
            self.process = start_process(
                [str(program.path), str(config.path)],
                log=self.log,
                cwd=self.folder.member,
                keep_fds=[lock.descriptor],
            )
            # From here on the server holds the lock, whatever becomes of this process.
            lock.name(self.process.id)
        finally:
            lock.let_go()
        logger.info(
            "member started: member=%s pid=%d port=%d server=%s", self.spec.id, self.process.pid, config.port, program
        )
        await self._wait_ready(seen)
        if not self._known.started:
            self._remember(replace(self._known, started=True))

    async def _adopt(self) -> bool:
        holder = holder_of(self._lock_path)
        if self.state is None:
            if holder is None:
                return False
            raise StartError(
                f"process {holder.process.pid} serves the data of {self.spec.id}, but {self.folder.member_state} "
                f"with its password is gone: put the file back, or end the process"
            )
        process = holder.process if holder else await self._who_answers()
        if process is None:
            return False
        self.process = Process(process)
        await self._wait_ready(size_of(self.log))
        await self._apply_live_settings()
        logger.info("member adopted: member=%s pid=%d port=%d", self.spec.id, process.pid, self._known.port)
        return True

    async def _who_answers(self) -> ProcessId | None:
        """The server by its own word, where an agent died before it could write the process's name down."""
        try:
            [_, info] = await self._ask([["INFO", "server"]])
        except EngineUnreachable:
            return None
        fields = dict(line.split(":", 1) for line in _text(info).splitlines() if ":" in line)
        said = fields.get("process_id", "")
        return ProcessId.of(int(said)) if said.isdecimal() else None

    async def retune(self, fsync: AofFsync, maxmemory_bytes: int) -> None:
        """Let the server write its log and use memory in this way from now on, also after a restart."""
        self.spec = replace(self.spec, fsync=fsync, maxmemory_bytes=maxmemory_bytes)
        if self.state is not None:
            await self._apply_live_settings()

    async def _apply_live_settings(self) -> None:
        commands = [["CONFIG", "SET", name, value] for name, value in self._config().live.items()]
        with contextlib.suppress(EngineUnreachable):
            await self._ask(commands)

    def _choose_program(self) -> ServerProgram:
        return find_server(self.spec.server, self.state.version if self.state else "")

    def _prepare(self, program: ServerProgram) -> ServerConfig:
        state = self.state or MemberState(self.spec.id, 0, secrets.token_hex(32))
        if state.port == 0 or taken(self.spec.host, state.port):
            port = choose_member_port(self.spec.listen, self.spec.host)
            if state.port:
                logger.warning("member port taken: member=%s port=%d instead=%d", self.spec.id, state.port, port)
            state = replace(state, port=port)
        self._remember(replace(state, server=str(program.path), version=str(program)))
        config = self._config()
        write_private(config.path, render(config))
        return config

    def _config(self) -> ServerConfig:
        return ServerConfig(
            folder=self.folder.member,
            log=self.log,
            host=self.spec.host,
            port=self._known.port,
            password=self._known.password,
            fsync=self.spec.fsync,
            maxmemory_bytes=self.spec.maxmemory_bytes,
            backlog=listen_backlog(),
        )

    def _remember(self, state: MemberState) -> None:
        if state != self.state:
            write_json(self.folder.member_state, asdict(state))
            self.state = state

    async def _ask(self, commands: Sequence[Sequence[str]]) -> list[Reply]:
        return await ask(self.address, commands, user=ADMIN_USER, password=self._known.password)

    async def _wait_ready(self, log_seen: int) -> None:
        """Wait until the server answers PING and has loaded its data."""
        assert self.process is not None, "there is a process to wait for"
        ended = asyncio.ensure_future(self.process.wait())
        try:
            ready = asyncio.ensure_future(self._ready())
            try:
                await asyncio.wait({ended, ready}, return_when=asyncio.FIRST_COMPLETED)
                if ready.done():
                    await ready
                    return
                raise StartError(self._end_in_words(log_seen))
            finally:
                ready.cancel()
        finally:
            ended.cancel()

    async def _ready(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ANSWER_S
        while True:
            reason = "says nothing"
            try:
                [auth, pong] = await self._ask([["PING"]])
                if pong == b"PONG" or pong == "PONG":
                    return
                reason = f"answers {_text(pong)!r}"
                if reason.startswith("answers 'LOADING"):
                    deadline = loop.time() + _ANSWER_S
                elif isinstance(auth, hiredis.ReplyError):
                    raise StartError(
                        f"the server at {self.address} does not know the administrator of {self.spec.id} "
                        f"({_text(auth)}): another server answers there"
                    )
            except EngineUnreachable as error:
                reason = str(error)
            if loop.time() > deadline:
                raise StartError(f"the server of {self.spec.id} does not come up: {reason}; its log is {self.log}")
            await asyncio.sleep(_POLL_S)

    def _end_in_words(self, log_seen: int) -> str:
        assert self.process is not None, "there was a process"
        status = self.process.status
        how = "" if status is None else f" (killed by signal {-status})" if status < 0 else f" (exit status {status})"
        shown = tail(self.log, after=log_seen)
        says = f"; its log {self.log} ends:\n{shown}" if shown else f"; see {self.log}"
        return f"the data server of {self.spec.id} ended while it was starting{how}{says}"

    async def answers(self) -> bool:
        """Whether the server says anything at all, be it that it is busy or loads."""
        try:
            await self._ask([["PING"]])
        except EngineUnreachable:
            return False
        return True

    async def stop(self) -> None:
        """End the server; it writes out what it holds first. Returns when it is gone."""
        if self.process is not None:
            await self.process.stop(STOP_S)
            logger.info("member stopped: member=%s pid=%d", self.spec.id, self.process.pid)
            self.process = None


def _read_state(path: Path, member_id: str) -> MemberState | None:
    value = read_json(path)
    if value is None:
        return None
    try:
        state = MemberState(**value)
    except TypeError as error:
        raise StartError(f"{path} does not hold what Helios wrote there ({error})") from error
    if state.id != member_id:
        raise StartError(f"{path} belongs to {state.id}, not to {member_id}: one folder serves one member")
    return state


def _text(reply: Reply) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)


def member_of(folder: NodeFolder) -> Process | None:
    """The data server that runs on this node's data now, if its process is known."""
    holder = holder_of(folder.member / "member.lock")
    return Process(holder.process) if holder else None


def described(folder: NodeFolder) -> str:
    """A node's data server for people: its program and port, as last started."""
    value = read_json(folder.member_state) or {}
    return f"{value.get('version', 'unknown')}, port {value.get('port', '?')}"
