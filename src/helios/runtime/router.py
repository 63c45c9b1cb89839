"""One router worker of a node as a process, which its agent starts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from helios import __version__
from helios.access.authenticator import Authenticator
from helios.access.publishing import following_users
from helios.admin.client import Admin
from helios.engines.valkey.snapshot import ValkeySnapshots
from helios.errors import StartError
from helios.model.durability import Durability, durabilities_of
from helios.model.ids import Address
from helios.model.notation import is_loopback
from helios.model.sections import Reads
from helios.model.settings import Settings
from helios.node.files import DataFolder
from helios.node.locks import LockHeld, RunLock
from helios.node.process import ProcessId
from helios.node.sockets import socket_of
from helios.node.waiting import unless
from helios.node.workers import FINGERPRINT, READY
from helios.ports.following import once_answered
from helios.ports.store import Store
from helios.resp.wire import Limits
from helios.router.core import Router
from helios.router.options import RouterOptions
from helios.runtime.agreement import follow, shared_now
from helios.runtime.backends import connector, locate, opened_store
from helios.runtime.clock import SystemClock
from helios.runtime.files import clients_that_fit
from helios.runtime.lifecycle import run
from helios.runtime.logs import adjust_logging, start_logging
from helios.runtime.reach import Reach, reach
from helios.runtime.security import known_servers, server_tls, serving_tls
from helios.runtime.settings import data_folder

logger = logging.getLogger(__name__)

_LOCAL = Reach()


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """What the agent says. `fingerprint` tells the next agent whether this worker is as it would start it."""

    node_id: str
    listen: Address
    worker: int
    fingerprint: str
    advertise: Address | None = None


def router_options(settings: Settings, node: str, worker: int = 0, inspected: Reach = _LOCAL) -> RouterOptions:
    """The part of the settings that a router knows, in its own words."""
    router = settings.router
    return RouterOptions(
        node=node,
        worker=worker,
        version=__version__,
        inspected_host=inspected.host,
        inspected_at=inspected.by,
        session_ttl_s=router.session_ttl,
        hold_timeout_s=router.hold_timeout,
        member_timeout_s=router.server_timeout,
        quorum=settings.replication.durability is Durability.QUORUM,
        quorum_by_key=tuple(
            (pattern, durability is Durability.QUORUM)
            for pattern, durability in durabilities_of(settings.replication.durability_by_key)
        ),
        linearizable=settings.replication.reads is Reads.LINEARIZABLE,
        ack_timeout_s=settings.replication.ack_timeout,
        max_staleness_s=settings.replication.max_staleness,
        login_timeout_s=settings.security.login_timeout,
        handshake_timeout_s=settings.security.tls_handshake_timeout,
        server_tls=known_servers(server_tls(settings.atlas)),
        limits=Limits(router.max_arguments, bulk_bytes=router.max_frame, frame_bytes=2 * router.max_frame),
        reply_bytes=router.max_reply,
        clients=clients_that_fit(router.max_clients),
        reserved_clients=router.reserved_clients,
        clients_of_user=router.max_clients_per_user,
        clients_of_host=router.max_clients_per_address,
        client_bytes=router.client_memory,
        clients_bytes=router.clients_memory,
        transaction_commands=router.transaction_commands,
        transaction_bytes=router.transaction_memory,
        dedicated=router.max_lines,
        idle_timeout_s=router.client_idle_timeout,
        command_timeout_s=router.client_command_timeout,
        keepalive_s=router.tcp_keepalive,
        slow_s=router.slowlog_threshold,
        slow_entries=router.slowlog_length,
    )


@asynccontextmanager
async def opened_router(
    store: Store,
    settings: Settings,
    data: DataFolder,
    *,
    node: str,
    host: str,
    worker: int = 0,
    inspected: Reach = _LOCAL,
) -> AsyncIterator[Router]:
    """A router that has started and lets in the users of the store, ended at the end. Raises StartError or StoreError.

    `host` is where clients reach it: other machines' are let in as users alone. `inspected`: where the cluster's
    administration does.
    """
    clock, engines = SystemClock(), connector(store, settings)
    authenticator = Authenticator(exposed=not is_loopback(host))
    router = Router(
        store,
        engines,
        Admin(store, engines, clock, ValkeySnapshots(engines)),
        clock,
        router_options(settings, node, worker, inspected),
        authenticator,
        partial(socket_of, data),
    )
    async with following_users(store, authenticator):
        await router.start()
        try:
            yield router
        finally:
            await router.stop()


async def follow_settings(
    store: Store, settings: Settings, router: Router, *, node: str, worker: int = 0, inspected: Reach = _LOCAL
) -> None:
    """For ever: let the router and this process's log take up what changes of the shared settings."""
    await follow(
        store,
        settings,
        lambda now: router.configure(router_options(now, node, worker, inspected)),
        lambda now: adjust_logging(now.logging),
    )


def run_router(options: WorkerOptions, settings: Settings) -> None:
    """Route clients' commands until told to stop. Raises StartError or StoreError."""
    data = DataFolder(data_folder(settings))
    note = {FINGERPRINT: options.fingerprint}
    try:
        lock = RunLock.acquire(data.node(options.node_id).router_lock(options.worker), note)
    except LockHeld as error:
        raise StartError(f"router {options.worker} of {options.node_id} runs already") from error
    except OSError as error:
        raise StartError(f"the folder of {options.node_id} in {data.root} cannot be used: {error.strerror}") from error
    try:
        start_logging(settings.logging, data.log(f"{options.node_id}-router-{options.worker}"))
        run(lambda stop: _serve(options, settings, data, lock, stop))
    finally:
        lock.release()


async def _serve(
    options: WorkerOptions, settings: Settings, data: DataFolder, lock: RunLock, stop: asyncio.Event
) -> None:
    me = ProcessId.this()

    async def serve() -> None:
        host, port = options.listen.host, options.listen.port
        location = locate(settings, data)
        inspected = reach(location, options.listen, options.advertise)
        async with serving_tls(settings.security) as tls, opened_store(data, location, tell=logger.warning) as store:
            current = await once_answered(lambda: shared_now(store, settings), logger.warning)
            adjust_logging(current.logging)
            async with opened_router(
                store, current, data, node=options.node_id, host=host, worker=options.worker, inspected=inspected
            ) as router:
                await router.serve(host, port, reuse_port=True, tls=tls)
                if tls is not None and settings.security.plain_port_offset:
                    await router.serve(host, port + settings.security.plain_port_offset, reuse_port=True)
                lock.name(me, {FINGERPRINT: options.fingerprint, READY: "yes"})
                await follow_settings(
                    store, current, router, node=options.node_id, worker=options.worker, inspected=inspected
                )
                await asyncio.Event().wait()  # the store was closed, which the end of this process does

    await unless(stop, serve())
