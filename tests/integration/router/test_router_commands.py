"""What a client sees of a router over three servers that rest."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import redis
from tests.routers import Client, RawClient, RouterLab
from tests.servers import ADMIN_ONLY, Server, start_valkey
from tests.waiting import until

from helios.errors import StartError
from helios.model.topology import NodeKind, Placement, Topology
from helios.resp.wire import Limits, encode_command
from helios.router.options import RouterOptions
from helios.runtime.clock import SystemClock

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2", "shard-3")


@pytest.fixture(params=[2, 3])
def resp_version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


async def test_every_type_of_value(client: Client) -> None:
    for i in range(20):
        assert await client.set(f"s{i}", f"v{i}", px=60_000)
        assert await client.get(f"s{i}") == f"v{i}".encode()
        assert 50_000 < await client.pttl(f"s{i}") <= 60_000
        assert await client.hset(f"h{i}", mapping={"a": "1", "b": "2"}) == 2
        assert await client.hgetall(f"h{i}") == {b"a": b"1", b"b": b"2"}
        assert await client.rpush(f"l{i}", "x", "y") == 2
        assert await client.lrange(f"l{i}", 0, -1) == [b"x", b"y"]
        assert await client.sadd(f"t{i}", "m") == 1
        assert await client.smembers(f"t{i}") == {b"m"}
        assert await client.zadd(f"z{i}", {"m": 1.5}) == 1
        assert await client.zscore(f"z{i}", "m") == 1.5
        assert await client.xadd(f"x{i}", {"f": "v"}, id="1-1") == b"1-1"
        assert await client.xlen(f"x{i}") == 1
        assert await client.setbit(f"b{i}", 7, 1) == 0
        assert await client.bitcount(f"b{i}") == 1
        assert await client.pfadd(f"p{i}", "e") == 1
        assert await client.geoadd(f"g{i}", (13.3, 38.1, "Palermo")) == 1
        assert await client.incrby(f"n{i}", 41) == 41
        assert await client.object("encoding", f"n{i}") == b"int"
        assert await client.type(f"z{i}") == b"zset"
    assert await client.dbsize() == 200


async def test_values_pass_unread(client: Client) -> None:
    value = bytes(range(256)) * 20_000
    assert await client.set(b"\x00\xff key", value)
    assert await client.get(b"\x00\xff key") == value


async def test_keys_live_where_the_placement_says(lab: RouterLab) -> None:
    async with lab.client() as client:
        await asyncio.gather(*(client.set(f"k{i}", str(i)) for i in range(60)))
    owners = set()
    for shard in SHARDS:
        async with lab.direct(shard) as direct:
            for key in await direct.keys():
                assert lab.owner(key) == shard
                owners.add(shard)
    assert owners == set(SHARDS)


async def test_a_pipeline_over_all_shards_keeps_its_order(client: Client) -> None:
    pipe = client.pipeline(transaction=False)
    for i in range(3000):
        pipe.set(f"k{i}", str(i))
        pipe.get(f"k{i}")
        pipe.echo(str(i))
    expected: list[object] = []
    for i in range(3000):
        expected += [True, str(i).encode(), str(i).encode()]
    assert await pipe.execute() == expected


async def test_commands_on_several_shards_are_split_and_gathered(client: Client) -> None:
    keys = [f"k{i}" for i in range(30)]
    assert await client.mset({key: key.upper() for key in keys})
    assert await client.mget(*keys[::2], "none", *keys[1::2]) == [
        *(key.upper().encode() for key in keys[::2]),
        None,
        *(key.upper().encode() for key in keys[1::2]),
    ]
    assert await client.exists(*keys, "none", keys[0]) == 31
    assert await client.touch(*keys, "none") == 30
    assert await client.delete(*keys[:10], "none") == 10
    assert await client.unlink(*keys) == 20
    assert await client.dbsize() == 0
    with pytest.raises(redis.ResponseError, match="wrong number of arguments for 'mset'"):
        await client.execute_command("MSET", "a", "1", "b", "2", "c", "3", "d")
    assert await client.mget([f"none{i}" for i in range(9)]) == [None] * 9


async def test_other_commands_with_several_keys_stay_within_a_shard(lab: RouterLab, client: Client) -> None:
    assert await client.rename("{t}a", "{t}b") if await client.set("{t}a", "1") else False
    await client.sadd("{t}s1", "a", "b")
    await client.sadd("{t}s2", "b")
    assert await client.sinter("{t}s1", "{t}s2") == {b"b"}
    assert await client.sunionstore("{t}s3", "{t}s1", "{t}s2") == 2
    assert await client.execute_command("LMPOP", "2", "{t}l1", "{t}l2", "LEFT") is None
    here, there = lab.key_of("shard-1"), lab.key_of("shard-2")
    await client.set(here, "1")
    with pytest.raises(redis.ResponseError, match="CROSSSHARD keys are owned by shard-1 and shard-2"):
        await client.rename(here, there)
    assert await client.get(here) == b"1"


async def test_scan_gives_every_key_once(client: Client) -> None:
    await client.mset({f"k{i}": "v" for i in range(500)})
    await client.hset("hash", "f", "v")
    found = [key async for key in client.scan_iter(count=37)]
    assert sorted(found) == sorted([*(f"k{i}".encode() for i in range(500)), b"hash"])
    assert [key async for key in client.scan_iter(_type="HASH")] == [b"hash"]
    assert {key async for key in client.scan_iter(match="k1?")} == {f"k1{i}".encode() for i in range(10)}
    assert sorted(await client.keys("k?")) == [f"k{i}".encode() for i in range(10)]
    assert await client.randomkey() in found
    with pytest.raises(redis.ResponseError, match="invalid cursor"):
        await client.execute_command("SCAN", "x")
    assert await client.execute_command("SCAN", str(2**63)) is not None
    assert await client.flushall()
    assert await client.dbsize() == 0
    assert await client.randomkey() is None


async def test_what_connections_ask_for(client: Client) -> None:
    assert await client.ping()
    assert await client.client_setname("me")
    assert await client.client_getname() in ("me", b"me")
    me = await client.client_id()
    listed = await client.client_list()
    assert [entry["name"] for entry in listed if entry["id"] == str(me)] == ["me"]
    assert (await client.client_info())["id"] == me
    assert (await client.config_get("max*"))["maxmemory"] == "0"
    assert await client.execute_command("SELECT", "0")
    server = await client.info("server")
    assert server["helios_node"] == "shard-1"
    assert int(str(server["redis_version"]).split(".")[0]) >= 7
    await client.set("k", "v")
    assert (await client.info())["db0"]["keys"] == 1
    seconds, _ = await client.time()
    assert abs(seconds - SystemClock().wall()) < 60
    assert (await client.execute_command("COMMAND COUNT")) > 180
    assert await client.execute_command("COMMAND GETKEYS", "MSET", "a", "1", "b", "2") in (["a", "b"], [b"a", b"b"])


async def test_the_last_save_is_that_of_the_server_that_saved_least_lately(lab: RouterLab, client: Client) -> None:
    saves = []
    for shard in SHARDS:
        async with lab.direct(shard) as direct:
            saves.append(await direct.execute_command("LASTSAVE"))
    assert await client.execute_command("LASTSAVE") in (min(saves), min(saves).replace(tzinfo=None))


async def test_the_users_are_those_of_the_cluster(lab: RouterLab, client: Client) -> None:
    assert await client.acl_users() in (["default"], [b"default"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("CONFIG SET save x", "'CONFIG SET' is refused: "),
        ("SHUTDOWN", "'SHUTDOWN' is refused: "),
        ("REPLICAOF NO ONE", "'REPLICAOF' is refused: "),
        ("DEBUG SEGFAULT", "'DEBUG' is refused: "),
        ("ACL LIST", "'ACL LIST' is refused: "),
        ("SWAPDB 0 1", "'SWAPDB' is refused: "),
        ("MIGRATE h 1 k 0 9", "'MIGRATE host port key ...' of the servers is refused: "),
        ("SELECT 1", "'SELECT 1' is refused: "),
        ("COPY {a}1 {a}2 DB 3", "'COPY ... DB' is refused: "),
        ("CLUSTER SLOTS", "This instance has cluster support disabled"),
        ("NOSUCH a b", "unknown command 'NOSUCH', with args beginning with: 'a' 'b' "),
        ("CLIENT NOSUCH", "unknown subcommand 'NOSUCH'. Try CLIENT HELP."),
        ("GET", "wrong number of arguments for 'get' command"),
        ("GET a b", "wrong number of arguments for 'get' command"),
        ("LMPOP 0 a LEFT", "numkeys should be greater than 0"),
    ],
)
async def test_what_does_not_pass_is_named(client: Client, words: str, message: str) -> None:
    with pytest.raises(redis.ResponseError) as caught:
        await client.execute_command(*words.split())
    assert str(caught.value).startswith(message)
    await client.execute_command("SELECT", "0")  # else a client that meant another database gets nowhere
    assert await client.ping()


async def test_inline_commands_and_single_bytes(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    raw.writer.write(b"set  a 'x y'\r\n\r\nGET a\nPING\r\n")
    await raw.exactly(b"+OK\r\n$3\r\nx y\r\n+PONG\r\n")
    for byte in encode_command([b"MGET", b"a", b"b", b"c"]) + encode_command([b"GET", b"a"]):
        raw.writer.write(bytes([byte]))
        await raw.writer.drain()
        await asyncio.sleep(0)
    await raw.exactly(b"*3\r\n$3\r\nx y\r\n$-1\r\n$-1\r\n$3\r\nx y\r\n")
    raw.writer.write(b"QUIT\r\nPING\r\n")
    assert await raw.closed() == b"+OK\r\n"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"*1\r\n!", b"-ERR Protocol error: expected '$', got '!'\r\n"),
        (b"*99999999\r\n", b"-ERR Protocol error: invalid multibulk length\r\n"),
        (b"*1\r\n$999999999999\r\n", b"-ERR Protocol error: invalid bulk length\r\n"),
    ],
)
async def test_bad_bytes_end_the_connection_behind_the_replies(lab: RouterLab, data: bytes, message: bytes) -> None:
    raw = await RawClient.connect(lab.port)
    raw.writer.write(b"GET a\r\n" + data)
    assert await raw.closed() == b"$-1\r\n" + message


async def test_a_web_page_gets_nothing(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    raw.writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n\r\nSET a 1\r\n")
    with suppress(ConnectionResetError):
        assert await raw.closed() == b""
    async with lab.client() as client:
        assert await client.exists("a") == 0


async def test_changing_the_protocol_keeps_the_order(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    commands: list[list[bytes]] = []
    for i in range(50):
        commands += [[b"HSET", b"h", b"f", b"%d" % i], [b"HELLO", b"3"], [b"HGETALL", b"h"], [b"RESET"]]
        commands += [[b"HGETALL", b"h"]]
    raw.writer.write(b"".join(map(encode_command, commands)))
    for i in range(50):
        await raw.exactly(b":1\r\n" if i == 0 else b":0\r\n")
        assert await raw.line() == b"%7\r\n"
        while await raw.line() != b"modules\r\n":
            pass
        await raw.exactly(b"*0\r\n")
        value = b"$%d\r\n%d\r\n" % (len(str(i)), i)
        await raw.exactly(b"%1\r\n$1\r\nf\r\n" + value)
        await raw.exactly(b"+RESET\r\n*2\r\n$1\r\nf\r\n" + value)
    raw.close()


async def test_a_client_that_half_closes_gets_its_replies(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    raw.send("SET", "k", "v")
    raw.send("GET", "k")
    raw.writer.write_eof()
    assert await raw.closed() == b"+OK\r\n$1\r\nv\r\n"


async def test_calls_inside_the_process(lab: RouterLab) -> None:
    assert await lab.router.execute([b"SET", b"k", b"v"]) == b"+OK\r\n"
    assert await lab.router.execute([b"MGET", b"k", b"k2", b"k3", b"k4"]) == b"*4\r\n$1\r\nv\r\n" + b"$-1\r\n" * 3
    assert await lab.router.execute([b"DBSIZE"]) == b":1\r\n"
    assert (await lab.router.execute([b"INFO", b"server"])).startswith(b"$")
    for word in (b"NOSUCH", b"POST"):
        assert (await lab.router.execute([word])).startswith(b"-ERR unknown command")
    assert lab.router.reason() is None


async def test_limits_are_errors_with_names(servers: dict[str, Server]) -> None:
    options = RouterOptions(node="shard-1", clients=2, limits=Limits(bulk_bytes=1000))
    async with RouterLab(servers, options=options).running() as lab:
        first, second = await RawClient.connect(lab.port), await RawClient.connect(lab.port)
        assert await first.ask("PING") == b"+PONG\r\n"
        assert await second.ask("PING") == b"+PONG\r\n"
        third = await RawClient.connect(lab.port)
        assert await third.closed() == b"-ERR max number of clients reached\r\n"
        first.send("SET", "k", "v" * 1001)
        assert await first.closed() == b"-ERR Protocol error: invalid bulk length\r\n"


async def test_a_taken_port_is_named(lab: RouterLab) -> None:
    with pytest.raises(StartError, match=f"cannot listen on 127.0.0.1:{lab.port}"):
        await lab.router.serve("127.0.0.1", lab.port)


async def test_a_cluster_without_nodes_says_what_to_do(servers: dict[str, Server]) -> None:
    lab = RouterLab(servers)
    lab.topology = Topology(epoch=1)
    async with lab.running(), lab.client() as client:
        assert await client.ping()
        for command in (("GET", "a"), ("MGET", "a", "b"), ("DBSIZE",), ("KEYS", "*"), ("SCAN", "0"), ("FLUSHALL",)):
            with pytest.raises(redis.ResponseError, match="the cluster has no nodes yet: add one with ADDNODE"):
                await client.execute_command(*command)
        assert (await client.info("helios"))["serving"] == 0


# Servers that let nobody make users: by rights, or since they know no such command, as managed ones do.
NO_USERS = {"rights": {"user": "default on nopass ~* &* +@all -acl"}, "command": {"rename-command": 'ACL ""'}}


@pytest.mark.parametrize("how", NO_USERS)
async def test_external_servers_without_users_are_used_as_their_default_user(tmp_path: Path, how: str) -> None:
    with start_valkey(tmp_path / "a") as one, start_valkey(tmp_path / "b", config=NO_USERS[how]) as two:
        lab = RouterLab({"a": one, "b": two}, kind=NodeKind.EXTERNAL)
        async with lab.running(), lab.client() as client:
            assert (await lab.sessions())[0].as_default == ()
            await client.mset({f"k{i}": "v" for i in range(10)})
            assert await client.dbsize() == 10
            (session,) = await lab.sessions()
            assert session.as_default == ("b.0",)
            async with lab.direct("a") as direct:
                assert set(await direct.acl_users()) == {"default", f"helios-s-{session.id}"}
                assert {each["user"] for each in await direct.client_list()} == {"default", f"helios-s-{session.id}"}
            async with lab.direct("b") as direct:
                assert {each["user"] for each in await direct.client_list()} == {"default"}
        async with lab.direct("a") as direct:
            assert await direct.acl_users() == ["default"]


async def test_other_databases_of_external_servers_are_left_alone(tmp_path: Path) -> None:
    with start_valkey(tmp_path / "a") as one:
        lab = RouterLab({"a": one}, kind=NodeKind.EXTERNAL)
        async with lab.running(), lab.client() as client:
            others = redis.Redis(port=one.port, db=1)
            others.set("not ours", "kept")
            await client.set("k", "v")
            for command in (("FLUSHALL",), ("FLUSHDB", "ASYNC")):
                await client.set("k", "v")
                assert await client.execute_command(*command)
                assert await client.dbsize() == 0
            assert others.get("not ours") == b"kept"
            others.close()


@pytest.mark.parametrize("kind", NodeKind)
async def test_a_script_empties_no_server(tmp_path: Path, kind: NodeKind) -> None:
    with start_valkey(tmp_path / "a", users=ADMIN_ONLY if kind is NodeKind.SUPERVISED else ()) as one:
        lab = RouterLab({"a": one}, kind=kind)
        async with lab.running(), lab.client() as client:
            await client.set("k", "v")
            body = "function() return redis.call('FLUSHDB') end"
            await client.function_load(f"#!lua name=l\nredis.register_function('f', {body})")
            for command in (
                *(("EVAL", f"return redis.call('{name}')", "1", "k") for name in ("FLUSHALL", "FLUSHDB")),
                ("FCALL", "f", "1", "k"),
            ):
                with pytest.raises(redis.ResponseError, match="ACL failure in script"):
                    await client.execute_command(*command)
            assert await client.get("k") == b"v"
            assert await client.flushall()
            assert await client.dbsize() == 0


async def test_emptying_keeps_its_place_among_the_commands_of_its_client(servers: dict[str, Server]) -> None:
    lab = RouterLab(servers)
    async with lab.running():
        raw = await RawClient.connect(lab.port)
        names = [f"k{number}" for number in range(30)]
        for _ in range(20):
            for name in names:
                raw.send("SET", name, "v")
            raw.send("FLUSHALL")
            raw.send("EXISTS", *names)
            raw.send("SET", "k0", "kept")
            raw.send("DBSIZE")
            assert [await raw.line() for _ in names] == [b"+OK\r\n"] * len(names)
            assert [await raw.line() for _ in range(4)] == [b"+OK\r\n", b":0\r\n", b"+OK\r\n", b":1\r\n"]
            raw.send("FLUSHALL")
            assert await raw.line() == b"+OK\r\n"
        raw.close()


async def test_the_user_that_empties_servers_goes_with_its_session(servers: dict[str, Server]) -> None:
    lab = RouterLab(servers)
    async with lab.running(), lab.client() as client:
        (session,) = await lab.sessions()
        assert await client.flushall()
        for shard in SHARDS:
            async with lab.direct(shard) as direct:
                assert f"helios-f-{session.id}" in await direct.acl_users()
                await direct.acl_deluser(f"helios-f-{session.id}")
        await client.set("k", "v")

        async def emptied() -> bool:
            return await lab.router.execute([b"FLUSHALL"]) == b"+OK\r\n"

        await until(emptied, "servers that have lost the user have it again")
        assert await client.dbsize() == 0
    for shard in SHARDS:
        async with lab.direct(shard) as direct:
            assert not [user for user in await direct.acl_users() if session.id in user]


async def test_a_session_makes_users_and_takes_them_away(servers: dict[str, Server]) -> None:
    lab = RouterLab(servers)
    async with lab.running(), lab.client() as client:
        assert await client.dbsize() == 0
        (session,) = await lab.sessions()
        for shard in SHARDS:
            async with lab.direct(shard) as direct:
                assert f"helios-s-{session.id}" in await direct.acl_users()
    for shard in SHARDS:
        async with lab.direct(shard) as direct:
            assert f"helios-s-{session.id}" not in await direct.acl_users()
    assert await lab.sessions() == []


async def test_scan_goes_on_where_a_shard_joins_or_leaves(servers: dict[str, Server]) -> None:
    lab = RouterLab(servers)
    everyone = lab.topology.shards
    weights = (("shard-1", 1.0), ("shard-3", 1.0))
    lab.topology = replace(lab.topology, shards=(everyone[0], everyone[2]), placement=Placement(weights=weights))
    async with lab.running(), lab.client() as client:
        await client.flushall()
        await client.mset({f"k{i}": "v" for i in range(300)})
        seen: list[bytes] = []
        async for key in client.scan_iter(count=10):
            seen.append(key)
            if len(seen) in (20, 60, 100, 140, 180, 220):
                joined = len(lab.topology.shards) == 2
                await lab.publish(shards=everyone if joined else (everyone[0], everyone[2]))
                await lab.acknowledged(lab.topology.epoch)
        assert sorted(seen) == sorted(f"k{i}".encode() for i in range(300))
