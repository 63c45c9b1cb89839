"""A cluster with users and TLS, as its users meet it: real processes, clients from their packages, certificates."""

from __future__ import annotations

import base64
import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from tests.certificates import Authority
from tests.cluster import Cluster, ask, running_cluster
from tests.cluster_store import ON_ETCD
from tests.ports import free_ports
from tests.waiting import blocking_until

from helios.model.passwords import hashed
from helios.resp.wire import encode_command

pytestmark = pytest.mark.processes
ROLES = {"alice": "admin", "monitor": "operator", "app": "read-write", "viewer": "read-only", "figures": "metrics"}
PLAIN = 200
Client = Any


def hash_of(password: str) -> str:
    return hashed(password.encode(), os.urandom(16))


@dataclass
class Place:
    """A cluster, its settings file, and the authority behind its certificate. Everybody's password is the name."""

    cluster: Cluster
    authority: Authority
    config: Path
    tls: str
    users: dict[str, dict[str, object]] = field(default_factory=dict)

    def write(self) -> None:
        """Write the settings file anew, as an editor does."""
        beside = self.config.with_suffix(".new")
        beside.write_text(f"security:\n{self.tls}  users: {json.dumps(self.users)}\n")
        beside.replace(self.config)

    def client(self, user: str, password: str | None = None, port: int | None = None) -> Client:
        return redis.Redis(
            port=port or self.cluster.resp_ports[0],
            username=user,
            password=password or user,
            ssl=True,
            ssl_ca_certs=str(self.authority.path),
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            single_connection_client=True,
        )

    def stranger(self) -> Client:
        """Somebody who tells nothing of itself before it is told to."""
        return redis.Redis(
            port=self.cluster.resp_ports[0] + PLAIN,
            protocol=2,
            driver_info=None,
            retry=Retry(NoBackoff(), 0),
            decode_responses=True,
            single_connection_client=True,
        )

    def get(self, path: str, user: str = "", method: str = "GET", data: bytes | None = None) -> tuple[int, str]:
        """Status and body of a request to REST."""
        request = urllib.request.Request(f"https://localhost:{self.cluster.api_port}{path}", data, method=method)
        if user:
            request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{user}".encode()).decode())
        context = ssl.create_default_context(cafile=str(self.authority.path))
        try:
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def cli(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", "from helios.cli.client import main; main()", *words],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "HELIOS_PORT": str(self.cluster.resp_ports[0]), **env},
            stdin=subprocess.DEVNULL,
            check=False,
        )

    def shown(self, port: int) -> bytes:
        """The certificate that a new connection to a port is shown."""
        context = ssl.create_default_context(cafile=str(self.authority.path))
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secured,
        ):
            certificate = secured.getpeercert(binary_form=True)
            assert certificate is not None
            return certificate


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder)
    cert, key = authority.issue()
    config = folder / "helios.yaml"
    tls = f"  tls_cert_file: {cert}\n  tls_key_file: {key}\n  plain_port_offset: {PLAIN}\n"
    made = Place(Cluster(folder, 2, None, ()), authority, config, tls)
    made.users = {name: {"role": role, "password_hash": hash_of(name)} for name, role in ROLES.items()}
    made.users["shop"] = {"role": "read-write", "password_hash": hash_of("shop"), "keys": ["shop:*"]}
    made.write()
    with running_cluster(folder, 2, flags=["--config", str(config)]) as made.cluster:
        made.cluster.login, made.cluster.command_offset = ("alice", "alice"), PLAIN
        yield made


def refused(client: Client, *words: str) -> str:
    """The error that a command is answered with, its first word included."""
    with pytest.raises((redis.ResponseError, redis.AuthenticationError)) as caught:
        client.execute_command(*words)
    return str(caught.value)


def test_the_start_says_how_to_connect(place: Place) -> None:
    assert place.cluster.up is not None
    assert f"REST  https://127.0.0.1:{place.cluster.api_port}" in place.cluster.up.out
    assert place.cluster.up.err == ""


def test_clients_log_in_by_every_way(place: Place) -> None:
    for port in place.cluster.resp_ports:
        with place.client("alice", port=port) as client:
            assert client.execute_command("ACL", "WHOAMI") == "alice"
            assert client.set("all:1", "v")
            assert [each["user"] for each in client.client_list()] == ["alice"]
    for password in ("wrong", "app"):
        with pytest.raises(redis.AuthenticationError, match="invalid username"):
            place.client("alice", password)
    with place.stranger() as client:
        assert "Authentication required" in refused(client, "GET", "all:1")
        assert "HELLO comes after a login" in refused(client, "HELLO", "3")
        assert refused(client, "AUTH", "app", "wrong").startswith("invalid username-password pair")
        assert "Authentication required" in refused(client, "GET", "all:1")
        assert client.execute_command("AUTH", "app", "app")
        assert client.info("stats")["acl_access_denied_auth"] >= 1
        assert client.get("all:1") == "v"
        assert client.execute_command("RESET")
        assert "Authentication required" in refused(client, "PING")
        greeting = client.execute_command("HELLO", "3", "AUTH", "viewer", "viewer", "SETNAME", "me")
        assert greeting["proto" if isinstance(greeting, dict) else b"proto"] == 3
        assert client.execute_command("CLIENT", "GETNAME") == "me"


def test_a_login_keeps_its_place_in_a_pipeline(place: Place) -> None:
    commands = [("SET", "p:1", "a"), ("AUTH", "app", "app"), ("SET", "p:1", "b"), ("GET", "p:1")]
    context = ssl.create_default_context(cafile=str(place.authority.path))
    with (
        socket.create_connection(("127.0.0.1", place.cluster.resp_ports[0]), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
    ):
        secured.sendall(b"".join(encode_command([word.encode() for word in command]) for command in commands))
        expected = b"-NOAUTH Authentication required.\r\n+OK\r\n+OK\r\n$1\r\nb\r\n"
        got = b""
        while len(got) < len(expected):
            got += secured.recv(1000)
        assert got == expected


def test_a_reset_holds_from_the_next_command_on(place: Place) -> None:
    commands = [("AUTH", "app", "app"), ("SET", "r:1", "v"), ("RESET",), ("GET", "r:1"), ("SET", "r:1", "w")]
    with socket.create_connection(("127.0.0.1", place.cluster.resp_ports[0] + PLAIN), timeout=10) as connection:
        connection.sendall(b"".join(encode_command([word.encode() for word in command]) for command in commands))
        expected = b"+OK\r\n+OK\r\n+RESET\r\n" + 2 * b"-NOAUTH Authentication required.\r\n"
        got = b""
        while len(got) < len(expected):
            got += connection.recv(1000)
        assert got == expected


def test_who_has_not_logged_in_cannot_send_much(place: Place) -> None:
    port = place.cluster.resp_ports[0] + PLAIN
    for frame in (b"*100\r\n", b"*2\r\n$3\r\nGET\r\n$500000000\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(frame)
            assert connection.recv(1000).startswith(b"-ERR Protocol error")
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        value = b"v" * 200_000
        connection.sendall(encode_command([b"AUTH", b"app", b"app"]) + encode_command([b"SET", b"much:1", value]))
        got = b""
        while len(got) < 10:
            got += connection.recv(1000)
        assert got == b"+OK\r\n+OK\r\n"


def test_roles_of_real_users(place: Place) -> None:
    with place.client("app") as app, place.client("viewer") as viewer, place.client("monitor") as monitor:
        assert app.mset({"role:1": "a", "role:2": "b"})
        assert viewer.mget("role:1", "role:2") == ["a", "b"]
        assert "viewer" in refused(viewer, "SET", "role:1", "x")
        assert "'app' with the role read-write may not run 'LISTNODES'" in refused(app, "LISTNODES")
        assert len(monitor.execute_command("LISTNODES")) == 2
        assert "may not run 'GET'" in refused(monitor, "GET", "role:1")
        # A transaction with a command that was denied is not carried out.
        transaction = viewer.pipeline(transaction=True)
        transaction.get("role:1")
        transaction.set("role:1", "x")
        with pytest.raises(redis.RedisError):
            transaction.execute()
        assert viewer.get("role:1") == "a"


def test_a_user_with_patterns_has_its_keys_and_no_others(place: Place) -> None:
    with place.client("alice") as alice, place.client("shop") as shop:
        alice.flushall()
        for n in range(30):
            alice.set(f"other:{n}", "v")
            shop.set(f"shop:{n}", "v")
        assert "may not use the key 'other:1' in 'GET'" in refused(shop, "GET", "other:1")
        assert "may not use the key 'other:1'" in refused(shop, "MGET", "shop:1", "other:1")
        mine = {f"shop:{n}" for n in range(30)}
        assert set(shop.keys("*")) == mine
        assert set(shop.scan_iter(count=7)) == mine
        assert shop.keys("other:*") == []
        assert shop.dbsize() == 60
        assert "may concern others" in refused(shop, "FLUSHALL")
        assert set(alice.keys("*")) > mine


def test_an_operator_sees_no_data(place: Place) -> None:
    with place.client("alice") as alice, place.client("monitor") as monitor:
        own = place.cluster.resp_ports[0]
        assert "'monitor' with the role operator may not add the server" in refused(
            monitor, "ADDNODE", "thief", f"localhost:{own}"
        )
        body = json.dumps({"node_id": "thief", "address": f"localhost:{own}"}).encode()
        status, said = place.get("/api/v1/shards/nodes", "monitor", "POST", body)
        assert (status, json.loads(said)["error"]["code"]) == (403, "NOPERM")
        before = alice.execute_command("SETTING", "router.slowlog_threshold")["value"]
        alice.execute_command("SETTING", "router.slowlog_threshold", "0.001ms")

        def noted(client: Client) -> list[list[str]]:
            client.mset({"secret:1": "treasure"})
            return [entry for entry in client.execute_command("SLOWLOG", "GET", -1) if "MSET" in str(entry)]

        try:
            blocking_until(lambda: bool(noted(alice)))
            shown = str(monitor.execute_command("SLOWLOG", "GET", -1))
            assert "MSET" in shown
            assert "(hidden)" in shown
            assert "secret" not in shown
            assert "treasure" not in shown
            assert "treasure" in str(alice.execute_command("SLOWLOG", "GET", -1))
            told = str(monitor.execute_command("SLOWCOMMANDS", 1000))
            assert "MSET" in told
            assert "(hidden)" in told
            assert "secret" not in told
            assert "treasure" not in told
            assert "treasure" in str(alice.execute_command("SLOWCOMMANDS", 1000))
        finally:
            alice.execute_command("SETTING", "router.slowlog_threshold", before)
        for inside in ("'SLOWLOG', 'GET'", "'MEMORY', 'DOCTOR'", "'CLUSTER', 'INFO'"):
            with place.client("viewer") as viewer:
                assert "ACL failure in script" in refused(viewer, "EVAL_RO", f"return redis.call({inside})", "0")
        assert "# shard-1" in alice.execute_command("MEMORY", "DOCTOR")
        assert alice.execute_command("MEMORY", "PURGE")


def test_subscriptions_end_with_the_right_to_them(place: Place) -> None:
    context = ssl.create_default_context(cafile=str(place.authority.path))
    with (
        socket.create_connection(("127.0.0.1", place.cluster.resp_ports[0]), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secured,
        place.client("alice") as alice,
    ):
        commands = ("HELLO 3 AUTH viewer viewer", "SUBSCRIBE shop:1 secret", "PSUBSCRIBE s*", "AUTH shop shop", "PING")
        secured.sendall(b"".join(encode_command(line.encode().split()) for line in commands))
        got = b""
        while not got.endswith(b"+PONG\r\n"):
            got += secured.recv(1000)
        ended = got[got.index(b">3\r\n$11\r\nunsubscribe") :]
        assert b"$6\r\nsecret\r\n" in ended
        assert b"punsubscribe" in ended
        assert b"shop:1" not in ended
        alice.publish("secret", "no")
        alice.publish("shop:1", "yes")
        got = b""
        while b"yes" not in got:
            got += secured.recv(1000)
        assert b"no\r\n" not in got


def test_rest_has_the_same_users(place: Place) -> None:
    assert place.get("/healthz")[0] == 200
    status, body = place.get("/api/v1/shards/nodes")
    assert (status, json.loads(body)["error"]["code"]) == (401, "NOAUTH")
    assert place.get("/api/v1/shards/nodes", "monitor")[0] == 200
    assert place.get("/api/v1/shards/nodes", "app")[0] == 403
    assert place.get("/api/v1/kv/shop:rest", "shop", "PUT", b"v")[0] == 200
    status, body = place.get("/api/v1/kv/other:rest", "shop", "PUT", b"v")
    assert (status, json.loads(body)["error"]["code"]) == (403, "NOPERM")
    assert place.get("/metrics", "monitor")[0] == 200
    assert place.get("/metrics", "viewer")[0] == 403
    assert place.get("/metrics", "figures")[0] == 200
    assert place.get("/api/v1/shards/nodes", "figures")[0] == 403
    assert place.get("/api/v1/kv/shop:rest", "figures")[0] == 403


def test_history_names_who_has_asked(place: Place) -> None:
    with place.client("monitor") as monitor:
        monitor.execute_command("REBALANCE")
    assert place.get("/api/v1/shards/rebalance", "alice", "POST")[0] == 200
    entries = json.loads(place.get("/api/v1/shards/history?count=2", "alice")[1])["history"]
    assert [(one["kind"], one["origin"], one["user"]) for one in entries] == [
        ("rebalance", "user", "monitor"),
        ("rebalance", "user", "alice"),
    ]
    ca = str(place.authority.path)
    shown = place.cli("--user", "monitor", "--tls", "--cacert", ca, "history", HELIOS_PASSWORD="monitor").stdout
    assert "  monitor  rebalance --by keys" in shown
    assert "  user     founded with shard-1, shard-2 " in shown
    with place.client("alice") as alice:
        alice.execute_command("SETTING", "sharding.rebalance_rest", "5m")
    assert place.get("/api/v1/shards/settings/rollback", "monitor", "POST")[0] == 200
    changes = json.loads(place.get("/api/v1/shards/settings/history", "alice")[1])["changes"][-2:]
    assert changes[0]["by"] == "alice at 127.0.0.1 (SETTING)"
    assert changes[1]["by"] == "monitor at 127.0.0.1 (REST)"


def test_the_command_line_logs_in(place: Place) -> None:
    ca = str(place.authority.path)
    nodes = place.cli("--user", "monitor", "--tls", "--cacert", ca, "--json", "listnodes", HELIOS_PASSWORD="monitor")
    assert nodes.returncode == 0, nodes.stderr
    assert len(json.loads(nodes.stdout)["nodes"]) == 2
    written = place.cli("set", "cli:1", "v", "--user", "app", "--insecure", "--tls", HELIOS_PASSWORD="app")
    assert (written.returncode, written.stdout) == (0, "OK\n"), written.stderr
    for words, password, complaint in (
        (("--tls", "--cacert", ca), None, "lets in its users only"),
        (("--tls", "--cacert", ca, "--user", "app"), "wrong", "knows no such user with that password"),
        (("--tls", "--user", "app"), "app", "shows a certificate that is not trusted"),
        (("--tls", "--cacert", "/none.pem"), None, "/none.pem cannot be used for TLS: No such file"),
    ):
        env = {} if password is None else {"HELIOS_PASSWORD": password}
        ended = place.cli(*words, "get", "cli:1", **env)
        assert ended.returncode == 1
        assert complaint in ended.stderr
        assert ended.stderr.count("\n") == 1, ended.stderr


def test_plain_ports_beside_have_the_same_users(place: Place) -> None:
    port = place.cluster.resp_ports[1] + PLAIN
    with redis.Redis(port=port, username="viewer", password="viewer") as client:
        assert client.ping()
    assert str(ask(port, "PING")).startswith("NOAUTH")


def test_a_new_certificate_is_taken_without_a_break(place: Place) -> None:
    ports = [*place.cluster.resp_ports, place.cluster.api_port]
    before = {port: place.shown(port) for port in ports}
    with place.client("app") as client:
        client.set("cert:1", "v")
        number = client.client_id()
        cert, _ = place.authority.issue()
        blocking_until(lambda: all(place.shown(port) != before[port] for port in ports))
        after = {place.shown(port) for port in ports}
        assert len(after) == 1
        cert.write_text("broken")
        log = place.cluster.data.log("gateway")
        blocking_until(lambda: "the new certificate is not used" in log.read_text())
        assert {place.shown(port) for port in ports} == after
        assert client.get("cert:1") == "v"
        assert client.client_id() == number
    place.authority.issue()
    blocking_until(lambda: place.shown(ports[0]) not in after)


def test_users_change_while_they_are_connected(place: Place) -> None:
    place.users["guest"] = {"role": "read-only", "password_hash": hash_of("guest")}
    place.users["other"] = {"role": "read-write", "password_hash": hash_of("other")}
    place.write()

    def known(name: str) -> bool:
        """The gateway and the routers hear of a user each by itself."""
        try:
            place.client(name).close()
        except redis.AuthenticationError:
            return False
        return place.get("/docs", name)[0] == 200

    blocking_until(lambda: known("guest") and known("other"))
    with place.client("guest") as guest, place.client("other") as other, place.client("app") as app:
        assert "may not run 'SET'" in refused(guest, "SET", "guest:1", "v")
        number = guest.client_id()
        assert other.ping()
        app_number = app.client_id()

        place.users["guest"]["role"] = "read-write"
        place.users["other"]["role"] = "read-only"
        place.write()

        def ended(client: Client) -> bool:
            try:
                client.ping()
            except redis.ConnectionError:
                return True
            return False

        blocking_until(lambda: ended(other))
        blocking_until(lambda: place.get("/api/v1/kv/guest:1", "guest", "PUT", b"v")[0] == 200)
        assert guest.set("guest:1", "v")
        assert guest.client_id() == number
        del place.users["guest"]
        place.write()
        blocking_until(lambda: ended(guest))
        blocking_until(lambda: place.get("/docs", "guest")[0] == 401)
        assert app.client_id() == app_number
    with pytest.raises(redis.AuthenticationError):
        place.client("guest")
    assert place.cluster.up is not None
    assert "security.users: there are 7 users now" in place.cluster.up.out


def test_no_secret_is_told(place: Place) -> None:
    secrets = [str(user["password_hash"]) for user in place.users.values()]
    with place.client("alice") as alice:
        said = json.dumps([alice.info(), alice.client_list(), alice.config_get("*"), alice.execute_command("SETTINGS")])
    told = [said, place.get("/api/v1/shards/settings", "alice")[1], place.get("/metrics", "alice")[1]]
    told += [path.read_text(errors="replace") for path in place.cluster.data.logs.glob("*.log")]
    told += [path.read_text() for path in place.cluster.data_dir.rglob("settings.json")]
    assert not [secret for secret in secrets for text in told if secret in text]


def test_other_machines_need_users(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 1, None, ())
    cluster.init()
    ended = cluster.run("gateway", "--listen", f"0.0.0.0:{free_ports(1)}")
    assert ended.returncode == 2
    assert "which can be reached from other machines, and no users with passwords are configured" in ended.stderr
    assert ON_ETCD or not cluster.data_dir.exists(), "no cluster was founded"
