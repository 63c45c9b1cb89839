"""Asking every router of the cluster how it fares, at the address that its session names."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import hiredis

from helios.access.request_context import visible
from helios.admin.views import RouterView
from helios.errors import StoreError
from helios.model.codec import decode
from helios.model.ids import Address
from helios.ports.records import SESSIONS, SessionRecord, list_records
from helios.ports.store import Store
from helios.resp.wire import encode_command

_ANSWER_TIMEOUT_S = 1.0
_CHUNK_BYTES = 1 << 16


async def router_views(store: Store) -> list[RouterView]:
    """Every router that has a session, by node and worker; one that does not answer within a second says so."""
    sessions = [record.value for record in await list_records(store, SessionRecord, SESSIONS)]
    views = await asyncio.gather(*map(_view, sessions))
    return sorted(views, key=lambda view: (view.node, view.worker, view.session))


async def _view(session: SessionRecord) -> RouterView:
    silent = RouterView(session.id, session.router, session.worker, answers=False, error=None)
    if not session.address:
        return replace(silent, error="its session does not say where to ask it")
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            answer = await _ask(Address.parse(session.address), session.secret)
    except (OSError, TimeoutError) as error:
        return replace(silent, error=f"it does not answer at {session.address}: {str(error) or 'time-out'}")
    except hiredis.ProtocolError as error:
        return replace(silent, error=f"what answers at {session.address} is no router: {error}")
    if not isinstance(answer, bytes):
        return replace(silent, error=f"it refuses to answer at {session.address}: {answer}")
    try:
        view = decode(RouterView, answer)
    except StoreError as error:
        return replace(silent, error=f"its answer is not understood: {error}")
    # It may have lost its session since; that is how it was found.
    return replace(view, session=session.id)


def as_seen(view: RouterView) -> RouterView:
    """The view with the names of its hot keys hidden from who may not read keys."""
    return replace(view, hot_keys=tuple(replace(one, key=visible(one.key)) for one in view.hot_keys))


async def _ask(address: Address, secret: str) -> object:
    """The reply to STATS, or the error to what came before it. Raises OSError."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(encode_command([b"AUTH", secret.encode()]) + encode_command([b"STATS"]))
        replies = hiredis.Reader()
        for last in (False, True):
            while (reply := replies.gets()) is False:
                data = await reader.read(_CHUNK_BYTES)
                if not data:
                    raise ConnectionError("it closed the connection")
                replies.feed(data)
            if last or isinstance(reply, hiredis.ReplyError):
                return reply
    finally:
        writer.close()
    raise AssertionError("the last reply is returned")
