"""The REST interface over a fake cluster: every endpoint, every kind of error."""

from __future__ import annotations

import json
from dataclasses import replace

import httpx
import pytest
from tests.fake_gateway import CHANGE, MIGRATION, SLOW, FakeAdmin, FakeKeyValue, Gateway, error_of

from helios.api.app import create_app
from helios.errors import (
    Conflict,
    EngineUnreachable,
    HeliosError,
    InvalidInput,
    NotFound,
    OutcomeUnknown,
    Refused,
    StoreError,
    Unavailable,
)

# --- shards ---


async def test_add_node_takes_what_plain_curl_sends(gateway: Gateway) -> None:
    response = await gateway.http.post(
        "/api/v1/shards/nodes",
        content=b'{"node_id":"shard-4","address":"localhost:6382"}',
        headers={"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert response.status_code == 202
    assert response.json() == {
        "change": "c-1",
        "kind": "add_node",
        "status": "running",
        "message": "",
        "migrations": ["m-1"],
    }
    assert gateway.admin.calls == [("add_node", "shard-4", "localhost:6382", 1.0, "", False, False)]


async def test_add_node_passes_every_option_on(gateway: Gateway) -> None:
    body = {"node_id": "n", "address": "h:1", "weight": 2, "zone": "z", "import": True, "flush": True}
    assert (await gateway.http.post("/api/v1/shards/nodes", json=body)).status_code == 202
    assert gateway.admin.calls == [("add_node", "n", "h:1", 2.0, "z", True, True)]


async def test_remove_node_reads_the_body_of_a_delete(gateway: Gateway) -> None:
    response = await gateway.http.request("DELETE", "/api/v1/shards/nodes", content=b'{"node_id":"shard-4"}')
    assert response.status_code == 202
    assert gateway.admin.calls == [("remove_node", "shard-4")]


@pytest.mark.parametrize("status", ["done", "cancelled"])
async def test_a_change_that_has_ended_is_200(gateway: Gateway, status: str) -> None:
    gateway.admin.change_view = replace(CHANGE, status=status)
    assert (await gateway.http.post("/api/v1/shards/rebalance")).status_code == 200
    gateway.admin.view = replace(MIGRATION, status="completed")
    body = {"source_node": "a", "target_node": "b"}
    assert (await gateway.http.post("/api/v1/shards/migrate", json=body)).status_code == 200


@pytest.mark.parametrize("status", ["refused", "failed"])
async def test_a_change_that_came_to_nothing_is_409(gateway: Gateway, status: str) -> None:
    gateway.admin.change_view = replace(CHANGE, status=status, message="another move is under way")
    response = await gateway.http.post("/api/v1/shards/rebalance")
    assert response.status_code == 409
    assert error_of(response)["message"] == "another move is under way"


async def test_nodes_and_stats(gateway: Gateway) -> None:
    nodes = (await gateway.http.get("/api/v1/shards/nodes")).json()
    assert nodes["nodes"][0]["id"] == "shard-1"
    assert nodes["nodes"][0]["ring_share"] == 0.5
    stats = (await gateway.http.get("/api/v1/shards/stats")).json()
    expected = {
        "total_nodes": 1,
        "online_nodes": 1,
        "total_keys": 3,
        "sharding_enabled": True,
        "replication_factor": 1,
        "active_migrations": 1,
    }
    assert expected.items() <= stats.items()


@pytest.mark.parametrize(
    ("query", "key"),
    [("key=user%3Aalice", b"user:alice"), ("key=a+b", b"a b"), ("key=%FF%00", b"\xff\x00"), ("key=a=b", b"a=b")],
)
async def test_node_for_key_gets_the_bytes(gateway: Gateway, query: str, key: bytes) -> None:
    response = await gateway.http.get(f"/api/v1/shards/node?{query}")
    assert response.status_code == 200
    assert {"key", "node_id", "address"} <= set(response.json())
    assert gateway.admin.calls == [("node_for_key", key)]


async def test_migrations(gateway: Gateway) -> None:
    body = {"source_node": "shard-1", "target_node": "shard-2", "key_pattern": "user:*"}
    response = await gateway.http.post("/api/v1/shards/migrate", json=body)
    assert response.status_code == 202
    assert response.json()["id"] == "m-1"
    one = (await gateway.http.get("/api/v1/shards/migration?task_id=m-1")).json()
    fields = {"id", "source_node", "target_node", "key_pattern", "status", "keys_moved", "total_keys"}
    assert fields | {"start_time", "end_time", "error"} <= set(one)
    for path in ("migrations", "migrations/active"):
        listed = (await gateway.http.get(f"/api/v1/shards/{path}")).json()
        assert listed == {"migrations": [one]}
    assert (await gateway.http.post("/api/v1/shards/migrations/m-1/cancel")).json() == one
    assert (await gateway.http.post("/api/v1/shards/migrations/cleanup", content=b"{}")).json() == {"removed": 7}
    assert [call[0] for call in gateway.admin.calls] == [
        "migrate",
        "migration",
        "migrations",
        "active_migrations",
        "cancel_migration",
        "cleanup_migrations",
    ]


@pytest.mark.parametrize(
    ("method", "path", "body", "call"),
    [
        ("GET", "rules", None, ("rules",)),
        ("GET", "placement", None, ("placement",)),
        ("POST", "check", None, ("check", False)),
        ("POST", "check", {"repair": True}, ("check", True)),
        ("POST", "migrations/m-1/pause", None, ("pause_migration", "m-1")),
        ("POST", "migrations/m-1/resume", {}, ("resume_migration", "m-1")),
        ("GET", "changes/c-1", None, ("change", "c-1")),
        ("GET", "settings", None, ("settings",)),
        ("GET", "settings/history", None, ("setting_history",)),
        ("POST", "settings/rollback", None, ("roll_back_settings", None)),
        ("POST", "settings/rollback", {"number": 3}, ("roll_back_settings", 3)),
        ("GET", "settings/sharding.migration_rate", None, ("setting", "sharding.migration_rate")),
        ("PUT", "settings/sharding.migration_rate", {"value": "5"}, ("change_setting", "sharding.migration_rate", "5")),
        ("PUT", "settings/sharding.migration_rate", {"value": 5}, ("change_setting", "sharding.migration_rate", "5")),
        ("PUT", "settings/a.b", {"value": True}, ("change_setting", "a.b", "true")),
        ("PUT", "settings/a.b", {"value": 0.5}, ("change_setting", "a.b", "0.5")),
    ],
)
async def test_looking_and_steering(
    gateway: Gateway, method: str, path: str, body: object, call: tuple[object, ...]
) -> None:
    content = b"" if body is None else json.dumps(body).encode()
    response = await gateway.http.request(method, f"/api/v1/shards/{path}", content=content)
    assert response.status_code == 200, response.text
    assert gateway.admin.calls == [call]


async def test_the_routers(gateway: Gateway) -> None:
    answering, silent = (await gateway.http.get("/api/v1/routers")).json()["routers"]
    assert (answering["node"], answering["answers"], answering["clients"]) == ("shard-1", True, 2)
    assert answering["errors"] == {"CROSSSHARD": 2}
    assert answering["shards"][0]["latency"]["buckets"] == [[0.0002, 2], [0.0035, 1]]
    assert silent["answers"] is False
    assert silent["error"].startswith("it does not answer")


async def test_the_slow_commands(gateway: Gateway) -> None:
    told = (await gateway.http.get("/api/v1/shards/slow-commands?count=3")).json()
    assert told["commands"][0]["arguments"] == ["GET", "films"]
    assert told["missing"] == list(SLOW.missing)
    assert gateway.admin.calls == [("slow_commands", 3)]
    wrong = await gateway.http.get("/api/v1/shards/slow-commands?count=0")
    assert wrong.status_code == 400


async def test_what_rules_checks_and_settings_look_like(gateway: Gateway) -> None:
    rules = (await gateway.http.get("/api/v1/shards/rules")).json()
    assert rules == {"rules": [{"source": "shard-1", "target": "shard-4", "patterns": ["user:*", "*:1"]}]}
    placement = (await gateway.http.get("/api/v1/shards/placement")).json()
    assert placement["reassigned"] == [{"position": "18446744073709551615", "node": "shard-4"}]
    assert placement["rules"] == rules["rules"]
    found = (await gateway.http.post("/api/v1/shards/check")).json()
    assert found["clean"] is False
    assert found["findings"][0]["kind"] == "double"
    listed = (await gateway.http.get("/api/v1/shards/settings")).json()
    assert listed["settings"][0]["name"] == "sharding.migration_rate"


@pytest.mark.parametrize(
    ("method", "path", "body", "call", "count"),
    [
        ("POST", "nodes", {"node_id": "n", "address": "h:1", "weight": 2}, ("preview_add_node", "n", "h:1", 2.0), 1),
        ("DELETE", "nodes", {"node_id": "n"}, ("preview_remove_node", "n"), 1),
        ("POST", "migrate", {"source_node": "a", "target_node": "b"}, ("preview_migrate", "a", "b", "*"), 1),
        ("POST", "rebalance", {"strategy": "uniform"}, ("preview_rebalance", "uniform", ""), 1),
        ("PUT", "nodes/n/weight", {"weight": 2}, ("preview_reweight", "n", 2.0), 1),
        ("POST", "nodes/n/drain", {}, ("preview_drain", "n"), 1),
        ("POST", "nodes/n/undrain", {}, ("preview_undrain", "n"), 1),
    ],
)
async def test_a_dry_run_changes_nothing(
    gateway: Gateway, method: str, path: str, body: object, call: tuple[object, ...], count: int
) -> None:
    response = await gateway.http.request(method, f"/api/v1/shards/{path}?dry_run=true", json=body)
    assert response.status_code == 200
    assert gateway.admin.calls == [call]
    previews = response.json()["previews"]
    assert len(previews) == count
    for preview in previews:
        assert preview == {
            "source_node": "shard-1",
            "target_node": "shard-2",
            "keys": 1200,
            "bytes": 90_000,
            "sampled": 500,
        }


@pytest.mark.parametrize("query", ["dryrun=true", "dry_run=yes", "dry_run=", "dry_run=true&dry_run=true"])
async def test_a_dry_run_that_is_not_understood_changes_nothing(gateway: Gateway, query: str) -> None:
    response = await gateway.http.post(f"/api/v1/shards/rebalance?{query}")
    assert response.status_code == 400
    assert gateway.admin.calls == []


@pytest.mark.parametrize(
    ("method", "path", "body", "call"),
    [
        ("POST", "rebalance", {"strategy": "uniform", "by": "ops"}, ("rebalance", "uniform", "ops")),
        ("PUT", "nodes/n/weight", {"weight": 0.5}, ("reweight", "n", 0.5)),
        ("POST", "nodes/n/drain", None, ("drain", "n")),
        ("POST", "promote", {"shard": "s", "node_id": "n"}, ("promote", "s", "n", False)),
        ("POST", "promote", {"shard": "s", "node_id": "n", "accept_loss": True}, ("promote", "s", "n", True)),
        ("POST", "nodes/n/undrain", None, ("undrain", "n")),
    ],
)
async def test_shares_are_changed(
    gateway: Gateway, method: str, path: str, body: object, call: tuple[object, ...]
) -> None:
    response = await gateway.http.request(method, f"/api/v1/shards/{path}", json=body)
    assert response.status_code == 202
    assert response.json()["change"] == "c-1"
    assert gateway.admin.calls == [call]


async def test_balance_and_history(gateway: Gateway) -> None:
    balance = (await gateway.http.get("/api/v1/shards/balance?by=bytes")).json()
    assert balance["nodes"][0]["big_keys"] == [{"key": "films", "bytes": 300_000, "hits": 0}]
    assert balance["worst"] == "shard-2"
    history = (await gateway.http.get("/api/v1/shards/history?count=3")).json()
    assert history["history"][0]["origin"] == "automatic"
    assert gateway.admin.calls == [("balance", "", "bytes"), ("history", 3)]


@pytest.mark.parametrize("path", ["history?count=0", "history?count=some", "balance?with=care"])
async def test_questions_about_balance_that_are_not_understood(gateway: Gateway, path: str) -> None:
    response = await gateway.http.get(f"/api/v1/shards/{path}")
    assert response.status_code == 400
    assert gateway.admin.calls == []


@pytest.mark.parametrize("weight", [0, -1, "heavy", None])
async def test_a_weight_that_is_none_is_refused(gateway: Gateway, weight: object) -> None:
    response = await gateway.http.put("/api/v1/shards/nodes/n/weight", json={"weight": weight})
    assert response.status_code == 400
    assert gateway.admin.calls == []


async def test_a_migration_may_be_verified(gateway: Gateway) -> None:
    body = {"source_node": "a", "target_node": "b", "verify": True}
    assert (await gateway.http.post("/api/v1/shards/migrate?dry_run=false", json=body)).status_code == 202
    assert gateway.admin.calls == [("migrate", "a", "b", "*", "verify")]


async def test_the_pattern_of_a_migration_may_be_left_out(gateway: Gateway) -> None:
    await gateway.http.post("/api/v1/shards/migrate", json={"source_node": "a", "target_node": "b"})
    assert gateway.admin.calls == [("migrate", "a", "b", "*")]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b"[]",
        b"{",
        b"\xff",
        b'{"node_id":"a"}',
        b'{"node_id":"a","address":5}',
        b'{"node_id":"a","address":"h:1","colour":"red"}',
        b'{"node_id":"a","address":"h:1","weight":-1}',
        b'{"node_id":"a","address":"h:1","weight":NaN}',
        b'{"node_id":"a","address":"h:1","import":"yes"}',
        b'{"node_id":"a","address":"h:1","import_keys":true}',
    ],
)
async def test_a_wrong_body_is_400_and_changes_nothing(gateway: Gateway, body: bytes) -> None:
    response = await gateway.http.post("/api/v1/shards/nodes", content=body)
    assert response.status_code == 400
    assert error_of(response)["code"] == "INVALID"
    assert gateway.admin.calls == []


async def test_a_wrong_field_is_named(gateway: Gateway) -> None:
    response = await gateway.http.post("/api/v1/shards/nodes", json={"node_id": "a", "adress": "h:1"})
    assert "address" in error_of(response)["message"]


@pytest.mark.parametrize(
    "path",
    [
        "node",
        "node?key=",
        "node?kye=a",
        "node?key=a&key=b",
        "node?key=a&more=1",
        "migration",
        "migration?task_id=%FF",
        "nodes?x=1",
    ],
)
async def test_wrong_parameters_are_400(gateway: Gateway, path: str) -> None:
    response = await gateway.http.get(f"/api/v1/shards/{path}")
    assert response.status_code == 400
    error_of(response)
    assert gateway.admin.calls == []


async def test_a_verb_without_a_body_refuses_fields(gateway: Gateway) -> None:
    response = await gateway.http.post("/api/v1/shards/rebalance", json={"now": True})
    assert response.status_code == 400
    assert gateway.admin.calls == []


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidInput("x"), 400, "INVALID"),
        (NotFound("x"), 404, "NOTFOUND"),
        (Refused("x"), 409, "REFUSED"),
        (Conflict("x"), 409, "CONFLICT"),
        (Unavailable("x"), 503, "UNAVAILABLE"),
        (EngineUnreachable("x"), 503, "UNREACHABLE"),
        (StoreError("x"), 503, "STORE"),
        (OutcomeUnknown("x"), 503, "UNKNOWN"),
        (HeliosError("x"), 500, "ERROR"),
        (ZeroDivisionError("secret"), 500, "BUG"),
    ],
)
async def test_every_error_has_its_status(gateway: Gateway, error: Exception, status: int, code: str) -> None:
    gateway.admin.error = error
    response = await gateway.http.get("/api/v1/shards/stats")
    assert response.status_code == status
    assert error_of(response)["code"] == code
    assert "secret" not in response.text
    assert ("may or may not" in response.text) == (code == "UNKNOWN")


# --- everything else ---


async def test_health(gateway: Gateway) -> None:
    healthy = await gateway.http.get("/healthz")
    assert (healthy.status_code, healthy.json()) == (200, {"status": "ok", "reasons": []})
    gateway.reasons = ["no coordinator"]
    ill = await gateway.http.get("/healthz")
    assert (ill.status_code, ill.json()) == (503, {"status": "unavailable", "reasons": ["no coordinator"]})


async def test_unknown_paths_and_methods(gateway: Gateway) -> None:
    for path in ("/api/v1/shards/", "/api/v1/shards/nodes/", "/nothing", "/redoc"):
        unknown = await gateway.http.get(path)
        assert unknown.status_code == 404
        assert path in error_of(unknown)["message"]
    wrong = await gateway.http.patch("/api/v1/shards/nodes")
    assert wrong.status_code == 405
    assert error_of(wrong)["code"] == "METHOD"
    assert wrong.headers["allow"] == "DELETE, GET, POST"


async def test_the_docs_page_needs_nothing_from_elsewhere(gateway: Gateway) -> None:
    page = await gateway.http.get("/docs")
    assert page.status_code == 200
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "src=" not in page.text.replace("default-src", "")
    schema = (await gateway.http.get("/openapi.json")).json()
    for path in schema["paths"]:
        assert f"<code>{path}</code>" in page.text
    assert "422" not in json.dumps(schema)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:9999"])
async def test_pages_of_other_origins_cannot_change_anything(gateway: Gateway, origin: str) -> None:
    response = await gateway.http.post("/api/v1/shards/rebalance", headers={"Origin": origin})
    assert response.status_code == 403
    assert error_of(response)["code"] == "FORBIDDEN"
    assert gateway.admin.calls == []


async def test_pages_of_the_gateway_itself_can(gateway: Gateway) -> None:
    response = await gateway.http.post("/api/v1/shards/rebalance", headers={"Origin": "http://localhost:8443"})
    assert response.status_code == 202


async def test_only_the_gateways_own_names_are_answered_where_they_are_known() -> None:
    app = create_app(FakeAdmin(), FakeKeyValue(), Gateway().health, allowed_hosts=("localhost", "::1"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost:8443") as http:
        assert (await http.get("/healthz")).status_code == 200
        assert (await http.get("/healthz", headers={"Host": "[::1]:8443"})).status_code == 200
        for host in ("evil.example", "", "[", "localhost.evil.example:8443"):
            refused = await http.get("/api/v1/kv/k", headers={"Host": host})
            assert refused.status_code == 403
            error_of(refused)


async def test_healthz_says_what_does_not_work_while_it_serves() -> None:
    async def warnings() -> list[str]:
        return ["shard-2 is read-only: make room on its disk"]

    gateway = Gateway()
    app = create_app(FakeAdmin(), FakeKeyValue(), gateway.health, warnings=warnings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        response = await http.get("/healthz")
        assert (response.status_code, response.json()["status"]) == (200, "degraded")
        assert response.json()["reasons"] == ["shard-2 is read-only: make room on its disk"]
