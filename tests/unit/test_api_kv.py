"""Keys and values over REST, over a fake cluster."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import pytest
from tests.fake_gateway import Gateway, error_of

from helios.errors import EngineUnreachable


async def test_a_value_goes_in_and_out(gateway: Gateway) -> None:
    stored = await gateway.http.put("/api/v1/kv/user:alice", content="Alice é".encode())
    assert stored.status_code == 200
    assert (await gateway.http.get("/api/v1/kv/user:alice")).json() == {"key": "user:alice", "value": "Alice é"}
    assert (await gateway.http.delete("/api/v1/kv/user:alice")).status_code == 200
    gone = await gateway.http.get("/api/v1/kv/user:alice")
    assert gone.status_code == 404
    assert "user:alice" in error_of(gone)["message"]
    assert (await gateway.http.delete("/api/v1/kv/user:alice")).status_code == 404


async def test_bytes_come_out_bare_on_request(gateway: Gateway) -> None:
    value = bytes(range(256))
    await gateway.http.post("/api/v1/kv/b", content=value)
    bare = await gateway.http.get("/api/v1/kv/b", headers={"Accept": "application/octet-stream"})
    assert bare.content == value
    assert bare.headers["content-type"] == "application/octet-stream"
    as_json = (await gateway.http.get("/api/v1/kv/b")).json()
    assert base64.b64decode(as_json["value_base64"]) == value
    assert "value" not in as_json


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("a/b/c", b"a/b/c"),
        ("a%2Fb", b"a/b"),
        ("%FF%FE", b"\xff\xfe"),
        ("a%20b", b"a b"),
        ("a+b", b"a+b"),
        ("%25", b"%"),
        ("a/", b"a/"),
        ("a%3Fb%23c", b"a?b#c"),
        ("/", b"/"),
        ("%0D%0A", b"\r\n"),
        ("%0A", b"\n"),
        ("a%0A", b"a\n"),
        ("a%0Db%0A%0Ac/%0A", b"a\rb\n\nc/\n"),
        ("%E2%80%A8%C2%85%00", "\u2028\x85\x00".encode()),
    ],
)
async def test_keys_are_bytes(gateway: Gateway, path: str, key: bytes) -> None:
    assert (await gateway.http.put(f"/api/v1/kv/{path}", content=b"1")).status_code == 200
    assert (await gateway.http.get(f"/api/v1/kv/{path}")).status_code == 200
    assert (await gateway.http.delete(f"/api/v1/kv/{path}")).status_code == 200
    assert gateway.kv.calls == [[b"SET", key, b"1"], [b"GET", key], [b"DEL", key]]


async def test_an_encoded_slash_in_the_prefix_is_no_way_to_another_key(gateway: Gateway) -> None:
    response = await gateway.http.get("/api%2Fv1/kv/a/b")
    assert response.status_code == 404
    assert gateway.kv.calls == []


async def test_a_missing_key_name_is_400(gateway: Gateway) -> None:
    assert (await gateway.http.get("/api/v1/kv/")).status_code == 400


@pytest.mark.parametrize(
    ("query", "content", "kind", "argv"),
    [
        ("?ttl=60", b"v", "text/plain", [b"v", b"PX", b"60000"]),
        ("?ttl=0.5", b"v", "text/plain", [b"v", b"PX", b"500"]),
        ("?ttl=0.001", b"v", "text/plain", [b"v", b"PX", b"1"]),
        ("", b"", "text/plain", [b""]),
        ("", b'{"value":"v"}', "text/plain", [b'{"value":"v"}']),
        ("", b'{"value":"v","ttl":5}', "application/json", [b"v", b"PX", b"5000"]),
        ("?ttl=5", b'{"value":"v"}', "application/json; charset=utf-8", [b"v", b"PX", b"5000"]),
        ("", b'{"value_base64":"/w=="}', "Application/JSON", [b"\xff"]),
        ("", b'{"value":""}', "application/json", [b""]),
    ],
)
async def test_what_is_stored(gateway: Gateway, query: str, content: bytes, kind: str, argv: list[bytes]) -> None:
    response = await gateway.http.put(f"/api/v1/kv/k{query}", content=content, headers={"Content-Type": kind})
    assert response.status_code == 200, response.text
    assert gateway.kv.calls == [[b"SET", b"k", *argv]]


@pytest.mark.parametrize(
    ("query", "content", "kind"),
    [
        ("?ttl=0", b"v", "text/plain"),
        ("?ttl=0.0001", b"v", "text/plain"),
        ("?ttl=-1", b"v", "text/plain"),
        ("?ttl=nan", b"v", "text/plain"),
        ("?ttl=inf", b"v", "text/plain"),
        ("?ttl=soon", b"v", "text/plain"),
        ("?ttl=1e300", b"v", "text/plain"),
        ("?tll=5", b"v", "text/plain"),
        ("", b"v", "application/json"),
        ("", b"", "application/json"),
        ("", b"{}", "application/json"),
        ("", b'{"value":5}', "application/json"),
        ("", b'{"value":"a","value_base64":"YQ=="}', "application/json"),
        ("", b'{"value_base64":"%"}', "application/json"),
        ("", b'{"value":"\\ud800"}', "application/json"),
        ("", b'{"value":"a","ttl":1e300}', "application/json"),
        ("?ttl=5", b'{"value":"a","ttl":5}', "application/json"),
    ],
)
async def test_what_is_not_stored(gateway: Gateway, query: str, content: bytes, kind: str) -> None:
    response = await gateway.http.put(f"/api/v1/kv/k{query}", content=content, headers={"Content-Type": kind})
    assert response.status_code == 400
    error_of(response)
    assert gateway.kv.calls == []


async def test_too_large_a_value_is_413_whether_declared_or_not(gateway: Gateway) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * 400

    for content in (b"x" * 1001, chunks()):
        response = await gateway.http.put("/api/v1/kv/k", content=content)
        assert response.status_code == 413
        assert error_of(response)["code"] == "TOOLARGE"
    assert (await gateway.http.put("/api/v1/kv/k", content=b"x" * 1000)).status_code == 200


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n", 409, "WRONGTYPE"),
        (b"-CLUSTERDOWN the session has run out\r\n", 503, "CLUSTERDOWN"),
        (b"-UNKNOWN the connection broke\r\n", 503, "UNKNOWN"),
        (b"-OOM command not allowed\r\n", 503, "OOM"),
        (b"-INVALID no\r\n", 400, "INVALID"),
    ],
)
async def test_error_replies_keep_code_and_message(gateway: Gateway, reply: bytes, status: int, code: str) -> None:
    gateway.kv.reply = reply
    response = await gateway.http.get("/api/v1/kv/k")
    assert response.status_code == status
    error = error_of(response)
    assert error["code"] == code
    assert error["message"].startswith(reply[1:].decode().strip())
    assert ("may or may not" in error["message"]) == (code == "UNKNOWN")


async def test_an_unreachable_server_is_503(gateway: Gateway) -> None:
    gateway.kv.error = EngineUnreachable("shard-1.0 at 127.0.0.1:7001 does not answer")
    response = await gateway.http.put("/api/v1/kv/k", content=b"v")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
