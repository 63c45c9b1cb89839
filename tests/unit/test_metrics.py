"""What Prometheus reads from the gateway."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.fake_gateway import HISTORY, MIGRATION, Gateway

from helios.admin.views import ShardView, StatsView
from helios.errors import Unavailable

ROOT = Path(__file__).parents[2]
PAIR = {"source": "shard-1", "target": "shard-2"}


class Scraper:
    """A gateway and what its /metrics says."""

    def __init__(self) -> None:
        self.gateway = Gateway()

    async def read(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample by name and labels."""
        response = await self.gateway.http.get("/metrics")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/plain; version=")
        families = text_string_to_metric_families(response.text)
        return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}

    async def sample(self, name: str, **labels: str) -> float | None:
        """One of them."""
        return (await self.read()).get((name, frozenset(labels.items())))


@pytest.fixture
async def scraper() -> AsyncIterator[Scraper]:
    made = Scraper()
    async with made.gateway.http:
        yield made


async def test_the_cluster_in_gauges(scraper: Scraper) -> None:
    samples = await scraper.read()
    plain = {name: value for (name, labels), value in samples.items() if not labels}
    assert plain["helios_cluster_up"] == 1
    assert plain["helios_epoch"] == 9
    assert plain["helios_nodes_online"] == 1
    assert plain["helios_migrations_active"] == 1
    assert plain["helios_migrations_pending"] == 0
    node = frozenset({("node", "shard-1")})
    assert samples["helios_node_keys", node] == 3
    assert samples["helios_node_online", node] == 1
    assert samples["helios_shard_missing_copies", frozenset({("shard", "shard-1")})] == 1
    assert samples["helios_shard_leaderless", frozenset({("shard", "shard-1")})] == 0
    assert samples["helios_shard_without_majority", frozenset({("shard", "shard-1")})] == 0
    replica, learner = (frozenset({("shard", "shard-1"), ("node", name)}) for name in ("shard-1", "shard-3"))
    assert samples["helios_replica_in_sync", replica] == 1
    assert samples["helios_replica_lag_bytes", replica] == 120
    assert samples["helios_replica_lag_seconds", replica] == 0.5
    assert samples["helios_replica_in_sync", learner] == 0
    assert ("helios_replica_lag_bytes", learner) not in samples
    pair = frozenset(PAIR.items())
    assert samples["helios_migration_keys_copied", pair] == 5
    assert samples["helios_migration_keys_expected", pair] == 10
    assert samples["helios_migration_slowed_seconds", pair] == 0


async def test_a_scrape_looks_at_the_servers_once(scraper: Scraper, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[bool] = []
    admin = scraper.gateway.admin
    stats, shards = await admin.stats(), await admin.list_shards()

    async def figures(*, exact: bool = True) -> tuple[StatsView, list[ShardView]]:
        looks.append(exact)
        return stats, shards

    monkeypatch.setattr(admin, "figures", figures)
    for other in ("stats", "list_shards", "list_nodes"):
        monkeypatch.delattr(type(admin), other)
    assert await scraper.sample("helios_cluster_up") == 1
    assert looks == [False]


async def test_a_pause_is_counted_once(scraper: Scraper) -> None:
    admin = scraper.gateway.admin
    assert await scraper.sample("helios_migration_pause_seconds_count", **PAIR) is None
    admin.view = replace(MIGRATION, keys_moved=9, pause_ms=4.0, slowed_ms=16)
    for _ in range(2):
        samples = await scraper.read()
        pair = frozenset(PAIR.items())
        assert samples["helios_migration_pause_seconds_count", pair] == 1
        assert samples["helios_migration_pause_seconds_sum", pair] == 0.004
        assert samples["helios_migration_pause_seconds_bucket", pair | {("le", "0.005")}] == 1
        assert samples["helios_migration_pause_seconds_bucket", pair | {("le", "0.002")}] == 0
        assert samples["helios_migration_keys_moved_total", pair] == 9
        assert samples["helios_migration_slowed_seconds", pair] == 0.016
    admin.view = replace(admin.view, id="m-2", status="completed", keys_moved=10, pause_ms=3.0, end_time=1.0)
    assert await scraper.sample("helios_migration_pause_seconds_count", **PAIR) == 2
    assert await scraper.sample("helios_migrations_ended_total", status="completed") == 1
    assert await scraper.sample("helios_migration_keys_moved_total", **PAIR) == 19
    assert await scraper.sample("helios_migration_keys_copied", **PAIR) is None


async def test_a_copy_that_starts_again_never_counts_down(scraper: Scraper) -> None:
    for moved, total in ((8, 8), (0, 8), (3, 11)):
        scraper.gateway.admin.view = replace(MIGRATION, keys_moved=moved)
        assert await scraper.sample("helios_migration_keys_moved_total", **PAIR) == (total or None)


async def test_requests_are_counted_by_route_and_not_by_key(scraper: Scraper) -> None:
    http = scraper.gateway.http
    for key in ("a", "b/c"):
        await http.put(f"/api/v1/kv/{key}", content=b"1")
        await http.get(f"/api/v1/kv/{key}")
    await http.get("/api/v1/kv/gone")
    await http.get("/nothing/here")
    await http.request("BREW", "/healthz")
    samples = await scraper.read()

    def requests(method: str, route: str, status: str) -> float | None:
        labels = {"method": method, "route": route, "status": status}
        return samples.get(("helios_gateway_requests_total", frozenset(labels.items())))

    key = "/api/v1/kv/{key:key}"
    assert requests("PUT", key, "200") == 2
    assert requests("GET", key, "200") == 2
    assert requests("GET", key, "404") == 1
    assert requests("GET", "none", "404") == 1
    assert requests("other", "/healthz", "405") == 1 or requests("other", "none", "405") == 1
    latency = frozenset({("method", "GET"), ("route", key)})
    assert samples["helios_gateway_request_seconds_count", latency] == 3


async def test_an_unforeseen_error_counts_as_500(scraper: Scraper) -> None:
    scraper.gateway.admin.error = ZeroDivisionError()
    assert (await scraper.gateway.http.get("/api/v1/shards/stats")).status_code == 500
    scraper.gateway.admin.error = None
    labels = {"method": "GET", "route": "/api/v1/shards/stats", "status": "500"}
    assert await scraper.sample("helios_gateway_requests_total", **labels) == 1


async def test_a_cluster_that_does_not_answer_is_a_figure_too(scraper: Scraper) -> None:
    scraper.gateway.admin.error = Unavailable("the store is away")
    samples = await scraper.read()
    assert samples["helios_cluster_up", frozenset()] == 0
    assert not any(name == "helios_epoch" for name, _ in samples)


async def test_the_routers_in_figures(scraper: Scraper) -> None:
    samples = await scraper.read()
    router = frozenset({("node", "shard-1"), ("worker", "0")})
    assert samples["helios_router_up", router] == 1
    assert samples["helios_router_up", frozenset({("node", "shard-2"), ("worker", "1")})] == 0
    assert samples["helios_router_commands_total", router] == 40
    assert samples["helios_router_clients", router] == 2
    assert samples["helios_router_lease_left_seconds", router] == 2.5
    assert samples["helios_router_errors_total", router | {("error", "CROSSSHARD")}] == 2
    assert samples["helios_router_clients_disconnected_total", router | {("reason", "idle")}] == 1
    shard = router | {("shard", "shard-1")}
    assert samples["helios_router_requests_total", shard | {("class", "read")}] == 2
    assert samples["helios_router_request_seconds_bucket", shard | {("le", "0.00025")}] == 2
    assert samples["helios_router_request_seconds_bucket", shard | {("le", "0.005")}] == 3
    assert samples["helios_router_request_seconds_bucket", shard | {("le", "+Inf")}] == 3
    assert samples["helios_router_request_seconds_sum", shard] == 0.004
    assert samples["helios_router_link", shard | {("state", "ready")}] == 1
    assert samples["helios_router_link", shard | {("state", "down")}] == 0
    assert samples["helios_router_shard_held_commands", shard] == 1
    assert not any(("node", "shard-2") in labels for name, labels in samples if name == "helios_router_clients")


async def test_scripts_that_keep_a_server_are_counted_once_and_not_from_before(scraper: Scraper) -> None:
    admin = scraper.gateway.admin
    stuck = replace(HISTORY, change="c-7", kind="end_script", status="failed")
    admin.entries = [HISTORY, stuck]
    assert await scraper.sample("helios_scripts_ended_total", status="failed") == 0
    admin.entries = [stuck, replace(stuck, change="c-8"), replace(stuck, change="c-9", status="done")]
    for _ in range(2):
        assert await scraper.sample("helios_scripts_ended_total", status="failed") == 1
        assert await scraper.sample("helios_scripts_ended_total", status="done") == 1


async def test_failovers_are_counted_by_shard(scraper: Scraper) -> None:
    admin = scraper.gateway.admin
    before = replace(HISTORY, change="f-1", kind="failover", shard="shard-1")
    admin.entries = [before]
    assert await scraper.sample("helios_failovers_total", shard="shard-1") == 0
    admin.entries = [before, replace(before, change="f-2")]
    for _ in range(2):
        assert await scraper.sample("helios_failovers_total", shard="shard-1") == 1


async def test_the_documents_and_the_rules_name_the_figures_that_there_are(scraper: Scraper) -> None:
    admin = scraper.gateway.admin
    admin.view = replace(MIGRATION, pause_ms=4.0)
    there = {name for name, _ in await scraper.read()}
    admin.view = replace(admin.view, id="m-2", status="failed", end_time=1.0)
    there |= {name for name, _ in await scraper.read()}
    suffixes = ("_bucket", "_count", "_sum", "_total")
    families = {name.removesuffix(next((end for end in suffixes if name.endswith(end)), "")) for name in there}
    explained = (ROOT / "docs" / "MONITORING.md").read_text(encoding="utf-8")
    rules = (ROOT / "examples" / "monitoring" / "alerts.yml").read_text(encoding="utf-8")
    for text in (explained, rules):
        for name in set(re.findall(r"helios_[a-z_]*[a-z]", text)):
            assert name in there | families, name
    for family in families:
        assert f"{family}" in explained, f"{family} is not explained"
    expressions = [rule["expr"] for group in yaml.safe_load(rules)["groups"] for rule in group["rules"]]
    assert len(expressions) > 5
    # What one is to be woken by has a rule each.
    woken_by = explained[explained.index("## Alerts") :]
    watched = set(re.findall(r"helios_[a-z_]*[a-z]", woken_by))
    assert {name for name in watched if not any(name in each for each in expressions)} == set()
    assert "127.0.0.1:8443" in (ROOT / "examples" / "monitoring" / "prometheus.yml").read_text(encoding="utf-8")
