"""SORT by keys of other shards: the replies are a server's, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.routers import RouterLab, served_aside
from tests.servers import Server
from tests.typed_replies import TypedClient

pytestmark = pytest.mark.processes
SHARDS = ("shard-1", "shard-2", "shard-3")
FILLING = (
    "RPUSH list 3 1 2 4 1",
    "SADD set 3 1 2 4",
    "ZADD sorted 5 3 6 1 7 2",
    "MSET weight_1 40 weight_2 30 weight_3 20 weight_4 10 name_1 one name_2 two name_3 three",
    "HSET object_1 n 9 name eins",
    "HSET object_2 n 8 name zwei",
    "HSET object_3 n 7",
    "SET object_4 text",
    "RPUSH words b a",
    "MSET text_a later text_b early",
    "SET string v",
)


@pytest.fixture(scope="module")
def lab(servers: dict[str, Server]) -> Iterator[RouterLab]:
    with served_aside(servers) as made:
        yield made


@pytest.mark.parametrize(
    "command",
    [
        "SORT list BY weight_*",
        "SORT list BY weight_* DESC LIMIT 1 2 GET # GET name_* GET object_*->name",
        "SORT set BY object_*->n GET #",
        "SORT sorted BY nosort GET name_* GET weight_*",
        "SORT words ALPHA BY text_* GET # GET text_*",
        "SORT words BY text_*",
        "SORT_RO list GET weight_* LIMIT 0 10",
        "SORT list BY weight_* STORE stored",
        "SORT list GET name_* STORE list",
        "SORT none BY weight_* STORE stored",
        "SORT none BY weight_*",
        "SORT string BY weight_*",
        "SORT list BY weight_* LIMIT a b",
        "SORT list BY weight_* NOSUCH",
        "SORT list BY * GET *->",
    ],
)
@pytest.mark.parametrize("protocol", [2, 3])
def test_the_reply_and_what_is_stored_are_those_of_one_server(
    lab: RouterLab, plain: Server, command: str, protocol: int
) -> None:
    with TypedClient(lab.port) as router, TypedClient(plain.port) as server:
        for client in (router, server):
            client.ask("HELLO", str(protocol))
            client.ask("FLUSHALL")
            for words in FILLING:
                assert client.ask(*words.split()).kind != "-"
        assert router.ask(*command.split()) == server.ask(*command.split())
        for key in ("stored", "list"):
            assert router.ask("LRANGE", key, "0", "-1") == server.ask("LRANGE", key, "0", "-1")
        assert router.ask("DBSIZE") == server.ask("DBSIZE")
        scanned = router.ask("KEYS", "*").parts
        assert scanned is not None and len(scanned) == int(server.ask("DBSIZE").text or b"")


def test_too_many_look_ups_are_refused(lab: RouterLab) -> None:
    with TypedClient(lab.port) as router:
        router.ask("FLUSHALL")
        router.ask("RPUSH", "many", *map(str, range(4097)))
        refused = router.ask("SORT", "many", "BY", "weight_*", "GET", "name_*")
        assert (refused.text or b"").startswith(b"ERR 'SORT ... BY or GET pattern' is refused for 4097 elements")
        assert len(router.ask("SORT", "many", "BY", "weight_*", "LIMIT", "0", "1").parts or ()) == 1
