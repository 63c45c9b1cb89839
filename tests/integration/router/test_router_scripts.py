"""Scripts and functions through routers: on the shard of their keys, wherever that is by now."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from tests.routers import Client, RouterLab
from tests.servers import ADMIN_PASSWORD, ADMIN_USER
from tests.shards import Shards, running_shards
from tests.waiting import until

from helios.router.core import Router
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
CONFIG = {"busy-reply-threshold": "50"}
OPTIONS = RouterOptions(node="shard-1", hold_timeout_s=20, member_timeout_s=10, connect_timeout_s=0.5)
ADD = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
FUNCTIONS = """#!lua name=mylib
redis.register_function('add', function(keys, args) return redis.call('INCRBY', keys[1], args[1]) end)
redis.register_function{function_name='look', callback=function(keys) return redis.call('GET', keys[1]) end,
    flags={'no-writes'}}
"""


@pytest.fixture(params=[2, 3])
def resp_version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


async def test_scripts_run_where_their_keys_are(lab: RouterLab, client: Client) -> None:
    here, there = lab.key_of("shard-1"), lab.key_of("shard-2")
    assert await client.eval(ADD, 1, here, 5) == 5
    assert await client.eval(ADD, 1, there, 7) == 7
    assert await client.eval("return #KEYS", 0) == 0
    assert await client.execute_command("EVAL_RO", "return redis.call('GET', KEYS[1])", 1, here) == b"5"
    with pytest.raises(redis.ResponseError, match="CROSSSHARD keys are owned by shard-1 and shard-2: 'EVAL'"):
        await client.eval(ADD, 2, here, there)
    # What EVAL has shown, EVALSHA finds on every shard, in the order of the pipeline.
    pipe = client.pipeline(transaction=False)
    script = client.register_script(ADD)
    for i in range(50):
        pipe.set(f"p{i}", "1")
        pipe.evalsha(script.sha, 1, f"p{i}", 2)
        pipe.get(f"p{i}")
    assert await pipe.execute() == [True, 3, b"3"] * 50


async def test_loaded_scripts_are_known_everywhere_and_for_good(lab: RouterLab, client: Client) -> None:
    here, there = lab.key_of("shard-1"), lab.key_of("shard-2")
    with pytest.raises(redis.exceptions.NoScriptError):
        await client.evalsha("0" * 40, 1, here)
    script = client.register_script(ADD)
    assert await script(keys=[here], args=[1]) == 1
    assert await client.script_exists(script.sha, "0" * 40) == [True, False]
    async with lab.direct("shard-2") as direct:
        assert await direct.script_exists(script.sha) == [True]
        await direct.script_flush()  # as if the server had been started anew
    assert await client.script_exists(script.sha) == [True]
    lab.router.script_cache._told.clear()
    async with client.pipeline(transaction=True) as pipe:
        pipe.set(there, 40)
        await script(keys=[there], args=[2], client=pipe)
        assert await pipe.execute() == [True, 42]
    assert (await client.execute_command("SCRIPT", "SHOW", script.sha)) in (ADD.encode(), ADD)
    with pytest.raises(redis.ResponseError, match="Error compiling script"):
        await client.script_load("nonsense")

    second = Router(lab.store, lab.router._connector, lab.router.admin, lab.clock, OPTIONS)
    await second.start()
    try:
        sha = script.sha.encode()
        assert await second.execute([b"EVALSHA", sha, b"1", there.encode(), b"1"]) == b":43\r\n"
        assert await client.script_flush()
        await until(lambda: second.script_cache.body(sha) is None, "the other router has forgotten it, too")
        assert (await second.execute([b"EVALSHA", sha, b"1", there.encode(), b"1"])).startswith(b"-NOSCRIPT")
    finally:
        await second.stop()
    assert await client.script_exists(script.sha) == [False]


async def test_functions_are_everywhere_or_the_error_says_where(lab: RouterLab, client: Client) -> None:
    here, there = lab.key_of("shard-1"), lab.key_of("shard-2")
    assert await client.function_load(FUNCTIONS) in (b"mylib", "mylib")
    assert await client.fcall("add", 1, here, 5) == 5
    assert await client.fcall("add", 1, there, 6) == 6
    assert await client.fcall_ro("look", 1, there) == b"6"
    assert len(await client.function_list()) == 1
    with pytest.raises(redis.ResponseError, match="Library 'mylib' already exists"):
        await client.function_load(FUNCTIONS)
    assert (await client.execute_command("FUNCTION", "STATS")) is not None
    dumped = await client.execute_command("FUNCTION", "DUMP")
    assert await client.function_delete("mylib")
    with pytest.raises(redis.ResponseError, match="Function not found"):
        await client.fcall("add", 1, there, 6)
    async with lab.direct("shard-2") as direct:
        await direct.execute_command("FUNCTION", "RESTORE", dumped)
    with pytest.raises(
        redis.ResponseError, match=r"already exists; it was carried out on shard-1; it was not on shard-2"
    ):
        await client.execute_command("FUNCTION", "RESTORE", dumped)
    assert await client.execute_command("FUNCTION", "RESTORE", dumped, "REPLACE") in (True, b"OK")
    assert await client.function_flush()
    lab.servers["shard-2"].kill()
    try:
        with pytest.raises(redis.ResponseError, match="shard-2 is needed for this, and nothing was executed"):
            for _ in range(2):  # the first may still find the connection that was
                await client.function_load(FUNCTIONS)
        assert await client.function_list() == []
        script = client.register_script(ADD)
        assert await script(keys=[here], args=[1]) == 6
    finally:
        lab.servers["shard-2"].start()
    await until(lambda: lab.router.pool.link("shard-2", client_protocol(client)).ready, "the shard is back")
    assert await script(keys=[there], args=[1]) == 1


def client_protocol(client: Client) -> int:
    return int(client.connection_pool.connection_kwargs["protocol"])


async def test_a_script_that_does_not_end_can_be_ended(lab: RouterLab, client: Client) -> None:
    with pytest.raises(redis.ResponseError, match="NOTBUSY"):
        await client.script_kill()
    key = lab.key_of("shard-2")
    running = asyncio.create_task(client.eval("while true do end", 1, key))

    async def killed() -> bool:
        async with lab.client() as other:
            try:
                return bool(await other.script_kill())
            except redis.ResponseError as error:
                assert "NOTBUSY" in str(error), error
                return False

    await until(killed, "the script is ended")
    with pytest.raises(redis.ResponseError, match=r"(killed by user|Script killed)"):
        await running


async def test_to_end_a_script_waits_until_its_server_listens(lab: RouterLab) -> None:
    """In a script's first moments a server answers nothing: here for longer than a connection may take to open."""
    key = lab.key_of("shard-1")
    async with lab.direct("shard-1") as direct:
        await direct.config_set("busy-reply-threshold", "1500")
    async with lab.client() as client, lab.client() as other:
        await client.set(key, "v")
        running = asyncio.create_task(client.execute_command("EVAL_RO", "while true do end", 1, key))
        await until(lambda: lab.router.totals.commands >= 2, "the script is on its way")
        answers = await asyncio.gather(*(other.script_kill() for _ in range(3)), return_exceptions=True)
        assert any(answer is True or answer == b"OK" for answer in answers), answers
        assert await client.get(key) == b"v" if running.done() else await other.get(key) == b"v"
        with pytest.raises(redis.ResponseError, match=r"killed by user.*router\.script_time_limit"):
            await running
    async with lab.direct("shard-1") as direct:
        await direct.config_set("busy-reply-threshold", "50")


@asynccontextmanager
async def one_busy_shard(tmp_path: Path) -> AsyncIterator[tuple[Shards, Client, Router]]:
    """A cluster whose server says after a tenth of a second that a script keeps it busy."""
    async with running_shards(tmp_path, 1, fsync="no") as shards, AsyncExitStack() as stack:
        options = RouterOptions(node="shard-1", member_timeout_s=5, connect_timeout_s=0.5)
        router = Router(shards.store, shards.connector, shards.admin, shards.clock, options)
        await router.start()
        stack.push_async_callback(router.stop)
        (server,) = shards.servers.values()
        direct: Client = redis.asyncio.Redis(port=server.port, username=ADMIN_USER, password=ADMIN_PASSWORD)
        async with direct:
            await direct.config_set("busy-reply-threshold", "100")
        port = await router.serve("127.0.0.1", 0)
        client = redis.asyncio.Redis(port=port, retry=Retry(NoBackoff(), 0), socket_timeout=60)
        yield shards, await stack.enter_async_context(client), router


async def test_helios_ends_a_script_by_itself_and_says_so(tmp_path: Path) -> None:
    async with one_busy_shard(tmp_path) as (shards, client, _):
        with pytest.raises(redis.ResponseError, match=r"killed by user.*router\.script_time_limit"):
            await client.execute_command("EVAL_RO", "while true do end", 1, "k")
        assert await client.set("k", "v")

        async def told() -> bool:
            return [entry.what for entry in await shards.admin.history()][-1:] == ["ended a script on shard-1"]

        await until(told, "the history names it")
        (entry,) = (await shards.admin.history())[-1:]
        assert entry.reason == "it had run for 5 s (router.script_time_limit is 5 s)"
        assert entry.origin == "automatic"


async def test_a_script_that_cannot_be_ended_is_named(tmp_path: Path) -> None:
    async with one_busy_shard(tmp_path) as (shards, client, _):
        with pytest.raises(redis.ResponseError, match=r"UNKNOWN.*since EVAL was sent to it"):
            await client.eval("redis.call('SET', KEYS[1], 1) while true do end", 1, "k")
        try:

            async def named() -> bool:
                try:
                    await client.get("k")
                except redis.ResponseError as error:
                    return "a script or function keeps it busy" in str(error)
                except redis.ConnectionError as error:
                    return "a script or function keeps it busy" in str(error)
                return False

            await until(named, "clients are told of the script")

            async def suspected() -> bool:
                (node,) = await shards.admin.list_nodes()
                return "that has written" in node.status_reason and "cannot be ended" in node.status_reason

            await until(suspected, "operators are told of the script")
        finally:
            shards.servers["shard-1"].kill()
            shards.servers["shard-1"].start()


# --- real moves -------------------------------------------------------------------------------------------------


async def test_scripts_and_functions_go_on_while_nodes_join_and_leave(tmp_path: Path) -> None:
    async with running_shards(tmp_path, 2, fsync="no") as shards, AsyncExitStack() as stack:
        options = RouterOptions(node="shard-1", hold_timeout_s=20)
        router = Router(shards.store, shards.connector, shards.admin, shards.clock, options)
        await router.start()
        stack.push_async_callback(router.stop)
        port = await router.serve("127.0.0.1", 0)
        client: Client = await stack.enter_async_context(redis.asyncio.Redis(port=port, legacy_responses=True))
        await client.function_load(FUNCTIONS)
        script = client.register_script(ADD)
        await client.script_load(ADD)
        keys = [f"k{i}" for i in range(60)]
        moving = True
        rounds = 0

        async def call() -> None:
            nonlocal rounds
            while moving:
                rounds += 1
                for key in keys:
                    assert await client.evalsha(script.sha, 1, key, 1) == 2 * rounds - 1
                    assert await client.fcall("add", 1, key, 1) == 2 * rounds
                async with client.pipeline() as pipe:
                    await script(keys=["apart"], args=[1], client=pipe)
                    assert await pipe.execute() == [rounds]

        async def called() -> bool:
            return rounds > 2 or calling.done()

        calling = asyncio.create_task(call())
        await shards.server("shard-3")
        node = await shards.server("shard-4")
        await shards.execute("shard-4", "FUNCTION", "LOAD", FUNCTIONS.replace("mylib", "left"))
        await shards.admin.add_node(node.id, str(node.address))
        await shards.settled()
        assert await names_of(shards, "shard-4") == [b"mylib"]
        await client.function_load(FUNCTIONS.replace("mylib", "other").replace("'add'", "'a'").replace("'look'", "'l'"))
        assert await names_of(shards, "shard-4") == [b"mylib", b"other"]
        await shards.admin.remove_node("shard-4")
        await shards.settled()
        # As many calls as that, however fast the keys were.
        await until(called, "calls go on")
        moving = False
        await calling


async def names_of(shards: Shards, node: str) -> list[bytes]:
    listed = await shards.execute(node, "FUNCTION", "LIST")
    assert isinstance(listed, list)
    return sorted(library[b"library_name"] for library in listed)
