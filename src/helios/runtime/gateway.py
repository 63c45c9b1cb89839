"""`helios gateway`: the REST interface as a process."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import uvicorn
from fastapi import FastAPI

from helios.admin.client import Admin
from helios.api.app import create_app
from helios.api.request_timeout import PatientProtocol
from helios.api.server import RestServer
from helios.errors import StartError
from helios.model.ids import Address
from helios.model.notation import is_loopback
from helios.model.settings import Settings
from helios.node.agent import CHILD
from helios.node.files import DataFolder
from helios.node.locks import LockHeld, RunLock
from helios.node.ports import resolve, taken
from helios.node.process import ProcessId
from helios.node.waiting import drop, together, unless
from helios.node.workers import READY
from helios.ports.following import once_answered
from helios.ports.location import StoreLocation
from helios.ports.store import Store
from helios.router.core import Router
from helios.runtime.agreement import disagreements, shared_now
from helios.runtime.backends import connector, locate, opened_store
from helios.runtime.clock import SystemClock
from helios.runtime.identity import read_key, settle_identity
from helios.runtime.lifecycle import run, tell
from helios.runtime.logs import adjust_logging, start_logging
from helios.runtime.reach import Reach, once_resolved, reach
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
    location = locate(settings, data)
    if not location.spans_hosts and not location.exists():
        check_exposed((), {"the REST interface": settings.gateway.listen.host})
    data.prepare()
    try:
        lock = RunLock.acquire(data.gateway_lock, {CHILD: "yes" if child else "no"})
    except LockHeld as error:
        who = f"process {error.holder.process.pid}" if error.holder else "another process"
        raise StartError(f"a gateway already runs on {data.root} ({who}): end it first") from error
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
    async with AsyncExitStack() as stack:
        found: list[_Begun] = []

        async def begin() -> None:
            found.append(await _begin(read, data, stack))

        if not await unless(stop, begin()):
            return
        (begun,) = found
        store, router, settings = begun.store, begun.router, begun.settings
        jobs = [follow_settings(store, settings, router, node=NODE, inspected=begun.inspected)]
        if source is not None:
            for sentence in disagreements(settings.cluster, read):
                tell(sentence)
            jobs.append(Reloader(source, read, store, SystemClock(), who=_WHO, tell=tell).run(reload))
        server = RestServer(_config(_app(store, router, settings), begun.tls))
        jobs.append(_name_when_ready(lock, server, router, child=source is None))
        await _answer(server, begun.sockets, stop, jobs)


@dataclass(frozen=True, slots=True)
class _Begun:
    """What a gateway answers requests with."""

    store: Store
    settings: Settings
    router: Router
    inspected: Reach
    tls: ssl.SSLContext | None
    sockets: Sequence[socket.socket]


async def _begin(read: SettingsRead, data: DataFolder, stack: AsyncExitStack) -> _Begun:
    """Wait for the store, and open all that is closed with the stack. Raises StartError or StoreError."""
    listen = read.settings.gateway.listen
    await once_resolved(listen.host, tell)
    location = locate(read.settings, data)
    inspected = reach(location, listen)
    tls = await stack.enter_async_context(serving_tls(read.settings.security))
    store = await stack.enter_async_context(opened_store(data, location, tell=tell))
    settings = await once_answered(lambda: _agreed(store, location, read, data), tell)
    adjust_logging(settings.logging)
    # Not before: clients would wait for as long as the store is away.
    sockets = _listening(listen)
    for each in sockets:
        stack.callback(each.close)
    router = await stack.enter_async_context(
        opened_router(store, settings, data, node=NODE, host=listen.host, inspected=inspected)
    )
    check_exposed(router.authenticator.users.values(), {"the REST interface": listen.host})
    return _Begun(store, settings, router, inspected, tls, sockets)


async def _agreed(store: Store, location: StoreLocation, read: SettingsRead, data: DataFolder) -> Settings:
    """The settings as the cluster has them, once it is sure that folder and key are of that."""
    founder = "" if location.spans_hosts else _WHO
    await settle_identity(store, data, location, SystemClock(), read_key(read.settings.security), founder=founder)
    return await shared_now(store, read.settings)


def _app(store: Store, router: Router, settings: Settings) -> FastAPI:
    async def health() -> list[str]:
        reason = router.reason()
        return [reason] if reason else []

    admin = Admin(store, connector(store, settings), SystemClock())
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


async def _name_when_ready(lock: RunLock, server: RestServer, router: Router, *, child: bool) -> None:
    """Tell who looks at the lock that requests are served now."""
    while True:
        if server.started and router.reason() is None:
            lock.name(ProcessId.this(), {CHILD: "yes" if child else "no", READY: "yes"})
            return
        await asyncio.sleep(_READY_POLL_S)


async def _answer(
    server: RestServer, sockets: Sequence[socket.socket], stop: asyncio.Event, jobs: list[Coroutine[Any, Any, None]]
) -> None:
    """Answer requests, and do the jobs beside that, until `stop` is set."""
    serving = asyncio.create_task(server.serve(sockets=list(sockets)))
    beside = [asyncio.create_task(stop.wait()), asyncio.create_task(together(jobs))]
    try:
        await asyncio.wait({serving, *beside}, return_when=asyncio.FIRST_COMPLETED)
        server.end()
        await serving
    finally:
        await drop([serving, *beside])


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
