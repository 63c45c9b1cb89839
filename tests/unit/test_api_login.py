"""Users over HTTP: who is let in, and to what."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from tests.fake_gateway import FakeAdmin, FakeKeyValue

from helios.access.authenticator import Authenticator
from helios.access.logins import Logins
from helios.api.app import create_app
from helios.model.users import Role, User

USERS = (
    User("admin", Role.ADMIN, "admin"),
    User("operator", Role.OPERATOR, "operator"),
    User("figures", Role.METRICS, "figures"),
    User("writer", Role.READ_WRITE, "writer"),
    User("reader", Role.READ_ONLY, "reader"),
    User("narrow", Role.READ_WRITE, "narrow", ("a:*",)),
)
ALL = {user.name for user in USERS}
CLUSTER = {"admin", "operator"}


async def _health() -> list[str]:
    return []


@pytest.fixture(scope="module")
def authenticator() -> Authenticator:
    return Authenticator(logins=Logins(check=lambda password, stored: password.decode() == stored))


@pytest.fixture(scope="module")
def app(authenticator: Authenticator) -> object:
    kv = FakeKeyValue()
    kv.values[b"a:1"] = b"v"
    kv.values[b"b:1"] = b"v"
    return create_app(FakeAdmin(), kv, _health, authenticator=authenticator)


@pytest.fixture
async def http(app: httpx.ASGITransport, authenticator: Authenticator) -> AsyncIterator[httpx.AsyncClient]:
    authenticator.apply(USERS)
    transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8443") as client:
        yield client


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/healthz", ALL),
        ("GET", "/docs", ALL),
        ("GET", "/openapi.json", ALL),
        ("GET", "/api/v1/kv/a:1", ALL - {"operator", "figures"}),
        ("GET", "/api/v1/kv/b:1", ALL - {"operator", "figures", "narrow"}),
        ("PUT", "/api/v1/kv/a:1", {"admin", "writer", "narrow"}),
        ("DELETE", "/api/v1/kv/b:2", {"admin", "writer"}),
        ("GET", "/api/v1/shards/nodes", CLUSTER),
        ("GET", "/api/v1/shards/node?key=a:1", CLUSTER),
        ("GET", "/api/v1/shards/settings", CLUSTER),
        ("POST", "/api/v1/shards/rebalance", CLUSTER),
        ("GET", "/metrics", CLUSTER | {"figures"}),
        ("GET", "/api/v1/something/new", CLUSTER),
    ],
)
async def test_every_user_at_every_kind_of_path(
    http: httpx.AsyncClient, method: str, path: str, allowed: set[str]
) -> None:
    for user in USERS:
        response = await http.request(method, path, auth=(user.name, user.password_hash))
        assert (response.status_code == 403) == (user.name not in allowed), (user.name, response.text)
        if response.status_code == 403:
            error = response.json()["error"]
            assert error["code"] == "NOPERM"
            assert repr(user.name) in error["message"]
    response = await http.request(method, path)
    assert response.status_code == (200 if path == "/healthz" else 401)
    if response.status_code == 401:
        assert response.json()["error"]["code"] == "NOAUTH"
        assert response.headers["WWW-Authenticate"].startswith("Basic ")


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ("Basic YWRtaW46d3Jvbmc=", "WRONGPASS"),  # admin:wrong
        ("Basic bm9ib2R5OmFkbWlu", "WRONGPASS"),  # nobody:admin
        ("Basic YWRtaW4=", "NOAUTH"),  # without a colon
        ("Basic !", "NOAUTH"),
        ("Bearer x", "NOAUTH"),
        ("", "NOAUTH"),
    ],
)
async def test_what_lets_nobody_in(http: httpx.AsyncClient, header: str, code: str) -> None:
    response = await http.get("/api/v1/shards/nodes", headers={"Authorization": header})
    assert (response.status_code, response.json()["error"]["code"]) == (401, code)


async def test_without_users_everybody_is_let_in(http: httpx.AsyncClient, authenticator: Authenticator) -> None:
    authenticator.apply(())
    assert (await http.get("/api/v1/shards/nodes")).status_code == 200
    assert (await http.get("/api/v1/shards/nodes", auth=("any", "thing"))).status_code == 200


async def test_metrics_can_be_open() -> None:
    authenticator = Authenticator()
    authenticator.apply(USERS)
    transport = httpx.ASGITransport(
        create_app(FakeAdmin(), FakeKeyValue(), _health, authenticator=authenticator, open_metrics=True)
    )
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost:8443") as client:
        assert (await client.get("/metrics")).status_code == 200
        assert (await client.get("/docs")).status_code == 401
