"""Clients, task queues and caches from their packages, used as their documentation tells, on a cluster of processes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
import rq
import valkey
from celery import Celery
from celery.contrib.testing.worker import start_worker
from django.core.cache.backends.redis import RedisCache
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests import queue_jobs

from helios import LocalCluster

pytestmark = pytest.mark.processes
WAIT_S = 60
TESTS = Path(queue_jobs.__file__).parent


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(shards=3) as running:
        yield running


@pytest.fixture(params=[redis.Redis, valkey.Valkey], ids=["redis-py", "valkey-py"])
def client(request: pytest.FixtureRequest, empty_cluster: LocalCluster) -> Iterator[Any]:
    """A client of either package, without any option."""
    with closing(request.param(port=empty_cluster.port, decode_responses=True)) as made:
        yield made


@pytest.fixture
def empty_cluster(cluster: LocalCluster) -> LocalCluster:
    cluster.flush()
    return cluster


# --- the clients ------------------------------------------------------------------------------------------------


def test_pipelines_over_all_nodes(client: Any) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for i in range(300):
            pipeline.set(f"key:{i}", i).incrby(f"key:{i}", 1).hset(f"hash:{i}", mapping={"a": i, "b": 2})
        assert pipeline.execute() == [reply for i in range(300) for reply in (True, i + 1, 2)]
    assert client.mget([f"key:{i}" for i in range(300)]) == [str(i + 1) for i in range(300)]
    assert client.dbsize() == 600
    assert sorted(client.scan_iter("hash:*", count=50)) == sorted(f"hash:{i}" for i in range(300))
    assert client.hgetall("hash:7") == {"a": "7", "b": "2"}


def test_transactions_try_again_until_nobody_interferes(client: Any) -> None:
    def add_one(pipeline: Any) -> None:
        present = int(pipeline.get("{sum}total") or 0)
        pipeline.multi()
        pipeline.set("{sum}total", present + 1)
        pipeline.rpush("{sum}steps", present + 1)

    def work() -> None:
        for _ in range(10):
            client.transaction(add_one, "{sum}total")

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(WAIT_S)
    assert client.get("{sum}total") == "30"
    assert client.lrange("{sum}steps", 0, -1) == [str(i + 1) for i in range(30)]


def test_scripts_and_locks(client: Any) -> None:
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert [script(keys=[f"count:{i}"], args=[i]) for i in range(9)] == list(range(9))
    client.script_flush()
    assert script(keys=["count:1"], args=[10]) == 11
    with client.lock("lock:one", timeout=WAIT_S):
        assert not client.lock("lock:one", timeout=WAIT_S).acquire(blocking=False)
    assert client.lock("lock:one", timeout=WAIT_S).acquire(blocking=False)


def test_what_is_published_through_one_node_is_heard_through_another(cluster: LocalCluster, client: Any) -> None:
    others = [address.rpartition(":")[2] for address in cluster.addresses.values()]
    heard: list[tuple[str, str]] = []
    with client.pubsub(ignore_subscribe_messages=False) as subscription:
        subscription.subscribe("news")
        subscription.psubscribe("n?ws")
        for _ in range(2):
            assert subscription.get_message(timeout=WAIT_S)["type"] in ("subscribe", "psubscribe")
        for port in others:
            with closing(redis.Redis(port=int(port))) as publisher:
                publisher.publish("news", port)
        for _ in range(2 * len(others)):
            message = subscription.get_message(timeout=WAIT_S)
            heard.append((message["type"], message["data"]))
    assert sorted(heard) == sorted((kind, port) for kind in ("message", "pmessage") for port in others)


def test_a_client_that_retries_goes_on_after_its_connection_was_ended(empty_cluster: LocalCluster) -> None:
    with (
        closing(redis.Redis(port=empty_cluster.port, retry=Retry(NoBackoff(), 1), max_connections=1)) as lasting,
        closing(redis.Redis(port=empty_cluster.port)) as other,
    ):
        lasting.set("key", "value")
        before = lasting.client_id()
        assert other.client_kill_filter(_id=str(before)) == 1
        assert lasting.get("key") == b"value"
        assert lasting.client_id() != before


async def test_the_asynchronous_client(empty_cluster: LocalCluster) -> None:
    async with redis.asyncio.Redis(port=empty_cluster.port, protocol=3, decode_responses=True) as client:
        assert await asyncio.gather(*(client.incr(f"key:{i % 10}") for i in range(100)))
        assert await client.mget([f"key:{i}" for i in range(10)]) == ["10"] * 10
        async with client.pipeline(transaction=True) as pipeline:
            pipeline.zadd("{z}1", {"a": 1.5})
            pipeline.zscore("{z}1", "a")
            pipeline.zunionstore("{z}2", ["{z}1"])
            replies = await pipeline.execute()
        assert replies == [1, 1.5, 1]
        waiting = asyncio.ensure_future(client.blpop(["queue"], timeout=WAIT_S))
        async with client.pubsub() as subscription:
            await subscription.subscribe("news")
            assert (await anext(aiter(subscription.listen())))["type"] == "subscribe"
            await client.publish("news", "today")
            assert (await anext(aiter(subscription.listen())))["data"] == "today"
        await client.rpush("queue", "element")
        assert list(await waiting or ()) == ["queue", "element"]


def test_pipelines_go_on_while_their_keys_move(empty_cluster: LocalCluster) -> None:
    admin = empty_cluster.admin
    keys = [f"moving:{i}" for i in range(60)]
    with closing(redis.Redis(port=empty_cluster.port, retry=Retry(NoBackoff(), 0))) as client:
        client.mset(dict.fromkeys(keys, 0))
        move = admin.migrate("shard-2", "shard-3", "moving:*")
        rounds = 0
        while rounds < 20 or admin.active_migrations():
            rounds += 1
            with client.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.incr(key)
                assert pipeline.execute() == [rounds] * len(keys)
        assert admin.wait(move).keys_moved > 0
        assert client.mget(keys) == [str(rounds).encode()] * len(keys)


# --- what is built on them --------------------------------------------------------------------------------------


def test_a_celery_worker(empty_cluster: LocalCluster) -> None:
    app = Celery("jobs", broker=empty_cluster.url, backend=empty_cluster.url)
    # A worker waits for several lists at once, which have to be together: the prefix has a hash tag.
    app.conf.broker_transport_options = {"global_keyprefix": "{celery}:"}
    app.conf.result_backend_transport_options = {"global_keyprefix": "{celery}:"}
    double = app.task(queue_jobs.double, name="double")
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=WAIT_S):
        results = [double.delay(i) for i in range(5)]
        assert [result.get(timeout=WAIT_S) for result in results] == [0, 2, 4, 6, 8]


def test_a_celery_worker_without_a_prefix_whose_keys_are_on_one_node(empty_cluster: LocalCluster) -> None:
    for pattern in ("celery*", "unacked*", "_kombu*", "*.pidbox*"):
        empty_cluster.admin.wait(empty_cluster.admin.migrate("*", "shard-3", pattern))
    app = Celery("other jobs", broker=empty_cluster.url, backend=empty_cluster.url)
    double = app.task(queue_jobs.double, name="double again")
    with start_worker(app, pool="solo", perform_ping_check=False, shutdown_timeout=WAIT_S):
        results = [double.delay(i) for i in range(5)]
        assert [result.get(timeout=WAIT_S) for result in results] == [0, 2, 4, 6, 8]


def test_the_ways_out_that_an_error_names_are_ones(empty_cluster: LocalCluster) -> None:
    keys = [f"wayout:{i}" for i in range(20)]
    with closing(redis.Redis(port=empty_cluster.port)) as client:

        def set_all(*, transaction: bool, prefix: str = "") -> list[Any]:
            with client.pipeline(transaction=transaction) as pipeline:
                for key in keys:
                    pipeline.set(prefix + key, 1)
                return list(pipeline.execute())

        with pytest.raises(redis.ResponseError) as caught:
            set_all(transaction=True)
        for way in ("transaction=False", "{tag}", "helios-cli migrate '*' shard-3 'PATTERN'"):
            assert way in str(caught.value)
        assert all(set_all(transaction=False))
        assert all(set_all(transaction=True, prefix="{w}:"))
        empty_cluster.admin.wait(empty_cluster.admin.migrate("*", "shard-3", "wayout:*"))
        assert all(set_all(transaction=True))


def test_an_rq_worker(empty_cluster: LocalCluster) -> None:
    # Its transactions are about keys of many names, so they are collected on one node.
    for source in ("shard-2", "shard-3"):
        empty_cluster.admin.wait(empty_cluster.admin.migrate(source, "shard-1", "rq:*"))
    with closing(redis.Redis(port=empty_cluster.port)) as connection:
        queue = rq.Queue(connection=connection)
        jobs = [queue.enqueue(queue_jobs.double, i) for i in range(3)]
        worker = [sys.executable, "-m", "rq.cli", "worker", "--burst", "--url", empty_cluster.url]
        path = {**os.environ, "PYTHONPATH": str(TESTS.parent)}
        ended = subprocess.run(worker, capture_output=True, text=True, timeout=WAIT_S, env=path, check=False)
        assert ended.returncode == 0, ended.stderr
        for job in jobs:
            job.refresh()
        assert [job.return_value() for job in jobs] == [0, 2, 4], ended.stderr
        assert queue.is_empty()


def test_djangos_cache(empty_cluster: LocalCluster) -> None:
    addresses = [f"redis://{address}" for address in empty_cluster.addresses.values()]
    cache = RedisCache(addresses, {})  # it writes through the first and reads through the others
    pages = [f"page:{i}" for i in range(50)]
    for page in pages:
        cache.set(page, {"of": page})
    assert cache.get_many(pages) == {page: {"of": page} for page in pages}
    assert cache.add("page:1", "other") is False
    assert cache.touch("page:1", 100) is True
    cache.set("visits", 1)
    assert cache.incr("visits", 5) == 6
    cache.set("gone", 1, timeout=0)
    assert cache.get("gone", "default") == "default"
    cache.delete_many(pages[:40])
    assert [page for page in pages if cache.has_key(page)] == pages[40:]
    # What it sets together is one transaction.
    with pytest.raises(redis.ResponseError, match="CROSSSHARD"):
        cache.set_many(dict.fromkeys(pages, 1))
    tagged = [f"{{pages}}:{i}" for i in range(50)]
    cache.set_many(dict.fromkeys(tagged, 1))
    assert cache.get_many(tagged) == dict.fromkeys(tagged, 1)
    # Nor does it need tags where the keys are collected on one node; Django puts its version before them.
    empty_cluster.admin.wait(empty_cluster.admin.migrate("*", "shard-2", ":1:page:*"))
    # As Django makes it from CACHES: with its prefix and version.
    django = RedisCache(addresses, {"KEY_PREFIX": "", "VERSION": 1})
    django.set_many(dict.fromkeys(pages, 2))
    assert django.get_many(pages) == dict.fromkeys(pages, 2)
    cache.clear()
    assert cache.get("visits") is None


def test_keys_of_the_shape_that_bullmq_gives_them(empty_cluster: LocalCluster) -> None:
    """Its scripts take many keys of one queue: PREFIX:QUEUE:NAME, and PREFIX:QUEUE:ID of each job."""
    add = (
        "redis.call('HSET', KEYS[4], 'data', ARGV[1]) redis.call('XADD', KEYS[3], '*', 'event', 'added') "
        "redis.call('LPUSH', KEYS[1], ARGV[2]) return redis.call('INCR', KEYS[2])"
    )

    def keys(prefix: str) -> list[str]:
        return [f"{prefix}:mail:{name}" for name in ("wait", "id", "events", "1")]

    with closing(redis.Redis(port=empty_cluster.port)) as client:
        with pytest.raises(redis.ResponseError, match=r"CROSSSHARD.*\{tag\}.*migrate"):
            client.eval(add, 4, *keys("bull"), "{}", "1")
        # The way out by its option `prefix`: "{bull}".
        assert client.eval(add, 4, *keys("{bull}"), "{}", "1") == 1
        # And the one by a rule, with the prefix that it has of itself.
        empty_cluster.admin.wait(empty_cluster.admin.migrate("*", "shard-3", "bull:*"))
        assert client.eval(add, 4, *keys("bull"), "{}", "1") == 1
        assert {empty_cluster.admin.node_for_key(key).node_id for key in keys("bull")} == {"shard-3"}
