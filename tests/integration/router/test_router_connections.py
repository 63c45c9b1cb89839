"""CLIENT, COMMAND, MEMORY and others that are about connections and servers rather than keys."""

from __future__ import annotations

import pytest
import redis
from tests.routers import Client, RawClient, RouterLab
from tests.waiting import until

from helios.resp.commands import TABLE, How

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")


@pytest.fixture(params=[2, 3])
def resp_version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


async def test_replies_are_left_out_as_asked(lab: RouterLab) -> None:
    raw, other = await RawClient.connect(lab.port), await RawClient.connect(lab.port)
    raw.send("CLIENT", "REPLY", "SKIP")
    raw.send("SET", "k", "1")
    raw.send("GET", "k")
    raw.send("CLIENT", "REPLY", "OFF")
    for _ in range(50):
        raw.send("INCR", "k")
        raw.send("MGET", "k", "l", "m")
    raw.send("NOSUCH")
    raw.send("CLIENT", "REPLY", "SKIP")
    raw.send("GET", "k")
    raw.send("CLIENT", "REPLY", "ON")
    raw.send("GET", "k")
    await raw.exactly(b"$1\r\n1\r\n+OK\r\n$2\r\n51\r\n")
    raw.send("SUBSCRIBE", "c")
    await raw.exactly(b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n")
    assert await other.ask("PUBLISH", "c", "m") == b":1\r\n"
    await raw.exactly(b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n")
    raw.close()
    other.send("HELLO", "3")
    await other.reader.readuntil(b"modules\r\n*0\r\n")
    other.send("SUBSCRIBE", "c")
    other.send("CLIENT", "REPLY", "OFF")
    other.send("PUBLISH", "c", "m")
    await other.exactly(b">3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n>3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n")
    other.close()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_only_confirmations_come_where_no_reply_is_wanted(lab: RouterLab, protocol: int) -> None:
    """As a server does it: a client that wants no replies learns all the same what it is subscribed to."""
    kind = ">" if protocol == 3 else "*"

    def confirmed(word: str, name: str, count: int) -> bytes:
        return f"{kind}3\r\n${len(word)}\r\n{word}\r\n${len(name)}\r\n{name}\r\n:{count}\r\n".encode()

    raw, other = await RawClient.connect(lab.port), await RawClient.connect(lab.port)
    if protocol == 3:
        raw.send("HELLO", "3")
        await raw.reader.readuntil(b"modules\r\n*0\r\n")
    raw.send("CLIENT", "REPLY", "OFF")
    raw.send("SUBSCRIBE", "c", "d")
    raw.send("SUBSCRIBE")
    raw.send("PING")
    await raw.exactly(confirmed("subscribe", "c", 1) + confirmed("subscribe", "d", 2))
    assert await other.ask("PUBLISH", "c", "m") == b":1\r\n"
    await raw.exactly(f"{kind}3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$1\r\nm\r\n".encode())
    raw.send("PSUBSCRIBE", "p*")
    raw.send("UNSUBSCRIBE", "c")
    raw.send("GET", "k")
    raw.send("PUNSUBSCRIBE", "p*")
    await raw.exactly(confirmed("psubscribe", "p*", 3) + confirmed("unsubscribe", "c", 2))
    await raw.exactly(confirmed("punsubscribe", "p*", 1))
    raw.send("UNSUBSCRIBE", "d")
    raw.send("CLIENT", "REPLY", "ON")
    raw.send("CLIENT", "REPLY", "SKIP")
    raw.send("SUBSCRIBE", "e")
    raw.send("PING")
    await raw.exactly(confirmed("unsubscribe", "d", 0) + b"+OK\r\n" + confirmed("subscribe", "e", 1))
    await raw.exactly(b"+PONG\r\n" if protocol == 3 else b"*2\r\n$4\r\npong\r\n$0\r\n\r\n")
    raw.close()
    other.close()


async def test_connections_are_listed_and_ended_by_what_they_are(lab: RouterLab, client: Client) -> None:
    me = await client.client_id()
    first, second = await RawClient.connect(lab.port), await RawClient.connect(lab.port)
    assert await first.ask("CLIENT", "SETNAME", "first") == b"+OK\r\n"
    second.send("PSUBSCRIBE", "a*", "b*")
    await second.reader.readuntil(b":2\r\n")
    ids = {entry["name"]: entry["id"] for entry in await client.client_list()}
    (listed,) = await client.client_list(_type="pubsub")
    assert (listed["psub"], listed["sub"], listed["flags"]) == ("2", "0", "P")
    (named,) = await client.execute_command("CLIENT LIST", "NAME", "first")
    assert named["id"] == ids["first"]
    others = await client.execute_command("CLIENT LIST", "NOT-TYPE", "pubsub", "SKIPME", "yes")
    assert [entry["name"] for entry in others] == ["first"]
    for words in ("LIST NAME", "LIST NOSUCH x", "LIST ID x", "LIST TYPE x", "KILL NOSUCH x", "KILL SKIPME perhaps"):
        with pytest.raises(redis.ResponseError, match=r"syntax error|Unknown client type"):
            await client.execute_command("CLIENT", *words.split())
    with pytest.raises(redis.ResponseError, match="No such client"):
        await client.client_kill("127.0.0.1:1")
    assert await client.client_kill_filter(_id=ids["first"]) == 1
    assert await first.closed() == b""
    assert await client.client_kill(listed["addr"])
    assert await second.closed() == b""
    assert await client.client_kill_filter(_type="normal") == 0
    assert await client.execute_command("CLIENT", "KILL", "ID", me, "SKIPME", "no") == 1
    await until(lambda: me not in lab.router.clients, "its own connection has ended")


async def test_a_blocked_client_is_let_go(lab: RouterLab, client: Client) -> None:
    raw = await RawClient.connect(lab.port)
    number = int((await raw.ask("CLIENT", "ID"))[1:])
    assert await client.client_unblock(number) in (0, False)
    await client.rpush("something", "v")
    raw.send("BLPOP", "something", "0")
    await raw.exactly(b"*2\r\n$9\r\nsomething\r\n$1\r\nv\r\n")
    for how in (False, True):
        raw.send("BLPOP", "nothing", "0")
        await until(lambda: len(lab.router.blocked) == 1, "it waits")
        assert await client.ping()  # by now the server has been sent it

        async def unblocked(how: bool = how) -> bool:
            return bool(await client.client_unblock(number, error=how))

        await until(unblocked, "it was blocked")
        assert (await raw.line()).startswith(b"-UNBLOCKED" if how else b"*-1")
        stats = (await client.info("commandstats"))["cmdstat_blpop"]
        assert (stats["calls"], stats["failed_calls"]) == (2 + how, int(how)), "that it is let go is no failure"
    with pytest.raises(redis.ResponseError, match="TIMEOUT or ERROR"):
        await client.execute_command("CLIENT", "UNBLOCK", number, "x")
    raw.close()


async def test_who_does_not_track_is_told_so_in_words_that_clients_know(client: Client) -> None:
    assert await client.client_tracking_off()
    assert await client.client_getredir() == -1
    info = await client.client_trackinginfo()
    assert b"off" in str(info).encode()
    with pytest.raises(redis.ResponseError, match="CLIENT CACHING can be called only when"):
        await client.execute_command("CLIENT", "CACHING", "YES")
    assert await client.client_no_touch("ON")


async def test_commands_document_themselves(client: Client) -> None:
    docs = as_dict(await client.execute_command("COMMAND DOCS"))
    offered = {name for name, command in TABLE.items() if "|" not in name and command.how is not How.REFUSED}
    assert {name.decode() for name in docs} == offered
    assert as_dict(docs[b"get"])[b"summary"] == b"Returns the string value of a key."
    asked = await client.execute_command("COMMAND DOCS", "shutdown", "addnode", "nosuch")
    assert as_dict(asked).keys() == {b"addnode"}
    assert await client.execute_command("COMMAND DOCS", "nosuch") in ([], {})
    flags = await client.execute_command("COMMAND GETKEYSANDFLAGS", "LMOVE", "a", "b", "LEFT", "LEFT")
    assert [key for key, _ in flags] == [b"a", b"b"]
    for container in ("CLIENT", "COMMAND", "CONFIG", "MEMORY", "PUBSUB", "SCRIPT", "FUNCTION", "OBJECT", "XINFO"):
        lines = await client.execute_command(f"{container} HELP")
        assert b"HELP" in [line.upper() for line in lines], container


def as_dict(reply: object) -> dict[bytes, object]:
    if isinstance(reply, dict):
        return reply
    assert isinstance(reply, list)
    return dict(zip(reply[::2], reply[1::2], strict=True))


async def test_what_servers_say_of_their_memory(lab: RouterLab, client: Client) -> None:
    said = await client.execute_command("MEMORY", "DOCTOR")
    text = said if isinstance(said, str) else said.decode()
    assert all(f"# {shard}\n" in text for shard in SHARDS)
    assert await client.memory_purge()
    assert await client.wait(0, 10) == 0
    assert await client.wait(1, 0) == 0
    assert await client.execute_command("LOLWUT")
    for words in ("MEMORY STATS", "WAITAOF 1 0 0", "COMMANDLOG LEN slow", "SCRIPT DEBUG YES"):
        with pytest.raises(redis.ResponseError, match=r"is refused: "):
            await client.execute_command(*words.split())


async def test_sorting_looks_up_other_keys_where_they_are(lab: RouterLab, client: Client) -> None:
    await client.flushall()
    await client.rpush("{t}list", "1", "2", "3")
    await client.mset({f"{{t}}w_{i}": str(-i) for i in (1, 2, 3)} | {f"w_{i}": str(10 - i) for i in (1, 2, 3)})
    assert await client.sort("{t}list", by="{t}w_*", get="{t}w_*") == [b"-3", b"-2", b"-1"]
    assert await client.sort("{t}list", by="nosort", get="#") == [b"1", b"2", b"3"]
    assert len({lab.owner(f"w_{i}") for i in (1, 2, 3)}) > 1
    assert await client.sort("{t}list", by="w_*", get="w_*") == [b"7", b"8", b"9"]


async def test_after_a_refused_select_nothing_goes_on_in_database_0(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    assert await raw.ask("SET", "kept", "v") == b"+OK\r\n"
    for words in (("SELECT", "1"), ("FLUSHDB",), ("SET", "kept", "x"), ("GET", "kept"), ("PING",), ("MULTI",)):
        raw.send(*words)
    raw.send("HELLO", "9")
    for _ in range(6):
        answer = await raw.line()
        assert answer.startswith(b"-ERR '") and b"Helios has one database, number 0" in answer
    assert (await raw.line()).startswith(b"-NOPROTO")
    assert (await raw.ask("SELECT", "15")).startswith(b"-ERR 'SELECT 15' is refused")
    assert b"has asked for database 15" in await raw.ask("DEL", "kept")
    assert await raw.ask("SELECT", "0") == b"+OK\r\n"
    assert await raw.ask("DEL", "kept") == b":1\r\n"
    assert (await raw.ask("SELECT", "2")).startswith(b"-ERR")
    assert (await raw.ask("GET", "kept")).startswith(b"-ERR 'GET' is refused")
    assert await raw.ask("RESET") == b"+RESET\r\n"
    # No server has such a database: there, too, the connection stays in the one that it is in.
    assert await raw.ask("SELECT", "-1") == b"-ERR DB index is out of range\r\n"
    assert await raw.ask("SELECT", "one") == b"-ERR value is not an integer or out of range\r\n"
    assert await raw.ask("GET", "kept") == b"$-1\r\n"
    raw.close()


async def test_a_select_in_a_transaction_is_no_way_into_database_0(lab: RouterLab) -> None:
    raw = await RawClient.connect(lab.port)
    raw.send("MULTI")
    raw.send("SELECT", "1")
    raw.send("SET", "k", "v")
    raw.send("EXEC")
    raw.send("SET", "k", "v")
    raw.send("SELECT", "0")
    raw.send("EXISTS", "k")
    assert await raw.line() == b"+OK\r\n"
    assert (await raw.line()).startswith(b"-ERR 'SELECT")
    assert (await raw.line()).startswith(b"-ERR 'SET' is refused")
    assert (await raw.line()).startswith(b"-EXECABORT")
    assert (await raw.line()).startswith(b"-ERR 'SET' is refused")
    await raw.exactly(b"+OK\r\n:0\r\n")
    raw.close()
