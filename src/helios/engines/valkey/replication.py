"""Servers that follow servers: what they say of it, and how they are told to.

A server that is detached follows NOBODY.
"""

from __future__ import annotations

import asyncio
import secrets
from dataclasses import replace

from helios.engines.valkey.connection import Connection, ErrorReply, Reply, connect
from helios.errors import EngineError
from helios.model.ids import Address
from helios.ports.engine import NOBODY, ROUND_CHANNEL, Follower, Replication
from helios.resp.info import info_fields

_STATE = ("INFO", "replication", "persistence")
_LEAD = ("REPLICAOF", "NO", "ONE")
_DETACH = ("REPLICAOF", NOBODY.host, NOBODY.port)
_BEGIN_HISTORY_S = 5.0
_LOOK_EVERY_S = 0.01


async def replication(connection: Connection, timeout_s: float) -> Replication:
    """What the server is to other servers."""
    return _read(connection, info_fields(await connection.execute(*_STATE, timeout_s=timeout_s)))


async def follow(
    connection: Connection, leader: Address, user: str | None, password: str | None, timeout_s: float
) -> None:
    """Make the server follow a leader that it logs in to as `user`; without a password, as nobody in particular."""
    login = ("masteruser", "" if password is None else user or "default", "masterauth", password or "")
    await connection.execute("CONFIG", "SET", *login, timeout_s=timeout_s)
    await connection.execute("REPLICAOF", leader.host, leader.port, timeout_s=timeout_s)


async def forget_login(connection: Connection, timeout_s: float) -> None:
    """Have the server know a password that is nobody's; without any it would come as the leader's default user."""
    await connection.execute("CONFIG", "SET", "masterauth", secrets.token_hex(24), timeout_s=timeout_s)


async def detach(connection: Connection, timeout_s: float) -> Replication:
    """Make the server follow nobody. What it says then is read behind that, when nothing comes in any more."""
    done, said = await connection.execute_many([_DETACH, _STATE], timeout_s=timeout_s)
    return _read(connection, info_fields(_good(connection, _good(connection, done) and said)))


async def promote(connection: Connection, timeout_s: float) -> Replication:
    """Make the server lead, under a history that stays."""
    done, said = await connection.execute_many([_LEAD, _STATE], timeout_s=timeout_s)
    fields = info_fields(_good(connection, _good(connection, done) and said))
    return _read(connection, fields if _keeps_history(fields) else await _begin_history(connection, timeout_s))


async def round_of(connection: Connection, count: int, timeout_s: float, grace_s: float) -> int:
    """How many followers have all that was executed before; a WAIT covers what its own connection has written.

    `grace_s` is for the answer to come when the server has waited for `timeout_s`.
    """
    wait_ms = max(1, round(timeout_s * 1000))  # 0 would be for ever
    published, acknowledged = await connection.execute_many(
        [("SPUBLISH", ROUND_CHANNEL, b""), ("WAIT", count, wait_ms)], timeout_s=timeout_s + grace_s
    )
    _good(connection, published)
    return int(_good(connection, acknowledged))


async def _begin_history(connection: Connection, timeout_s: float) -> dict[str, str]:
    """Have a leader that nobody has followed since its start begin its history now, not when somebody does.

    A server does so for its first follower. One is played to it, which has gone before a copy is made for it.
    """
    delay = (await connection.execute("CONFIG", "GET", "repl-diskless-sync-delay", timeout_s=timeout_s)).values()
    follower = await connect(connection.endpoint, timeout_s=timeout_s)
    asking: asyncio.Future[list[Reply]] | None = None
    try:
        await connection.execute("CONFIG", "SET", "repl-diskless-sync-delay", 60, timeout_s=timeout_s)
        # A server refuses PSYNC while the answer to anything before it is on the way.
        await follower.execute("REPLCONF", "capa", "eof", "capa", "psync2", timeout_s=timeout_s)
        asking = asyncio.ensure_future(follower.execute_many([("PSYNC", "?", -1)]))
        async with asyncio.timeout(_BEGIN_HISTORY_S):
            while True:
                fields = info_fields(await connection.execute(*_STATE, timeout_s=timeout_s))
                if _keeps_history(fields):
                    return fields
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError:
        raise EngineError(
            f"{connection.endpoint} leads, but does not begin a history that others could follow"
        ) from None
    finally:
        await follower.close()
        if asking is not None:
            asking.cancel()
            await asyncio.wait([asking])
        await connection.execute("CONFIG", "SET", "repl-diskless-sync-delay", *delay, timeout_s=timeout_s)


def _good(connection: Connection, reply: Reply) -> Reply:
    if isinstance(reply, ErrorReply):
        raise connection.failure(reply, "a change of whom it follows, or a question of that")
    return reply


def _keeps_history(fields: dict[str, str]) -> bool:
    """Whether its id stays: with a first follower a server begins a new history, and the backlog that goes with it."""
    return fields["repl_backlog_active"] == "1"


def _read(connection: Connection, fields: dict[str, str]) -> Replication:
    """What the server says. Where it speaks TLS those that it follows, and that follow it, do, too."""
    tls = connection.endpoint.address.tls
    leads = fields["role"] == "master"
    offset = int(fields["master_repl_offset"])
    # A follower whose whole copy is about to replace what it has, or has failed to, tells two different offsets.
    known = (
        _keeps_history(fields) and fields["loading"] == "0" and (leads or int(fields["slave_repl_offset"]) == offset)
    )
    former_end = int(fields["second_repl_offset"]) - 1
    leader = None if leads else Address(fields["master_host"], int(fields["master_port"]))
    if leader is not None:
        leader = None if leader == NOBODY else replace(leader, tls=tls)
    followers = (value for name, value in fields.items() if name[:5] == "slave" and name[5:].isdecimal())
    return Replication(
        leads=leads,
        history=fields["master_replid"] if known else "",
        offset=offset,
        former_history=fields["master_replid2"] if known and former_end >= 0 else "",
        former_end=max(0, former_end) if known else 0,
        leader=leader,
        in_sync=leads or (fields["master_link_status"] == "up" and fields["master_sync_in_progress"] == "0"),
        followers=tuple(_follower(value, tls=tls) for value in followers) if leads else (),
    )


def _follower(line: str, *, tls: bool) -> Follower:
    """The server in a line such as `ip=127.0.0.1,port=6380,state=online,offset=14,lag=1`."""
    said = dict(field.partition("=")[::2] for field in line.split(","))
    address = Address(said["ip"], int(said["port"]), tls)
    # A leader says online of one that still loads its copy, too; that has acknowledged nothing.
    online = said["state"] == "online" and said["offset"] != "0"
    return Follower(address, int(said["offset"]), float(said["lag"]), online)
