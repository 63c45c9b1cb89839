"""Asking every router of the cluster how it fares, at the address that its session names."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import hiredis

from helios.access.request_context import may, visible
from helios.access.rights import Need, without_arguments
from helios.admin.router_views import RouterView, SlowCommandsView, SlowCommandView
from helios.errors import StoreError
from helios.model.codec import decode
from helios.model.ids import Address
from helios.ports.records import SESSIONS, SessionRecord, list_records
from helios.ports.store import Store
from helios.resp.wire import encode_command

_ANSWER_TIMEOUT_S = 1.0
_CHUNK_BYTES = 1 << 16

T = TypeVar("T")


async def router_views(store: Store) -> list[RouterView]:
    """Every router that has a session, by node and worker; one that does not answer within a second says so."""
    views = await asyncio.gather(*map(_view, await _sessions(store)))
    return sorted(views, key=lambda view: (view.node, view.worker, view.session))


async def _view(session: SessionRecord) -> RouterView:
    view = await _answer(session, RouterView, b"STATS")
    if isinstance(view, str):
        return RouterView(session.id, session.router, session.worker, answers=False, error=view)
    # It may have lost its session since; that is how it was found.
    return replace(view, session=session.id)


def as_seen(view: RouterView) -> RouterView:
    """The view with the names of its hot keys hidden from who may not read keys."""
    return replace(view, hot_keys=tuple(replace(one, key=visible(one.key)) for one in view.hot_keys))


async def slow_commands(store: Store, count: int) -> SlowCommandsView:
    """The last slow commands of all routers as who asks may see them."""
    sessions = await _sessions(store)
    answers = await asyncio.gather(
        *(_answer(session, SlowCommandsView, b"SLOW", b"%d" % count) for session in sessions)
    )
    found = [slow for answer in answers if not isinstance(answer, str) for slow in answer.commands]
    found.sort(key=lambda slow: slow.at, reverse=True)
    missing = sorted(
        f"{session.router} worker {session.worker}: {answer}"
        for session, answer in zip(sessions, answers, strict=True)
        if isinstance(answer, str)
    )
    return SlowCommandsView(tuple(map(_slow_as_seen, found[:count])), tuple(missing))


def _slow_as_seen(slow: SlowCommandView) -> SlowCommandView:
    if may(Need.READ):
        return slow
    shown = without_arguments([word.encode() for word in slow.arguments])
    return replace(slow, arguments=tuple(word.decode() for word in shown))


async def _sessions(store: Store) -> list[SessionRecord]:
    return [record.value for record in await list_records(store, SessionRecord, SESSIONS)]


async def _answer(session: SessionRecord, kind: type[T], *words: bytes) -> T | str:
    """What a router says to a question, or why it says nothing."""
    if not session.address:
        return "its session does not say where to ask it"
    try:
        async with asyncio.timeout(_ANSWER_TIMEOUT_S):
            answer = await _ask(Address.of_server(session.address), session.secret, words)
    except (OSError, TimeoutError) as error:
        return f"it does not answer at {session.address}: {str(error) or 'time-out'}"
    except hiredis.ProtocolError as error:
        return f"what answers at {session.address} is no router: {error}"
    if not isinstance(answer, bytes):
        return f"it refuses to answer at {session.address}: {answer}"
    try:
        return decode(kind, answer)
    except StoreError as error:
        return f"its answer is not understood: {error}"


async def _ask(address: Address, secret: str, words: Sequence[bytes]) -> object:
    """The reply to the question, or the error to what came before it. Raises OSError."""
    reader, writer = await asyncio.open_connection(address.host, address.port)
    try:
        writer.write(encode_command([b"AUTH", secret.encode()]) + encode_command(words))
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
