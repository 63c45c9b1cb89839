"""`helios gateway`: the REST interface as a process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator

import uvicorn

from helios.admin.client import Admin
from helios.api.app import create_app
from helios.errors import StartError
from helios.model.ids import Address
from helios.model.settings import Settings, is_loopback
from helios.node.agent import CHILD
from helios.node.files import DataFolder
from helios.node.locks import LockHeld, RunLock
from helios.node.ports import resolve, taken
from helios.node.waiting import drop
from helios.runtime.backends import connector, opened_store
from helios.runtime.clock import SystemClock
from helios.runtime.life import run
from helios.runtime.logs import start_logging
from helios.runtime.router import opened_router
from helios.runtime.settings import data_folder

_GRACE_S = 2
_BACKLOG = 1024


def run_gateway(settings: Settings, *, child: bool = False) -> None:
    """Serve REST at `gateway.listen` until told to stop. Raises StartError or StoreError."""
    data = DataFolder(data_folder(settings))
    data.prepare()
    try:
        lock = RunLock.acquire(data.gateway_lock, {CHILD: "yes" if child else "no"})
    except LockHeld as held:
        who = f"process {held.holder.process.pid}" if held.holder else "another process"
        raise StartError(f"a gateway already runs on {data.root} ({who}): end it first") from held
    try:
        start_logging(settings.logging, data.log("gateway"))
        run(lambda stop: _serve(settings, data, stop, child=child), parent_pipe=child)
    finally:
        lock.release()


async def _serve(settings: Settings, data: DataFolder, stop: asyncio.Event, *, child: bool) -> None:
    listen = settings.gateway.listen
    sockets = _listening(listen)
    try:
        async with opened_store(data) as store, opened_router(store, settings, node="gateway") as router:
            admin = Admin(store, connector(store), SystemClock())

            async def health() -> list[str]:
                reason = router.reason()
                return [reason] if reason else []

            app = create_app(admin, router, health, allowed_hosts=_names(listen))
            server = _Server(
                uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=_GRACE_S, ws="none")
            )
            serving = asyncio.create_task(server.serve(sockets=sockets))
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
                server.should_exit = True
                await serving
            finally:
                await drop([serving, stopped])
    finally:
        for each in sockets:
            each.close()


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
