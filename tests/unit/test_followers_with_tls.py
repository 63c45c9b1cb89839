"""Servers tell the addresses of those that follow them without a word of TLS."""

from __future__ import annotations

import pytest

from helios.model.ids import Address
from helios.router.upstream.rounds import _standing

STATE = (
    "# Replication\r\nrole:master\r\nconnected_slaves:1\r\n"
    "slave0:ip=127.0.0.1,port=7001,state=online,offset=14,lag=0\r\n"
    f"master_replid:{'a' * 40}\r\nmaster_repl_offset:14\r\n"
)


@pytest.mark.parametrize("tls", [False, True])
def test_who_follows_a_leader_with_tls_speaks_it_too(tls: bool) -> None:
    replies = [b":0\r\n", b"*3\r\n$6\r\nmaster\r\n:14\r\n*0\r\n", b":1\r\n", f"${len(STATE)}\r\n{STATE}\r\n".encode()]
    standing = _standing(replies, tls=tls)
    assert standing is not None
    assert standing.followers == {Address("127.0.0.1", 7001, tls)}
