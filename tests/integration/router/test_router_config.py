"""CONFIG SET of what servers call a parameter and Helios a setting of the cluster."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator

import pytest
import redis
from tests.routers import Client, RawClient, RouterLab
from tests.servers import Server

from helios.admin.client import Admin
from helios.engines.valkey.connector import ValkeyConnector
from helios.resp.wire import encode_command

pytestmark = pytest.mark.processes
SHARDS = ("shard-1",)


@pytest.fixture
async def lab(servers: dict[str, Server]) -> AsyncIterator[RouterLab]:
    made = RouterLab(servers)
    made.router.admin = Admin(made.store, ValkeyConnector(), made.clock)
    async with made.running():
        yield made


@pytest.fixture
def admin(lab: RouterLab) -> Admin:
    return Admin(lab.store, ValkeyConnector(), lab.clock)


@pytest.mark.parametrize(
    ("parameter", "value", "told", "setting", "held"),
    [
        ("slowlog-log-slower-than", "20000", "20000", "router.slowlog_threshold", "20ms"),
        ("SLOWLOG-LOG-SLOWER-THAN", "0", "1", "router.slowlog_threshold", "0.001ms"),
        ("slowlog-log-slower-than", "-1", "-1", "router.slowlog_threshold", "0s"),
        ("slowlog-max-len", "7", "7", "router.slowlog_length", "7"),
        ("slowlog-max-len", "0", "0", "router.slowlog_length", "0"),
        ("maxclients", "77", "77", "router.max_clients", "77"),
        ("timeout", "70", "70", "router.client_idle_timeout", "70s"),
        ("tcp-keepalive", "60", "60", "router.tcp_keepalive", "1m"),
    ],
)
async def test_a_parameter_that_is_a_setting_can_be_set(
    raw: RawClient, admin: Admin, parameter: str, value: str, told: str, setting: str, held: str
) -> None:
    assert await raw.ask("CONFIG", "SET", parameter, value) == b"+OK\r\n"
    raw.send("CONFIG", "GET", parameter.lower())
    await raw.exactly(encode_command([parameter.lower().encode(), told.encode()]))
    assert (await admin.setting(setting)).value == held
    (*_, change) = await admin.setting_history()
    assert re.fullmatch(r"somebody at 127\.0\.0\.1:\d+ \(CONFIG SET\)", change.by)


async def test_the_slow_log_goes_by_what_was_set(client: Client) -> None:
    await client.config_set("slowlog-log-slower-than", 0)
    await client.set("k", "v")
    assert any(b"SET k v" in str(entry["command"]).encode() for entry in await client.slowlog_get())


async def test_what_a_router_carries_out_itself_is_logged_and_counted_with_all_its_time(
    client: Client, raw: RawClient
) -> None:
    await client.config_resetstat()
    await client.config_set("slowlog-log-slower-than", 0)
    assert await raw.ask("AUTH", "default", "a-secret") == b"+OK\r\n"
    assert await raw.ask("HELLO", "2", "AUTH", "default", "a-secret") != b""
    assert await client.keys("nosuch*") == []
    with pytest.raises(redis.ResponseError):
        await client.config_set("maxclients", "x")
    log = await client.execute_command("SLOWLOG", "GET", "-1")
    ((took_us, address),) = [entry[2:5:2] for entry in log if entry[3] == [b"KEYS", b"nosuch*"]]
    assert address.startswith(b"127.0.0.1:")
    assert "a-secret" not in repr(log)
    stats = await client.info("commandstats")
    assert stats["cmdstat_keys"]["calls"] == 1
    assert abs(stats["cmdstat_keys"]["usec"] - took_us) <= 1
    assert stats["cmdstat_config|set"]["failed_calls"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("maxclients x", "CONFIG SET failed (possibly related to argument 'maxclients') - argument couldn't be parsed"),
        ("slowlog-max-len -1", "router.slowlog_length"),
        ("maxclients 5 timeout 7", "'CONFIG SET' is refused: the servers' settings are the cluster's"),
        ("maxmemory 100mb", "'CONFIG SET' is refused: "),
        ("timeout", "wrong number of arguments for 'config|set' command"),
    ],
)
async def test_what_cannot_be_set_is_said(client: Client, words: str, message: str) -> None:
    with pytest.raises(redis.ResponseError, match=re.escape(message)):
        await client.execute_command("CONFIG SET", *words.split())
