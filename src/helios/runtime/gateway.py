"""`helios gateway`: the REST interface as a process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Coroutine, Iterator
from typing import Any

import uvicorn
from fastapi import FastAPI

from helios.admin.client import Admin
from helios.api.app import create_app
from helios.api.request_timeout import PatientProtocol
from helios.errors import StartError
from helios.model.ids import Address
from helios.model.notation import is_loopback
from helios.model.settings import Settings
from helios.node.agent import CHILD
from helios.node.files import DataFolder
from helios.node.locks import LockHeld, RunLock
from helios.node.ports import resolve, taken
from helios.node.process import ProcessId
from helios.node.waiting import drop, together
from helios.node.workers import READY
from helios.ports.store import Store
from helios.router.core import Router
from helios.runtime.agreement import disagreements, shared_now
from helios.runtime.backends import connector, locate, opened_store
from helios.runtime.clock import SystemClock
from helios.runtime.lifecycle import run, tell
from helios.runtime.logs import adjust_logging, start_logging
from helios.runtime.reload import Reloader
from helios.runtime.router import follow_settings, opened_router
from helios.runtime.security import check_exposed, serving_tls
from helios.runtime.settings import SettingsRead, SettingsSource, data_folder

NODE = "gateway"  # by which its router goes

_WHO = "helios gateway"
_GRACE_S = 2
_BACKLOG = 1024
_READY_POLL_S = 0.05


def run_gateway(read: SettingsRead, source: SettingsSource | None, *, child: bool = False) -> None:
    """Serve REST at `gateway.listen` until told to stop. Raises StartError or StoreError.

    With a `source` of its own, and not as a child of `helios up`, it follows its settings file.
    """
    settings = read.settings
    data = DataFolder(data_folder(settings))
    if not locate(settings, data).exists():
        check_exposed((), {"the REST interface": settings.gateway.listen.host})
    data.prepare()
    try:
        lock = RunLock.acquire(data.gateway_lock, {CHILD: "yes" if child else "no"})
    except LockHeld as held:
        who = f"process {held.holder.process.pid}" if held.holder else "another process"
        raise StartError(f"a gateway already runs on {data.root} ({who}): end it first") from held
    try:
        start_logging(settings.logging, data.log("gateway"))
        reload = asyncio.Event()
        run(
            lambda stop: _serve(read, None if child else source, data, lock, stop, reload),
            parent_pipe=child,
            reload=reload,
        )
    finally:
        lock.release()


async def _serve(
    read: SettingsRead,
    source: SettingsSource | None,
    data: DataFolder,
    lock: RunLock,
    stop: asyncio.Event,
    reload: asyncio.Event,
) -> None:
    listen = read.settings.gateway.listen
    sockets = _listening(listen)
    try:
        async with serving_tls(read.settings.security) as tls, opened_store(data, locate(read.settings, data)) as store:
            settings = await shared_now(store, read.settings)
            adjust_logging(settings.logging)
            async with opened_router(store, settings, node=NODE, host=listen.host) as router:
                check_exposed(router.authenticator.users.values(), {"the REST interface": listen.host})
                jobs = [follow_settings(store, settings, router, node=NODE)]
                if source is not None:
                    for sentence in disagreements(settings.cluster, read):
                        tell(sentence)
                    jobs.append(Reloader(source, read, store, SystemClock(), who=_WHO, tell=tell).run(reload))
                server = _Server(_config(_app(store, router, settings), tls))
                jobs.append(_name_when_ready(lock, server, router, child=source is None))
                await _answer(server, sockets, stop, jobs)
    finally:
        for each in sockets:
            each.close()


def _app(store: Store, router: Router, settings: Settings) -> FastAPI:
    async def health() -> list[str]:
        reason = router.reason()
        return [reason] if reason else []

    admin = Admin(store, connector(store), SystemClock())
    return create_app(
        admin,
        router,
        health,
        allowed_hosts=_names(settings.gateway.listen),
        authenticator=router.authenticator,
        open_metrics=settings.security.open_metrics,
        warnings=admin.warnings,
    )


def _config(app: FastAPI, tls: ssl.SSLContext | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=PatientProtocol,
        log_config=None,
        lifespan="off",
        timeout_graceful_shutdown=_GRACE_S,
        ws="none",
        ssl_context_factory=(lambda _config, _default: tls) if tls is not None else None,
    )


async def _name_when_ready(lock: RunLock, server: uvicorn.Server, router: Router, *, child: bool) -> None:
    """Tell who looks at the lock that requests are served now."""
    while True:
        if server.started and router.reason() is None:
            lock.name(ProcessId.this(), {CHILD: "yes" if child else "no", READY: "yes"})
            return
        await asyncio.sleep(_READY_POLL_S)


async def _answer(
    server: uvicorn.Server, sockets: list[socket.socket], stop: asyncio.Event, jobs: list[Coroutine[Any, Any, None]]
) -> None:
    """Answer requests, and do the jobs beside that, until `stop` is set."""
    serving = asyncio.create_task(server.serve(sockets=sockets))
    beside = [asyncio.create_task(stop.wait()), asyncio.create_task(together(jobs))]
    try:
        await asyncio.wait({serving, *beside}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
    finally:
        await drop([serving, *beside])


class _Server(uvicorn.Server):
    """uvicorn's server, with signals left to this process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Take no signals over: `stop` is what ends this server."""
        yield


def _names(listen: Address) -> list[str] | None:
    """The host names that a gateway for this machine alone goes by; None (any) for one that others reach."""
    return [listen.host.lower(), "localhost", "127.0.0.1", "::1"] if is_loopback(listen.host) else None


def _listening(listen: Address) -> list[socket.socket]:
    """Sockets that listen at the address; raises StartError where it is taken."""
    reason = taken(listen.host, listen.port)
    if reason:
        raise StartError(f"{reason}: choose another one for the REST interface, or end that process")
    opened: list[socket.socket] = []
    for family, address in resolve(listen.host, listen.port):
        try:
            opened.append(socket.create_server(address, family=family, backlog=_BACKLOG))
        except OSError as error:
            # A name such as localhost may stand for an address that this machine does not have.
            if error.errno != errno.EADDRNOTAVAIL:
                raise StartError(f"cannot listen on {listen}: {error.strerror}") from error
    return opened
