"""CLIENT TRACKING: clients that cache what they read are told of every change, in the right order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import redis
from tests.cacher import Cacher
from tests.routers import Client, RawClient, RouterLab
from tests.servers import Server
from tests.waiting import until

from helios.model.passwords import hashed
from helios.model.topology import PairPhase
from helios.model.users import Role, User
from helios.ports.records import SESSIONS
from helios.ports.store import Delete
from helios.router.options import RouterOptions

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2")
OPTIONS = RouterOptions(node="shard-1", hold_timeout_s=20, member_timeout_s=1, connect_timeout_s=1)
ANYTHING = [b"invalidate", None]


@pytest.fixture
async def cacher(lab: RouterLab) -> AsyncIterator[Cacher]:
    made = await Cacher.connect(lab.port)
    yield made
    made.raw.close()


async def said(lab: RouterLab) -> None:
    """Return when the router has heard all that servers have named so far."""
    heard = [asyncio.Event() for _ in lab.router.tracker._links]
    for link, event in zip(lab.router.tracker._links.values(), heard, strict=True):
        link.read_to_here(event.set)
    for event in heard:
        await event.wait()


async def test_a_client_is_told_once_of_each_key_that_it_has_read(
    lab: RouterLab, client: Client, cacher: Cacher
) -> None:
    one, two = lab.key_of("shard-1"), lab.key_of("shard-2")
    await client.mset({one: "1", two: "1", "other": "1"})
    assert await cacher.ask("CLIENT", "TRACKING", "ON") == b"OK"
    assert await cacher.ask("MGET", one, two, "none") == [b"1", b"1", None]
    for key in (one, two, "none"):
        await client.set(key, "2")
        assert await cacher.told() == [b"invalidate", [key.encode()]]
    await client.mset({one: "3", "other": "3"})
    await said(lab)
    await cacher.told_nothing()
    info = await client.info("clients")
    assert info["tracking_clients"] == 1
    assert (await client.info("stats"))["tracking_total_keys"] == 0


async def test_whatever_changes_a_key_is_told(lab: RouterLab, client: Client, cacher: Cacher) -> None:
    await cacher.ask("CLIENT", "TRACKING", "ON")
    changes: tuple[tuple[str, ...], ...] = (
        ("SET", "k", "v"),
        ("EXPIRE", "k", "100"),
        ("PEXPIRE", "k", "1"),
        ("EVAL", "redis.call('SET', KEYS[1], 'x')", "1", "k"),
        ("RENAME", "k", "{k}2"),
        ("MULTI",),
        ("DEL", "k"),
    )
    for change in changes:
        await cacher.ask("GET", "k")
        if change == ("MULTI",):
            async with client.pipeline() as pipe:
                await pipe.set("k", "t").execute()
        else:
            await client.execute_command(*change)
        assert await cacher.told() == [b"invalidate", [b"k"]], change
        if change[0] == "PEXPIRE":
            await cacher.ask("GET", "k")
            await said(lab)
            cacher.came.clear()  # it may have ended before it was read again, or after


async def test_a_clients_own_change_is_told_behind_its_reply(lab: RouterLab, cacher: Cacher) -> None:
    await cacher.ask("CLIENT", "TRACKING", "ON")
    cacher.raw.send("GET", "k")
    cacher.raw.send("SET", "k", "1")
    cacher.raw.send("PING")
    assert [await cacher.next() for _ in range(4)] == [None, b"OK", [b"invalidate", [b"k"]], b"PONG"]
    await cacher.ask("GET", "a")
    for words in (("MULTI",), ("INCR", "a"), ("INCR", "a")):
        await cacher.ask(*words)
    assert await cacher.ask("EXEC") == [1, 2]
    assert await cacher.told() == [b"invalidate", [b"a"]]


async def test_a_change_that_overtakes_the_reply_of_a_read_is_told_behind_it(
    lab: RouterLab, client: Client, cacher: Cacher
) -> None:
    key = lab.key_of("shard-1")
    await client.set(key, "old")
    await cacher.ask("CLIENT", "TRACKING", "ON")
    lab.servers["shard-1"].stop()
    try:
        cacher.raw.send("GET", key)
        await until(lambda: len(lab.router.tracker.interests) == 1, "the read is on its way")
        # The invalidation comes over another connection than the reply.
        lab.router.tracker.changed("shard-1", [key.encode()])
    finally:
        lab.servers["shard-1"].cont()
    assert [await cacher.next() for _ in range(2)] == [b"old", [b"invalidate", [key.encode()]]]


async def test_flushing_is_told_as_such(lab: RouterLab, client: Client, cacher: Cacher) -> None:
    await cacher.ask("CLIENT", "TRACKING", "ON")
    await cacher.ask("GET", "k")
    await client.flushall()
    assert await cacher.told() == ANYTHING
    await said(lab)
    await cacher.told_nothing()


async def test_caching_by_exception(lab: RouterLab, client: Client, cacher: Cacher) -> None:
    with_caching = (("CLIENT", "CACHING", "YES"), ("GET", "b"))
    transaction = (("CLIENT", "CACHING", "YES"), ("MULTI",), ("PTTL", "t"), ("GET", "t"), ("EXEC",), ("GET", "d"))
    await cacher.ask("CLIENT", "TRACKING", "ON", "OPTIN")
    with pytest.raises(redis.ResponseError, match="OPTOUT mode"):
        raise await cacher.ask("CLIENT", "CACHING", "NO")
    # As rueidis does it: the exception holds to the end of the transaction.
    for words in (("GET", "a"), *with_caching, ("GET", "c"), *transaction):
        await cacher.ask(*words)
    await client.mset(dict.fromkeys("abcdt", "2"))
    assert sorted([await cacher.told(), await cacher.told()]) == [[b"invalidate", [b"b"]], [b"invalidate", [b"t"]]]
    await said(lab)
    await cacher.told_nothing()

    await cacher.ask("CLIENT", "TRACKING", "OFF")
    await cacher.ask("CLIENT", "TRACKING", "ON", "OPTOUT")
    for words in (("CLIENT", "CACHING", "NO"), ("GET", "a"), ("GET", "b")):
        await cacher.ask(*words)
    await client.mset({"a": "3", "b": "3"})
    assert await cacher.told() == [b"invalidate", [b"b"]]
    await said(lab)
    await cacher.told_nothing()


async def test_prefixes_are_told_to_who_has_not_read(lab: RouterLab, client: Client, cacher: Cacher) -> None:
    await cacher.ask("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", "user:", "PREFIX", "cart:")
    for key in ("user:1", "other", "cart:1", "use"):
        await client.set(key, "v")
    told = [await cacher.told() for _ in range(2)]
    assert sorted(told) == [[b"invalidate", [b"cart:1"]], [b"invalidate", [b"user:1"]]]
    await said(lab)
    await cacher.told_nothing()
    assert b"flags=tB" in await cacher.ask("CLIENT", "INFO")
    assert await cacher.ask("CLIENT", "TRACKINGINFO") == {
        b"flags": [b"on", b"bcast"],
        b"redirect": 0,
        b"prefixes": [b"user:", b"cart:"],
    }


async def test_a_user_hears_of_its_own_keys_alone(lab: RouterLab) -> None:
    password = hashed(b"secret", bytes(16))
    users = [User("mine", Role.READ_ONLY, password, ("mine:*",)), User("all", Role.ADMIN, password)]
    lab.router.authenticator.apply([*users, User("operator", Role.OPERATOR, password)])
    try:
        cacher = await Cacher.connect(lab.port)
        assert await cacher.ask("AUTH", "mine", "secret") == b"OK"
        await cacher.ask("HELLO", "3")
        assert await cacher.ask("CLIENT", "TRACKING", "ON", "BCAST") == b"OK"
        writer = await RawClient.connect(lab.port)
        assert await writer.ask("AUTH", "all", "secret") == b"+OK\r\n"
        assert await writer.ask("MSET", "theirs:1", "1", "mine:1", "1") == b"+OK\r\n"
        assert await cacher.told() == [b"invalidate", [b"mine:1"]]
        await said(lab)
        await cacher.told_nothing()
        # What it is refused it has not read.
        await cacher.ask("CLIENT", "TRACKING", "OFF")
        await cacher.ask("CLIENT", "TRACKING", "ON")
        assert isinstance(await cacher.ask("GET", "theirs:1"), redis.ResponseError)
        assert not len(lab.router.tracker.interests)
        # Nor does it hear of what it has read as another user.
        assert await cacher.ask("AUTH", "all", "secret") == b"OK"
        for key in ("theirs:1", "mine:1"):
            assert await cacher.ask("GET", key) == b"1"
        assert await cacher.ask("AUTH", "mine", "secret") == b"OK"
        assert await writer.ask("MSET", "theirs:1", "2", "mine:1", "2") == b"+OK\r\n"
        writer.close()
        assert await cacher.told() == [b"invalidate", [b"mine:1"]]
        await said(lab)
        await cacher.told_nothing()
        # Who may read nothing hears of nothing.
        assert await cacher.ask("AUTH", "operator", "secret") == b"OK"
        assert not len(lab.router.tracker)
        cacher.raw.close()
    finally:
        lab.router.authenticator.apply([])


async def test_no_client_can_be_redirected_to_one_of_another_worker(servers: dict[str, Server]) -> None:
    options = RouterOptions(node="shard-1", worker=2)
    async with (
        RouterLab(servers, options=OPTIONS).running() as one,
        RouterLab(servers, options=options).running() as two,
    ):
        here, there = await Cacher.connect(one.port), await Cacher.connect(two.port)
        for asking, other in ((here, there), (there, here)):
            number = await other.ask("CLIENT", "ID")
            assert "does not exist" in str(await asking.ask("CLIENT", "TRACKING", "ON", "REDIRECT", str(number)))
        here.raw.close()
        there.raw.close()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_another_connection_is_told_in_its_place(lab: RouterLab, client: Client, protocol: int) -> None:
    listener, reader = await Cacher.connect(lab.port, protocol), await Cacher.connect(lab.port, 2)
    number = await listener.ask("CLIENT", "ID")
    listener.raw.send("SUBSCRIBE", "__redis__:invalidate")
    assert (await listener.next())[0] == b"subscribe"
    assert await reader.ask("CLIENT", "TRACKING", "ON", "REDIRECT", str(number)) == b"OK"
    assert await reader.ask("CLIENT", "GETREDIR") == number
    assert b" redir=%d " % number in await reader.ask("CLIENT", "INFO")
    await reader.ask("GET", "k")
    await client.set("k", "1")
    head: list[object] = [b"message", b"__redis__:invalidate"] if protocol == 2 else [b"invalidate"]
    assert await listener.told() == [*head, [b"k"]]
    await reader.ask("GET", "k")
    await client.flushall()
    assert await listener.told() == [*head, None]
    await reader.ask("HELLO", "3")
    listener.raw.close()
    await until(lambda: number not in lab.router.clients, "it has gone")
    await reader.ask("GET", "k")
    await client.set("k", "2")
    assert await reader.told() == [b"tracking-redir-broken", number]
    assert (await reader.ask("CLIENT", "TRACKINGINFO"))[b"flags"] == [b"on", b"broken_redirect"]
    assert b"flags=tR" in await reader.ask("CLIENT", "INFO")
    error = await reader.ask("CLIENT", "TRACKING", "ON", "REDIRECT", str(number))
    assert "does not exist" in str(error)
    reader.raw.close()


async def test_it_ends_with_off_reset_and_the_connection(lab: RouterLab, client: Client, cacher: Cacher) -> None:
    for end in ("TRACKING", "RESET", "close"):
        await cacher.ask("HELLO", "3")
        await cacher.ask("CLIENT", "TRACKING", "ON")
        await cacher.ask("GET", "k")
        assert len(lab.router.tracker) == len(lab.router.tracker.interests) == 1
        if end == "TRACKING":
            assert await cacher.ask("CLIENT", "TRACKING", "OFF") == b"OK"
        elif end == "RESET":
            assert await cacher.ask("RESET") == b"RESET"
        else:
            cacher.raw.close()
        await until(lambda: not len(lab.router.tracker), "it has ended")
        assert not lab.router.tracker._links
        assert not len(lab.router.tracker.interests)
    assert await client.execute_command("PUBSUB CHANNELS") == []


async def test_what_is_not_known_to_be_heard_counts_as_changed(lab: RouterLab, client: Client, cacher: Cacher) -> None:
    key, other = lab.key_of("shard-1"), lab.key_of("shard-2")
    await cacher.ask("CLIENT", "TRACKING", "ON")
    await cacher.ask("MGET", key, other)
    lab.servers["shard-1"].kill()
    try:
        assert await cacher.told() == ANYTHING
        assert isinstance(await cacher.ask("GET", key), redis.ResponseError)
    finally:
        lab.servers["shard-1"].start()
    tracker = lab.router.tracker
    await until(lambda: tracker._links["shard-1"].hears, "it is heard again", 30)
    links = [lab.router.pool.link("shard-1", variant) for variant in (2, 3)]
    await until(lambda: all(link.ready for link in links), "it can be asked again", 30)
    cacher.came.clear()
    assert await cacher.ask("GET", key) is None
    cacher.came.clear()
    assert await cacher.ask("GET", key) is None
    await client.set(key, "v")
    assert await cacher.told() == [b"invalidate", [key.encode()]]


async def test_a_read_from_a_server_that_is_not_heard_is_stale_at_once(lab: RouterLab, cacher: Cacher) -> None:
    key = lab.key_of("shard-1")
    await cacher.ask("CLIENT", "TRACKING", "ON")
    link = lab.router.tracker._links.pop("shard-1")
    link.close("says the test")
    await cacher.ask("GET", key)
    assert await cacher.told() == [b"invalidate", [key.encode()]]


async def test_a_new_session_of_the_router_means_that_anything_may_have_changed(
    lab: RouterLab, client: Client, cacher: Cacher
) -> None:
    await cacher.ask("CLIENT", "TRACKING", "ON")
    await cacher.ask("GET", "k")
    (session,) = await lab.sessions()
    await lab.store.commit([Delete(SESSIONS + session.id)])
    assert await cacher.told() == ANYTHING
    await until(lambda: lab.router.keeper.sessions == 2 and lab.router.alive(), "the router has a new session")
    await until(lambda: all(link.hears for link in lab.router.tracker._links.values()), "it hears again")
    await cacher.ask("PING")
    cacher.came.clear()
    await cacher.ask("GET", "k")
    await client.set("k", "v")
    assert await cacher.told() == [b"invalidate", [b"k"]]


async def test_a_key_that_moves_counts_as_changed_when_it_has_moved(
    lab: RouterLab, client: Client, cacher: Cacher
) -> None:
    key = lab.key_of("shard-1", "m")
    await client.set(key, "1")
    await cacher.ask("CLIENT", "TRACKING", "ON")
    await cacher.ask("GET", key)
    await lab.acknowledged(await lab.publish_move(PairPhase.COPYING, "shard-1", "shard-2"))
    async with lab.direct("shard-2") as target:
        await target.set(key, "a copy")
    await said(lab)
    await cacher.told_nothing()
    await lab.acknowledged(await lab.publish_move(PairPhase.FENCED, "shard-1", "shard-2"))
    await cacher.told_nothing()
    await lab.acknowledged(await lab.publish_move(PairPhase.SWITCHED, "shard-1", "shard-2"))
    assert await cacher.told() == ANYTHING
    assert await cacher.ask("GET", key) == b"a copy"
    await client.set(key, "2")
    assert await cacher.told() == [b"invalidate", [key.encode()]]
    await cacher.ask("GET", key)
    async with lab.direct("shard-1") as source:
        await source.delete(key)
    await said(lab)
    await cacher.told_nothing()


async def test_a_blocking_read_is_stale_when_it_is_answered(lab: RouterLab, client: Client, cacher: Cacher) -> None:
    await cacher.ask("CLIENT", "TRACKING", "ON")
    await cacher.ask("GET", "k")
    cacher.raw.send("XREAD", "BLOCK", "0", "STREAMS", "s", "$")
    await until(lambda: len(lab.router.blocked) == 1, "it waits")
    await client.set("k", "1")
    assert await cacher.told() == [b"invalidate", [b"k"]], "it need not wait for what its command waits for"
    await client.xadd("s", {"f": "v"})
    assert set(await cacher.reply()) == {b"s"}
    assert await cacher.told() == [b"invalidate", [b"s"]]


@pytest.mark.parametrize("options", [(), ("BCAST",)])
async def test_noloop_spares_a_client_its_own_changes(
    lab: RouterLab, client: Client, cacher: Cacher, options: tuple[str, ...]
) -> None:
    await cacher.ask("CLIENT", "TRACKING", "ON", "NOLOOP", *options)
    own: tuple[tuple[str, ...], ...] = (
        *(
            ("SET", "k", "1"),
            ("INCR", "k"),
            ("DEL", "k"),
            ("LPUSH", "k", "a", "b"),
            ("LPOP", "k"),
            ("EXPIRE", "k", "9"),
        ),
        ("MSET", "{k}1", "a", "{k}2", "b"),
    )
    for change in own:
        await cacher.ask("EXISTS", "k", "{k}1", "{k}2")
        assert not isinstance(await cacher.ask(*change), redis.ResponseError)
        await said(lab)
    await cacher.told_nothing()
    assert not len(next(iter(lab.router.clients.values())).tracking.own)  # type: ignore[union-attr]
    await client.set("k", "2")
    assert await cacher.told() == [b"invalidate", [b"k"]], "another's change is told all the same"
    await cacher.ask("GET", "k")
    assert await cacher.ask("SETNX", "k", "3") == 0
    await cacher.told_nothing()
    await client.set("k", "4")
    assert await cacher.told() == [b"invalidate", [b"k"]], "what has changed nothing hides nothing"


async def test_anothers_change_is_told_behind_an_own_one_that_changed_nothing(
    lab: RouterLab, client: Client, cacher: Cacher
) -> None:
    key = lab.key_of("shard-1")
    await client.set(key, "1")
    await cacher.ask("CLIENT", "TRACKING", "ON", "NOLOOP")
    await cacher.ask("GET", key)
    lab.servers["shard-1"].stop()
    try:
        cacher.raw.send("SETNX", key, "2")
        await until(lambda: lab.router.pool.link("shard-1", 3).answered < lab.router.pool.link("shard-1", 3).issued, "")
        lab.router.tracker.changed("shard-1", [key.encode()])
        assert not cacher.came
    finally:
        lab.servers["shard-1"].cont()
    assert [await cacher.next() for _ in range(2)] == [0, [b"invalidate", [key.encode()]]]
