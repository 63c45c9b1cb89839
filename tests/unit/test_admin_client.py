"""The admin clients: what is sent, what is read, what is raised. Both must do the same."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import pytest
from tests.fake_gateway import (
    ALTERED,
    BALANCE,
    CHANGE,
    FOUND,
    HISTORY,
    MIGRATION,
    NODE,
    PLACEMENT,
    PREVIEW,
    ROUTER,
    RULE,
    SETTING,
    SETTING_CHANGE,
    SHARD,
    SILENT_ROUTER,
    SLOW,
)
from tests.fake_replies import DONE, KEY, REPLIES, STATS
from tests.fake_resp import FakeServer, resp3, serving
from tests.waiting import until

import helios
from helios.admin.service import AdminService
from helios.client import progress
from helios.client.connection import CommandRefused
from helios.errors import OutcomeUnknown
from helios.resp.encoding import error_reply
from helios.values import placement_of

# Method, arguments, words sent, result.
CALLS: list[tuple[str, tuple[Any, ...], dict[str, Any], str, object]] = [
    ("list_nodes", (), {}, "LISTNODES", [NODE]),
    ("add_node", ("n", "h:1"), {}, "ADDNODE n h:1", CHANGE),
    (
        "add_node",
        ("n", "h:1"),
        {"weight": 2, "zone": "z", "flush": True},
        "ADDNODE n h:1 WEIGHT 2.0 ZONE z FLUSH",
        CHANGE,
    ),
    ("add_node", ("n", "h:1"), {"import_keys": True}, "ADDNODE n h:1 IMPORT", CHANGE),
    ("remove_node", ("n",), {}, "REMOVENODE n", CHANGE),
    ("rebalance", (), {}, "REBALANCE", CHANGE),
    ("preview_add_node", ("n", "h:1"), {"weight": 0.5}, "PREVIEW ADDNODE n h:1 WEIGHT 0.5", [PREVIEW]),
    ("preview_remove_node", ("n",), {}, "PREVIEW REMOVENODE n", [PREVIEW]),
    ("preview_migrate", ("a", "b"), {}, "PREVIEW MIGRATE a b *", [PREVIEW]),
    ("preview_rebalance", (), {"by": "ops"}, "PREVIEW REBALANCE BY ops", [PREVIEW]),
    ("preview_reweight", ("n", 2), {}, "PREVIEW REWEIGHT n 2.0", [PREVIEW]),
    ("preview_drain", ("n",), {}, "PREVIEW DRAIN n", [PREVIEW]),
    ("preview_undrain", ("n",), {}, "PREVIEW UNDRAIN n", [PREVIEW]),
    ("rebalance", (), {"strategy": "uniform", "by": "bytes"}, "REBALANCE STRATEGY uniform BY bytes", CHANGE),
    ("reweight", ("n", 0.5), {}, "REWEIGHT n 0.5", CHANGE),
    ("drain", ("n",), {}, "DRAIN n", CHANGE),
    ("promote", ("s", "n"), {}, "PROMOTE s n", CHANGE),
    ("promote", ("s", "n"), {"accept_loss": True}, "PROMOTE s n ACCEPT-LOSS", CHANGE),
    ("undrain", ("n",), {}, "UNDRAIN n", CHANGE),
    ("balance", (), {"by": "ops"}, "BALANCE BY ops", BALANCE),
    ("history", (5,), {}, "HISTORY 5", [HISTORY]),
    ("list_shards", (), {}, "LISTSHARDS", [SHARD]),
    ("node_for_key", ("straße",), {}, "NODEFORKEY straße", KEY),
    ("node_for_key", (b"k",), {}, "NODEFORKEY k", KEY),
    ("rules", (), {}, "LISTRULES", [RULE]),
    ("placement", (), {}, "PLACEMENT", placement_of(PLACEMENT)),
    ("migrate", ("a", "b", "x*"), {}, "MIGRATE a b x*", MIGRATION),
    ("migrate", ("a", "b"), {"verify": True}, "MIGRATE a b * VERIFY", MIGRATION),
    ("migration", ("m",), {}, "MIGRATIONSTATUS m", MIGRATION),
    ("migrations", (), {}, "ALLMIGRATIONS", [MIGRATION]),
    ("active_migrations", (), {}, "ACTIVEMIGRATIONS", [MIGRATION]),
    ("cancel_migration", ("m",), {}, "CANCELMIGRATION m", MIGRATION),
    ("pause_migration", ("m",), {}, "PAUSEMIGRATION m", MIGRATION),
    ("resume_migration", ("m",), {}, "RESUMEMIGRATION m", MIGRATION),
    ("cleanup_migrations", (), {}, "CLEANUPMIGRATIONS", 7),
    ("change", ("c",), {}, "CHANGESTATUS c", DONE),
    ("change", ("c",), {"wait_s": 2.5}, "CHANGESTATUS c WAIT 2.500", DONE),
    ("stats", (), {}, "CLUSTERSTATS", STATS),
    ("routers", (), {}, "ROUTERS", [ROUTER, SILENT_ROUTER]),
    ("slow_commands", (), {}, "SLOWCOMMANDS 20", SLOW),
    ("slow_commands", (5,), {}, "SLOWCOMMANDS 5", SLOW),
    ("check", (), {}, "CHECK", FOUND),
    ("check", (), {"repair": True}, "CHECK REPAIR", FOUND),
    ("settings", (), {}, "SETTINGS", [SETTING]),
    ("setting", ("a.b",), {}, "SETTING a.b", SETTING),
    ("change_setting", ("a.b", "5"), {}, "SETTING a.b 5", SETTING),
    ("change_setting", ("a.b", 0.5), {}, "SETTING a.b 0.5", SETTING),
    ("change_setting", ("a.b", True), {}, "SETTING a.b true", SETTING),
    ("setting_history", (), {}, "SETTINGHISTORY", [SETTING_CHANGE]),
    ("roll_back_settings", (), {}, "SETTINGROLLBACK", [ALTERED]),
    ("roll_back_settings", (3,), {}, "SETTINGROLLBACK 3", [ALTERED]),
]

Call = Callable[..., Any]


class Either:
    """One of the clients, called the same way."""

    def __init__(self, kind: str, *addresses: str, timeout_s: float = 5.0) -> None:
        self.kind = kind
        self._runner = asyncio.Runner()
        self.client: Any = (helios.AdminClient if kind == "blocking" else helios.AsyncAdminClient)(
            *addresses, timeout_s=timeout_s
        )

    def __call__(self, method: str, *args: Any, **options: Any) -> Any:
        """The result of a method."""
        result = getattr(self.client, method)(*args, **options)
        return self._runner.run(_of(result)) if inspect.isawaitable(result) else result

    def follow(self, *args: Any, **options: Any) -> list[helios.Progress]:
        """Everything that following shows."""
        following = self.client.follow(*args, **options)
        if self.kind == "blocking":
            return list(following)

        async def collect() -> list[helios.Progress]:
            return [one async for one in following]

        return self._runner.run(collect())

    def end(self) -> None:
        """Close everything."""
        self("close")
        self._runner.close()


async def _of(result: Any) -> Any:
    return await result


@contextmanager
def ended(either: Either) -> Iterator[Either]:
    """The client, closed at the end."""
    try:
        yield either
    finally:
        either.end()


@pytest.fixture(params=["blocking", "asynchronous"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def node() -> Iterator[FakeServer]:
    with serving(lambda argv: resp3(REPLIES[argv[0]])) as server:
        yield server


def test_every_verb_is_sent_and_read(kind: str, node: FakeServer) -> None:
    with ended(Either(kind, f"127.0.0.1:{node.port}")) as client:
        for method, args, options, words, result in CALLS:
            assert client(method, *args, **options) == result
            assert b" ".join(node.commands[-1]).decode() == words


def test_there_is_every_verb_and_both_clients_are_alike() -> None:
    of_the_command_line = {"backup", "read_backup", "end_backup", "restore_users"}
    of_scrapers = {"figures"}
    verbs = {name for name in vars(AdminService) if not name.startswith("_")} - of_the_command_line - of_scrapers
    assert verbs <= {method for method, *_ in CALLS}
    for name, method in vars(helios.AdminClient).items():
        if not name.startswith("_"):
            assert (
                inspect.signature(method).parameters
                == inspect.signature(getattr(helios.AsyncAdminClient, name)).parameters
            )
    # `exact` is for scrapers, `by` is what a node adds, and keys may be text here.
    for name in verbs - {"stats", "change_setting", "roll_back_settings", "node_for_key"}:
        assert _shape(getattr(AdminService, name)) == _shape(getattr(helios.AdminClient, name))


def test_a_placement_is_the_one_that_the_cluster_has(kind: str, node: FakeServer) -> None:
    with ended(Either(kind, f"127.0.0.1:{node.port}")) as client:
        placement = client("placement")
    expected = helios.Placement(
        {"shard-1": 1.0, "shard-4": 2.5}, [helios.Rule("shard-1", "shard-4", ("user:*", "*:1"))]
    )
    assert placement.nodes == expected.nodes
    assert placement.rules == expected.rules
    assert placement != expected, "a rebalance has given a point away"
    keys = [f"user:{number}" for number in range(1000)]
    assert placement.counts(keys) == expected.counts(keys)


def _shape(method: Call) -> list[tuple[str, object, object]]:
    return [(one.name, one.kind, one.default) for one in inspect.signature(method).parameters.values()]


@pytest.mark.parametrize(
    ("reply", "kind_of_error", "message"),
    [
        ("NOTFOUND there is no node 'x'", helios.NotFound, "there is no node 'x'"),
        ("REFUSED no", helios.Refused, "no"),
        ("INVALID weight", helios.InvalidInput, "weight"),
        ("UNAVAILABLE no coordinator", helios.Unavailable, "no coordinator"),
        ("CLUSTERDOWN no lease", helios.Unavailable, "no lease"),
        ("UNKNOWN the connection broke", OutcomeUnknown, "the connection broke"),
        ("ERR unknown command", CommandRefused, "ERR unknown command"),
    ],
)
def test_errors_are_those_of_helios(kind: str, reply: str, kind_of_error: type[Exception], message: str) -> None:
    with serving(lambda _argv: error_reply(reply)) as server, ended(Either(kind, f"127.0.0.1:{server.port}")) as client:
        for _ in range(2):  # the connection goes on being used
            with pytest.raises(kind_of_error) as caught:
                client("remove_node", "x")
            assert str(caught.value) == message
            assert isinstance(caught.value, helios.HeliosError)


def test_a_node_that_is_gone_is_passed_over(kind: str, node: FakeServer) -> None:
    with ended(Either(kind, nobody(), f"127.0.0.1:{node.port}")) as client:
        assert client("cleanup_migrations") == 7
    gone = nobody()
    with ended(Either(kind, gone)) as client, pytest.raises(helios.Unavailable, match=f"no node answers .{gone}: "):
        client("stats")


def test_questions_are_repeated_and_orders_are_not(kind: str) -> None:
    hang_up = [True]

    def answer(argv: list[bytes]) -> bytes | None:
        return None if hang_up and hang_up.pop() else resp3(REPLIES[argv[0]])

    with serving(answer) as server, ended(Either(kind, f"127.0.0.1:{server.port}")) as client:
        assert client("list_nodes") == [NODE]
        assert len(server.commands) == 2
        client("close")
        hang_up.append(True)
        with pytest.raises(OutcomeUnknown, match="may or may not have been carried out"):
            client("remove_node", "x")
        assert client("rebalance") == CHANGE


def test_a_connection_that_was_closed_meanwhile_is_opened_again() -> None:
    with (
        serving(lambda argv: resp3(REPLIES[argv[0]])) as server,
        helios.AdminClient(f"127.0.0.1:{server.port}") as client,
    ):
        assert client.rebalance() == CHANGE
        assert client._connection is not None
        client._connection._socket.shutdown(socket.SHUT_RD)
        assert client.rebalance() == CHANGE  # an order, which is not repeated where its outcome is unknown


def test_silence_has_a_limit(kind: str) -> None:
    with (
        serving(lambda _argv: b"") as server,
        ended(Either(kind, f"127.0.0.1:{server.port}", timeout_s=0.05)) as client,
        pytest.raises(OutcomeUnknown, match=r"nothing came in 0\.05 s"),
    ):
        client("remove_node", "x")


def test_fields_of_later_versions_are_passed_over_and_missing_ones_are_named(kind: str) -> None:
    later, older = {**asdict(RULE), "later": 1}, {"source": "a"}
    replies = [resp3([later]), resp3([older]), resp3([5])]
    with serving(lambda _argv: replies.pop(0)) as server, ended(Either(kind, f"127.0.0.1:{server.port}")) as client:
        assert client("rules") == [RULE]
        with pytest.raises(helios.Unavailable, match="lacks 'target'"):
            client("rules")
        with pytest.raises(helios.Unavailable, match="is it Helios"):
            client("rules")


def life(*statuses: str) -> Callable[[list[bytes]], bytes]:
    """A node on which a change goes through these statuses, one a look."""
    left = list(statuses)

    def answer(argv: list[bytes]) -> bytes:
        if argv[0] == b"CHANGESTATUS":
            status = left.pop(0) if len(left) > 1 else left[0]
            return (
                error_reply("UNAVAILABLE not now")
                if status == "away"
                else resp3(asdict(replace(CHANGE, status=status)))
            )
        other = replace(MIGRATION, change="another")
        return resp3([asdict(MIGRATION), asdict(other)])

    return answer


def test_a_change_is_followed_to_its_end(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.001)
    answer = life("queued", "queued", "away", "running", "done")
    with serving(answer) as server, ended(Either(kind, f"127.0.0.1:{server.port}")) as client:
        shown = client.follow(MIGRATION)
    assert [one.change.status for one in shown] == ["queued", "running", "done"]
    assert all(one.migrations == (MIGRATION,) for one in shown)
    assert [one.part for one in shown] == [0.5, 0.5, 1.0]
    assert (shown[0].keys_moved, shown[0].total_keys, shown[0].pause_ms) == (5, 10, 0)


def test_nodes_of_the_release_before_are_waited_for_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.001)
    now = life("queued", "running", "done")

    def answer(argv: list[bytes]) -> bytes:
        return error_reply("ERR wrong number of arguments for 'changestatus' command") if len(argv) > 2 else now(argv)

    with serving(answer) as server, ended(Either(kind, f"127.0.0.1:{server.port}")) as client:
        assert client("wait", "c-1").done
        with pytest.raises(CommandRefused, match="wrong number"):
            client("change", "c-1", wait_s=0.001)


def test_waiting_tells_what_became_of_it(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.001)
    with serving(life("running", "done")) as server, ended(Either(kind, f"127.0.0.1:{server.port}")) as client:
        seen: list[helios.Progress] = []
        assert client("wait", CHANGE, progress=seen.append).done
        assert [one.ended for one in seen] == [False, True]
    with (
        serving(life("failed")) as server,
        ended(Either(kind, f"127.0.0.1:{server.port}")) as client,
        pytest.raises(helios.ChangeFailed, match="add node failed"),
    ):
        client("wait", "c-1")
    with serving(life("running")) as server, ended(Either(kind, f"127.0.0.1:{server.port}")) as client:
        with pytest.raises(helios.WaitTimeout, match="it goes on") as caught:
            client("wait", "c-1", timeout_s=0.01)
        assert isinstance(caught.value, TimeoutError)


def test_waiting_ends_when_nobody_is_heard_any_more(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "POLL_S", 0.001)
    monkeypatch.setattr(progress, "GIVE_UP_S", 0.01)
    with (
        ended(Either(kind, nobody())) as client,
        pytest.raises(helios.Unavailable, match="nothing was heard from change c-1"),
    ):
        client("wait", "c-1")


def test_what_makes_no_sense_is_refused_at_once(kind: str) -> None:
    with pytest.raises(helios.InvalidInput):
        Either(kind, "localhost")
    with pytest.raises(helios.InvalidInput):
        Either(kind, "localhost:1", timeout_s=0)
    with ended(Either(kind, "localhost:1")) as client, pytest.raises(helios.InvalidInput, match="UTF-8"):
        client("remove_node", "\ud800")


async def test_a_cancelled_call_leaves_no_reply_for_the_next(node: FakeServer) -> None:
    async with helios.AsyncAdminClient(f"127.0.0.1:{node.port}") as client:
        call = asyncio.create_task(client.stats())
        await until(lambda: node.commands and node.commands[-1] == [b"CLUSTERSTATS"])
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert await client.cleanup_migrations() == 7


async def test_tasks_may_share_a_client(node: FakeServer) -> None:
    async with helios.AsyncAdminClient(f"127.0.0.1:{node.port}") as client:
        got = tuple(await asyncio.gather(client.stats(), client.rules(), client.cleanup_migrations(), client.stats()))
    assert got == (STATS, [RULE], 7, STATS)


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"
