"""A data server of a node: started once, adopted after the agent's death, never started twice."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import secrets
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import hiredis

from helios.errors import EngineUnreachable, StartError
from helios.model.ids import Address, is_replica
from helios.model.passwords import derived
from helios.model.sections import AofFsync
from helios.node.files import MemberFolder, write_private
from helios.node.locks import RunLock, holder_of
from helios.node.member_state import MemberState, member_of, read_state, write_state
from helios.node.ports import choose_member_port, inward_host, taken
from helios.node.probe import Line, Reply, ask
from helios.node.process import Process, ProcessId, size_of, start_process, tail
from helios.node.server import (
    ADMIN_USER,
    NO_TLS,
    REPLICA_DATABASES,
    ServerConfig,
    ServerProgram,
    ServerTls,
    find_server,
    listen_backlog,
    render,
    speaks_tls,
)
from helios.node.sockets import fits
from helios.ports.records import MemberRecord
from helios.resp.info import info_fields

logger = logging.getLogger(__name__)

_POLL_S = 0.02
_ANSWER_S = 30.0  # a server that loads answers at once that it does; this is for one that says nothing at all
_FREE_S = 20.0
STOP_S = 10.0
_CROWDED = 0.5  # of a server's places, of which Helios itself takes few
_FULL = "max number of clients"


@dataclass(frozen=True, slots=True)
class MemberSpec:
    """What an agent is told of a data server that it is to run. `port` is taken if it is free; 0 leaves it open.

    The server listens on `host`, and other hosts reach it by `reached_by`, the node's clients reach that at `clients`.
    With the cluster's `key` its password comes of that. With a certificate in `tls` it speaks TLS, if it can, and
    `known_servers` makes what it is known by.
    """

    id: str
    node: str
    port: int
    fsync: AofFsync = AofFsync.INTERVAL
    maxmemory_bytes: int = 0
    server: str = ""
    host: str = "127.0.0.1"
    reached_by: str = "127.0.0.1"
    clients: Address | None = None
    key: bytes = field(default=b"", repr=False)
    tls: ServerTls = NO_TLS
    known_servers: Callable[[], ssl.SSLContext] = ssl.create_default_context


class EndedWhileStarting(StartError):
    """A data server ended by itself before it served; it may be unable to load its files."""


class MemberServer:
    """One data server process, its folder and what is remembered of it."""

    def __init__(self, spec: MemberSpec, folder: MemberFolder, log: Path) -> None:
        self.spec = spec
        self.folder = folder
        self.log = log
        self.process: Process | None = None
        self.state = read_state(folder.state, spec.id)
        self.crowded = False  # others than Helios take many of its places
        self._leads = True
        self._line: Line | None = None

    @property
    def address(self) -> Address:
        """Where the server answers this process."""
        return Address(inward_host(self.spec.host), self._known.port, self._known.tls)

    def record(self) -> MemberRecord:
        """How to reach and administer the server, for the store."""
        known = self._known
        address = Address(self.spec.reached_by, known.port, known.tls)
        password = "" if known.salt else known.password
        run = "" if self.process is None else f"{self.process.pid}@{self.process.id.started}"
        return MemberRecord(
            self.spec.id, self.spec.node, address, ADMIN_USER, password, known.salt, self.spec.clients, run
        )

    def __str__(self) -> str:
        return f"{self._known.version} at {Address(self.spec.reached_by, self._known.port, self._known.tls)}"

    @property
    def _known(self) -> MemberState:
        assert self.state is not None, "the server has been prepared"
        return self.state

    def has_data(self) -> bool:
        """Whether the folder holds what the server writes at its first start."""
        return any((self.folder.root / "appendonlydir").glob("*.manifest"))

    def check_data(self, needed: bool) -> None:
        """Raise StartError if starting would bring up an empty server in place of one that had data."""
        if needed and not self.has_data():
            raise StartError(
                f"the data of {self.spec.id} is gone from {self.folder.root}, and the cluster counts on it: "
                "put the folder back (from a backup); an empty server is not started in its place"
            )

    async def start(self, *, needed: bool, leads: bool = True) -> None:
        """Start the server, or adopt the one that already runs on this data, and wait until it serves.

        Unless it `leads`, it takes no writes and follows nobody until it is told to. Loading takes as long as it
        takes. Raises StartError. If this is cancelled, `process` is what runs.
        """
        try:
            await self._start(needed=needed, leads=leads)
        except OSError as error:
            remedy = "make room there" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
            reason = error.strerror or error
            raise StartError(
                f"the files of {self.spec.id} in {self.folder.root} cannot be written ({reason}): {remedy}"
            ) from error

    async def _start(self, *, needed: bool, leads: bool) -> None:
        self._leads = leads
        self.folder.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = RunLock.try_acquire(self.folder.lock)
        if lock is None and await self._adopt():
            return
        if lock is None:
            # The server is dead, but a child of it that rewrites its log lives on for a while.
            lock = await RunLock.wait(self.folder.lock, _FREE_S)
        if lock is None:
            raise StartError(f"another process still uses the data of {self.spec.id} in {self.folder.root}")
        try:
            self.check_data(needed)
            program = self._choose_program()
            config = self._prepare(program)
            seen = size_of(self.log)
            self.process = start_process(
                [str(program.path), str(config.path)],
                log=self.log,
                cwd=self.folder.root,
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
        holder = holder_of(self.folder.lock)
        if self.state is None:
            if holder is None:
                return False
            raise StartError(
                f"process {holder.process.pid} serves the data of {self.spec.id}, but {self.folder.state} "
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
        said = _info(info).get("process_id", "")
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
        if self.spec.key and not state.salt:
            salt = secrets.token_hex(16)
            state = replace(state, salt=salt, password=derived(self.spec.key, salt, state.id))
        if state.port == 0 or taken(self.spec.host, state.port):
            port = choose_member_port(self.spec.host, self.spec.port)
            if state.port:
                logger.warning("member port taken: member=%s port=%d instead=%d", self.spec.id, state.port, port)
            state = replace(state, port=port)
        tls = self.spec.tls.cert is not None and speaks_tls(program)
        self._remember(replace(state, server=str(program.path), version=str(program), tls=tls))
        config = self._config()
        write_private(config.path, render(config))
        return config

    def _config(self) -> ServerConfig:
        return ServerConfig(
            folder=self.folder.root,
            log=self.log,
            host=self.spec.host,
            port=self._known.port,
            password=self._known.password,
            fsync=self.spec.fsync,
            maxmemory_bytes=self.spec.maxmemory_bytes,
            backlog=listen_backlog(),
            socket=self.folder.socket if fits(self.folder.socket) else None,
            reached_by=self.spec.reached_by,
            leads=self._leads,
            databases=REPLICA_DATABASES if is_replica(self.spec.id) else 1,
            tls=self.spec.tls if self._known.tls else None,
        )

    def _remember(self, state: MemberState) -> None:
        if state != self.state:
            write_state(self.folder.state, state)
            self.state = state

    def remember_epoch(self, epoch: int) -> None:
        """Write down under which topology the server has been started."""
        self._remember(replace(self._known, epoch=epoch))

    def port_taken(self) -> bool:
        """Whether somebody else listens where the server would."""
        return taken(self.spec.host, self._known.port) is not None

    async def discard(self) -> None:
        """Delete the server's files, while it does not run. Raises StartError if that cannot be done."""
        if not self.folder.root.is_dir():
            return
        lock = await RunLock.wait(self.folder.lock, _FREE_S)
        if lock is None:
            raise StartError(f"another process still uses the data of {self.spec.id} in {self.folder.root}")
        try:
            await asyncio.to_thread(self.folder.discard)
        except OSError as error:
            raise StartError(f"{self.folder.root} cannot be deleted: {error}") from error
        finally:
            lock.let_go()

    async def remove(self) -> None:
        """End the server, whoever has started it, and delete its files and what is remembered of it."""
        if self.process is None:
            self.process = member_of(self.folder)
        await self.stop()
        await self.discard()
        self.folder.state.unlink(missing_ok=True)
        self.state = None

    async def _ask(self, commands: Sequence[Sequence[str]]) -> list[Reply]:
        password, tls = self._known.password, self.spec.known_servers
        return await ask(self.address, commands, user=ADMIN_USER, password=password, tls=tls)

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
                    await self.answers()  # on a connection that stays, while there is a place for it
                    return
                killed = (self.process.status or 0) < 0
                raise (StartError if killed else EndedWhileStarting)(self._end_in_words(log_seen))
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
                # One that follows nobody yet, or has lost whom it follows, says no more than that.
                if pong == b"PONG" or pong == "PONG" or _text(pong).startswith("MASTERDOWN"):
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
        """Whether the server says anything at all, be it that it is busy or loads, or full.

        Those who take its places without a login are ended where they take too many: nobody but Helios can log in.
        """
        if self._line is None or self._line.address != self.address:
            self._close_line()
            self._line = Line(self.address, self.spec.known_servers)
        again = self._line.open  # it may lead to a process that is gone
        try:
            try:
                await self._look(self._line)
            except EngineUnreachable:
                if not again:
                    raise
                await self._look(self._line)
        except EngineUnreachable as error:
            return _FULL in str(error)
        return True

    async def _look(self, line: Line) -> None:
        login = [] if line.open else [["AUTH", ADMIN_USER, self._known.password]]
        *_, clients = await line.ask([*login, ["INFO", "clients"]])
        self.crowded = _part_taken(clients) > _CROWDED
        if self.crowded:
            await line.ask([["CLIENT", "KILL", "USER", "default", "SKIPME", "yes"]])

    def _close_line(self) -> None:
        if self._line is not None:
            self._line.close()

    async def stop(self) -> None:
        """End the server; it writes out what it holds first. Returns when it is gone."""
        self._close_line()
        if self.process is not None:
            await self.process.stop(STOP_S)
            logger.info("member stopped: member=%s pid=%d", self.spec.id, self.process.pid)
            self.process = None


def _part_taken(clients: Reply) -> float:
    """How many of its places a server has given away, by its INFO."""
    fields = _info(clients)
    counts = [fields.get(name, "") for name in ("connected_clients", "maxclients")]
    return int(counts[0]) / max(1, int(counts[1])) if all(map(str.isdecimal, counts)) else 0.0


def _info(reply: Reply) -> dict[str, str]:
    """The fields of INFO; none where a server answers with an error."""
    return info_fields(reply) if isinstance(reply, bytes) else {}


def _text(reply: Reply) -> str:
    return reply.decode("utf-8", "replace") if isinstance(reply, bytes) else str(reply)
