"""Replies of a shard with several members leave the router when a majority has what they tell, or as unknown."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from redis.exceptions import ResponseError
from tests.replicated import Replicated, replicated
from tests.routers import RawClient
from tests.waiting import until

from helios.model.topology import Term
from helios.ports.engine import SESSION_PREFIXES, UserRole


@pytest.fixture
async def three(tmp_path: Path) -> AsyncIterator[Replicated]:
    """A shard of three members."""
    async with replicated(tmp_path) as made:
        yield made


@pytest.fixture
async def raw(three: Replicated) -> AsyncIterator[RawClient]:
    made = await RawClient.connect(three.lab.port)
    yield made
    made.close()


def stop(three: Replicated, *numbers: int) -> None:
    for number in numbers:
        three.servers[number].stop()


def cont(three: Replicated, *numbers: int) -> None:
    for number in numbers:
        three.servers[number].cont()


async def test_a_write_is_told_once_a_majority_has_it(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    stop(three, 1)
    assert await raw.ask("SET", key, "one") == b"+OK\r\n"
    async with three.direct(2) as follower:
        assert await follower.get(key) == b"one"
    stop(three, 2)
    raw.send("SET", key, "two")
    async with three.direct(0) as leader:

        async def has() -> bool:
            return bool(await leader.get(key) == b"two")

        await until(has, "the leader has it")
    cont(three, 1)
    assert await raw.line() == b"+OK\r\n"
    cont(three, 2)


async def test_without_a_majority_a_write_is_unknown_and_a_read_of_the_leader_is_not(
    three: Replicated, raw: RawClient
) -> None:
    key = three.lab.key_of("shard-1")
    assert await raw.ask("SET", key, "one") == b"+OK\r\n"
    stop(three, 1, 2)
    three.fail_soon()
    said = await raw.ask("SET", key, "two")
    assert said.startswith(b"-UNKNOWN shard-1 at 127.0.0.1:%d answered, but no majority" % three.servers[0].port)
    assert b"outcome unknown" in said
    raw.send("GET", key)
    await raw.exactly(b"$3\r\ntwo\r\n")
    cont(three, 1, 2)


async def test_writes_are_refused_while_no_majority_follows(three: Replicated, raw: RawClient) -> None:
    key, other = three.lab.key_of("shard-1"), three.lab.key_of("shard-2")
    assert await raw.ask("SET", key, "one") == b"+OK\r\n"
    stop(three, 1, 2)
    three.fail_soon()
    assert (await raw.ask("SET", key, "two")).startswith(b"-UNKNOWN")
    refused = b"-NOREPLICAS shard-1 has a leader at 127.0.0.1:%d, but no majority" % three.servers[0].port
    write: tuple[str, ...] = ("SET", key, "three")
    words: tuple[str, ...]
    for words in (write, ("GETDEL", key), ("EVAL", "return redis.call('DEL', KEYS[1])", "1", key), ("BLPOP", key, "0")):
        said = await raw.ask(*words)
        assert said.startswith(refused)
        assert said.endswith(b"; nothing was executed\r\n")
    said = await raw.ask("MSET", key, "three", other, "three")
    assert said.startswith(refused)
    assert said.endswith(b"it was carried out on shard-2; it was not on shard-1\r\n")
    for watched in ((), ("WATCH", key)):
        for words in filter(None, (watched, ("MULTI",), ("GET", key), write)):
            assert await raw.ask(*words) in (b"+OK\r\n", b"+QUEUED\r\n")
        assert (await raw.ask("EXEC")).startswith(refused)
    raw.send("GET", key)
    await raw.exactly(b"$3\r\ntwo\r\n")
    cont(three, 2)
    three.be_patient()
    await until(partial(taken, raw, *write), "a majority follows again")
    raw.send("GET", key)
    await raw.exactly(b"$5\r\nthree\r\n")
    cont(three, 1)


async def taken(raw: RawClient, *words: str) -> bool:
    """Whether a write is taken; otherwise it is refused."""
    said = await raw.ask(*words)
    assert said == b"+OK\r\n" or said.startswith(b"-NOREPLICAS")
    return said == b"+OK\r\n"


async def test_an_error_acknowledges_nothing_and_waits_for_nobody(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    assert await raw.ask("SET", key, "word") == b"+OK\r\n"
    stop(three, 1, 2)
    assert (await raw.ask("INCR", key)).startswith(b"-ERR value is not an integer")
    cont(three, 1, 2)


async def test_replies_keep_their_order_when_some_wait(three: Replicated, raw: RawClient) -> None:
    lab = three.lab
    key, other = lab.key_of("shard-1"), lab.key_of("shard-2")
    stop(three, 1, 2)
    for words in (["GET", other], ["INCR", key], ["GET", key], ["SET", other, "x"], ["INCR", key], ["PING"]):
        raw.send(*words)
    await raw.exactly(b"$-1\r\n")
    async with three.direct(0) as leader:

        async def ran() -> bool:
            return bool(await leader.get(key) == b"2")

        await until(ran, "the leader has carried out both")
    cont(three, 1, 2)
    await raw.exactly(b":1\r\n$1\r\n1\r\n+OK\r\n:2\r\n+PONG\r\n")


async def test_a_leader_that_dies_before_the_round_leaves_it_unknown(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    stop(three, 1, 2)
    raw.send("SET", key, "lost")
    async with three.direct(0) as leader:

        async def has() -> bool:
            return bool(await leader.get(key) == b"lost")

        await until(has, "the leader has it")
    three.servers[0].kill()
    said = await raw.line()
    assert said.startswith(b"-UNKNOWN the connection to shard-1")
    assert b"before a majority of its members had confirmed it" in said
    cont(three, 1, 2)


async def test_a_learner_counts_for_nothing(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    await three.publish((0, 1), learners=(2,))
    for value in ("one", "two", "three"):
        assert await raw.ask("SET", key, value) == b"+OK\r\n"
    stop(three, 1)
    three.fail_soon()
    assert (await raw.ask("SET", key, "unknown")).startswith(b"-UNKNOWN")
    async with three.direct(2) as learner:
        assert await learner.get(key) == b"unknown"
    cont(three, 1)
    three.be_patient()
    await until(partial(taken, raw, "SET", key, "three"), "the member follows again")
    stop(three, 2)  # nor does one that stands still delay anything for good
    assert await raw.ask("SET", key, "four") == b"+OK\r\n"
    cont(three, 2)


async def test_a_follower_that_the_topology_does_not_name_counts_for_nothing(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    await three.publish((0, 1))
    stop(three, 1)
    three.fail_soon()
    assert (await raw.ask("SET", key, "unknown")).startswith(b"-UNKNOWN")
    async with three.direct(2) as stranger:
        assert await stranger.get(key) == b"unknown"
    cont(three, 1)


async def test_both_memberships_have_a_say_while_they_change(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    await three.publish((0, 1), outgoing=(0, 2))
    assert await raw.ask("SET", key, "one") == b"+OK\r\n"
    for stopped in (1, 2):
        stop(three, stopped)
        three.fail_soon()
        assert (await raw.ask("SET", key, "two")).startswith(b"-UNKNOWN")
        cont(three, stopped)
        three.be_patient()
        await until(partial(taken, raw, "SET", key, "two"), "both agree again")
    stop(three, 2)
    raw.send("SET", key, "three")
    async with three.direct(1) as follower:

        async def has() -> bool:
            return bool(await follower.get(key) == b"three")

        await until(has, "the new member has it")
    await three.publish((0, 1))
    assert await raw.line() == b"+OK\r\n"
    cont(three, 2)


async def test_a_shard_that_becomes_one_of_several_members_begins_to_wait(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    await three.publish((0,))
    stop(three, 1, 2)
    assert await raw.ask("SET", key, "alone") == b"+OK\r\n"
    await three.publish((0, 1))
    three.fail_soon()
    assert (await raw.ask("SET", key, "unknown")).startswith(b"-UNKNOWN")
    await three.publish((0,))
    assert await raw.ask("SET", key, "alone again") == b"+OK\r\n"
    cont(three, 1, 2)


async def test_transactions_scripts_and_waiting_commands_wait_if_they_write(three: Replicated, raw: RawClient) -> None:
    lab = three.lab
    key, queue = lab.key_of("shard-1"), lab.key_of("shard-1", "queue")
    assert await raw.ask("RPUSH", queue, "a", "b", "c") == b":3\r\n"
    assert await raw.ask("SET", key, "value") == b"+OK\r\n"
    stop(three, 1, 2)
    three.fail_soon()
    async with lab.client() as client:

        async def transaction(*commands: tuple[str, ...], watch: str = "") -> object:
            async with client.pipeline(transaction=True) as pipe:
                if watch:
                    await pipe.watch(watch)
                    pipe.multi()
                for words in commands:
                    pipe.execute_command(*words)
                return await pipe.execute()

        async def unknown(answer: Awaitable[object]) -> None:
            with pytest.raises(ResponseError, match="UNKNOWN shard-1"):
                await answer

        assert await transaction(("GET", key), ("STRLEN", key)) == [b"value", 5]
        assert await client.eval_ro("return redis.call('GET', KEYS[1])", 1, key) == b"value"
        later = queue + "{" + queue + "}"
        async with three.direct(0) as leader, asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(unknown(client.blpop(later, 0)))
            await until(lambda: bool(lab.router.blocked), "it waits")
            # All at once: what comes when it is known that no majority follows is refused.
            for watch in ("", key):
                tasks.create_task(unknown(transaction(("GET", key), ("INCR", "n" + "{" + key + "}"), watch=watch)))
            tasks.create_task(unknown(client.eval("return redis.call('APPEND', KEYS[1], 'x')", 1, "e{" + key + "}")))
            tasks.create_task(unknown(client.blpop(queue, 5)))
            await leader.rpush(later, "later")
        assert waiting.done()
        # A message is no data: it reaches who listens now.
        async with client.pubsub() as listener:
            await listener.subscribe(key)
            assert (await listener.get_message(timeout=20))["type"] == "subscribe"
            assert await client.publish(key, "news") == 1
            assert (await listener.get_message(timeout=20))["data"] == b"news"
    cont(three, 1, 2)


async def test_who_listens_to_everything_hears_nothing_of_rounds(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    async with three.lab.client() as client, client.pubsub() as listener:
        await listener.psubscribe("*")
        assert (await listener.get_message(timeout=20))["type"] == "psubscribe"
        for value in range(5):
            assert await raw.ask("SET", key, str(value)) == b"+OK\r\n"
        await client.publish(key, "news")
        assert (await listener.get_message(timeout=20))["data"] == b"news"


async def test_a_command_over_several_shards_says_of_which_it_is_not_known(three: Replicated, raw: RawClient) -> None:
    lab = three.lab
    one, other = lab.key_of("shard-1"), lab.key_of("shard-2")
    assert await raw.ask("MSET", one, "1", other, "2") == b"+OK\r\n"
    assert await raw.ask("DEL", one, other) == b":2\r\n"
    stop(three, 1, 2)
    three.fail_soon()
    for words in (("MSET", one, "1", other, "2"), ("DEL", one, other)):
        raw.send(*words)
    for _ in range(2):
        said = await raw.line()
        assert said.startswith(b"-UNKNOWN shard-1")
        assert said.endswith(b"it was carried out on shard-2; it may have been on shard-1\r\n")
    said = await raw.ask("FLUSHALL")
    assert said.startswith(b"-NOREPLICAS shard-1")
    assert said.endswith(b"it was carried out on shard-2; it was not on shard-1\r\n")
    cont(three, 1, 2)


async def test_a_linearizable_read_waits_for_a_round_of_its_own(three: Replicated, raw: RawClient) -> None:
    lab = three.lab
    key, other = lab.key_of("shard-1"), lab.key_of("shard-2")
    three.configure(linearizable=True)
    assert await raw.ask("SET", key, "1") == b"+OK\r\n"
    raw.send("MGET", key, other)
    await raw.exactly(b"*2\r\n$1\r\n1\r\n$-1\r\n")
    stop(three, 1, 2)
    three.fail_soon()
    tagged = key + "{" + key + "}"
    for said in (
        await raw.ask("GET", key),
        await raw.ask("MGET", key, other),
        await raw.ask("HSCAN", tagged, "0"),
        await raw.ask("EVAL_RO", "return 1", "1", key),
    ):
        assert said.startswith(b"-TRYAGAIN shard-1 at"), said
    raw.send("GET", other)
    await raw.exactly(b"$-1\r\n")
    assert (await raw.ask("SET", key, "2")).startswith(b"-NOREPLICAS")
    cont(three, 1, 2)
    three.be_patient()
    raw.send("GET", key)
    await raw.exactly(b"$1\r\n1\r\n")


async def test_an_error_that_tells_what_a_key_holds_waits_as_a_read_does(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    three.configure(linearizable=True)
    assert await raw.ask("SET", key, "word") == b"+OK\r\n"
    assert (await raw.ask("LRANGE", key, "0", "1")).startswith(b"-WRONGTYPE")
    stop(three, 1, 2)
    three.fail_soon()
    raw.send("LRANGE", key, "0", "1")
    raw.send("INCR", key)
    assert (await raw.line()).startswith(b"-TRYAGAIN shard-1 at")
    assert (await raw.line()).startswith(b"-UNKNOWN shard-1 at")
    cont(three, 1, 2)


async def test_what_a_server_refuses_that_leads_no_more_was_not_executed(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    assert await raw.ask("SET", key, "kept") == b"+OK\r\n"
    async with three.direct(0) as leader:
        await leader.replicaof("127.0.0.1", 1)
    for command in (
        ["SET", key, "lost"],
        ["GET", key],
        ["EVAL", "return redis.call('SET', KEYS[1], 'lost')", "1", key],
    ):
        said = await raw.ask(*command)
        assert said.startswith(b"-CLUSTERDOWN shard-1 is not led by"), said
        assert said.endswith(b"nothing was executed\r\n")


async def test_the_only_member_of_a_shard_that_follows_nobody_yet_has_executed_nothing(
    three: Replicated, raw: RawClient
) -> None:
    await three.publish((0,))
    async with three.direct(0) as leader:
        await leader.config_set("replica-serve-stale-data", "no")
        await leader.replicaof("127.0.0.1", 1)
    key = three.lab.key_of("shard-1")
    for command in (["GET", key], ["SET", key, "value"]):
        assert (await raw.ask(*command)).startswith(b"-CLUSTERDOWN shard-1 is not led by")


async def test_nothing_waits_where_durability_is_async(three: Replicated, raw: RawClient) -> None:
    three.configure(quorum=False)
    stop(three, 1, 2)
    assert await raw.ask("SET", three.lab.key_of("shard-1"), "1") == b"+OK\r\n"
    three.configure(quorum=True)
    three.fail_soon()
    assert (await raw.ask("SET", three.lab.key_of("shard-1"), "1")).startswith(b"-UNKNOWN")
    cont(three, 1, 2)


async def test_a_leader_that_was_restarted_is_sent_nothing(three: Replicated, raw: RawClient) -> None:
    key = three.lab.key_of("shard-1")
    assert await raw.ask("SET", key, "kept") == b"+OK\r\n"
    three.servers[0].kill()
    three.servers[0].start()

    async def refused() -> bool:
        said = await raw.ask("GET", key)
        assert said[:1] == b"-", said
        return said.startswith(b"-CLUSTERDOWN") and b"it does not lead the shard" in said

    await until(refused, "the router knows that it does not lead")


async def test_a_failover_by_hand_costs_no_session_and_no_acknowledged_write(three: Replicated, raw: RawClient) -> None:
    """The leader stands still, and another is made one; what was under way is unknown, what came later is served."""
    lab = three.lab
    key, session = lab.key_of("shard-1"), lab.router.session_id
    assert await raw.ask("SET", key, "kept") == b"+OK\r\n"
    stop(three, 0)
    raw.send("INCR", lab.key_of("shard-1", "count"))
    await until(lambda: bool(lab.router.pool.untold(["shard-1"])), "it is under way")
    epoch = await three.publish((0, 1, 2), history="", fenced_shards=frozenset(("shard-1",)))
    assert (await raw.line()).startswith(b"-UNKNOWN the connection to shard-1")
    await lab.acknowledged(epoch)
    raw.send("GET", key)
    await until(lambda: len(lab.router.holding) == 1, "it is held")
    for number in (1, 2):
        async with three.direct(number) as detached:
            await detached.replicaof("127.0.0.1", 1)
    async with three.direct(1) as promoted:
        await promoted.replicaof("NO", "ONE")
    await three.follow(2, 1)
    await three.publish((0, 1, 2), leader=1, fenced_shards=frozenset())
    await raw.exactly(b"$4\r\nkept\r\n")
    assert await raw.ask("SET", key, "new") == b"+OK\r\n"
    assert lab.router.session_id == session
    cont(three, 0)


async def test_writes_to_keys_that_may_be_lost_wait_for_nobody(three: Replicated, raw: RawClient) -> None:
    tag = three.lab.key_of("shard-1")
    order, cached, kept = f"order:{{{tag}}}", f"cache:{{{tag}}}", f"cache:kept:{{{tag}}}"
    three.configure(quorum_by_key=(("cache:kept:*", True), ("cache:*", False)))
    stop(three, 1, 2)
    assert await raw.ask("SET", cached, "1") == b"+OK\r\n"
    assert await raw.ask("DEL", cached, cached) == b":1\r\n"
    assert await raw.ask("SET", cached, "x" * 2_000_000) == b"+OK\r\n"
    three.fail_soon()
    # A script may write other keys than it names.
    script = ("EVAL", "return redis.call('SET', KEYS[1], '1')", "1", cached)
    waiting = (("SET", order, "1"), ("SET", kept, "1"), ("MSET", cached, "1", order, "1"), script)
    for words in waiting:
        raw.send(*words)
    for _ in waiting:
        assert (await raw.line()).startswith(b"-UNKNOWN")
    for words in waiting:
        assert (await raw.ask(*words)).startswith(b"-NOREPLICAS")
    three.configure(quorum=False, quorum_by_key=(("order:*", True),))
    assert await raw.ask("SET", cached, "2") == b"+OK\r\n"
    assert (await raw.ask("SET", order, "2")).startswith(b"-NOREPLICAS")
    three.configure(linearizable=True)
    assert await raw.ask("SET", cached, "3") == b"+OK\r\n"
    assert (await raw.ask("GET", cached)).startswith(b"-TRYAGAIN")
    cont(three, 1, 2)


async def test_behind_a_fence_the_router_can_log_in_at_all_that_may_lead_next(
    three: Replicated, raw: RawClient
) -> None:
    assert await raw.ask("SET", three.lab.key_of("shard-1"), "one") == b"+OK\r\n"
    node = three.lab.topology.nodes[0]
    others = tuple(replace(node, id=f"node-{number}") for number in (1, 2))

    async def known(number: int) -> bool:
        async with three.direct(number) as direct:
            return any(name.startswith(SESSION_PREFIXES[UserRole.ROUTER]) for name in await direct.acl_users())

    await three.publish((0, 1, 2), nodes=(*three.lab.topology.nodes, *others))
    assert not await known(1)
    await three.publish((0, 1, 2), fenced_shards=frozenset({"shard-1"}))
    await until(lambda: known(1), "the second member knows the router")
    await until(lambda: known(2), "the third member knows the router")


async def test_what_was_under_way_at_a_leader_that_leads_again_is_unknown_and_ended_before_a_fence_is_settled(
    three: Replicated, raw: RawClient
) -> None:
    key = three.lab.key_of("shard-1")
    assert await raw.ask("SET", key, "one") == b"+OK\r\n"
    link = three.lab.router.pool.link("shard-1", 2)
    before = link.client_id
    stop(three, 0)
    raw.send("SET", key, "two")
    await until(lambda: _is(link.issued > link.answered), "it is under way")
    shard = three.lab.topology.shard("shard-1")
    other = three.lab.topology.shard("shard-2")
    assert shard is not None and other is not None
    # Another has led between, and the router has not seen its term; then it has.
    router = three.lab.router
    for history in ("f" * 40, shard.lineage[0].history):
        lineage = (Term(history, 0), *shard.lineage)
        await three.lab.publish(shards=(replace(shard, lineage=lineage), other))
        await until(lambda: _is(router.topology.epoch == three.lab.topology.epoch), "the router has it")
        assert router.pool.marks(["shard-1"], lambda key: True), "a fence would wait for it"
    assert (await raw.line()).startswith(b"-UNKNOWN the connection to shard-1")
    cont(three, 0)
    for again, mark in router.pool.marks(["shard-1"], lambda key: True):
        await again.settled(mark)
    async with three.direct(0) as direct:
        assert before not in [int(client["id"]) for client in await direct.client_list()]
    assert await raw.ask("SET", key, "three") == b"+OK\r\n"


async def _is(fulfilled: bool) -> bool:
    return fulfilled
