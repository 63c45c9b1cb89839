"""A router's connection to a data server, below everything that is sent over it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from helios.router._fast_path import Lease
from helios.router.upstream.connection import Wire


async def test_what_a_server_has_not_got_when_the_connection_is_given_up_does_not_reach_it_later() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        _, wire = await loop.create_connection(
            lambda: Wire(Lease(lambda: 0.0), 1 << 20), "127.0.0.1", listener.getsockname()[1]
        )
        peer, _ = listener.accept()
        with peer:
            assert wire.transport is not None
            wire.transport.write(b"x" * (64 << 20))  # more than the system takes before the peer reads
            wire.abort("it was given up")
            await asyncio.sleep(0)  # for the loop to close it
            with pytest.raises(ConnectionResetError):
                while peer.recv(1 << 20):
                    pass
