import pytest

from helios.errors import InvalidInput
from helios.model.ids import Address, check_id


def test_address_round_trip() -> None:
    for text in ("localhost:6379", "127.0.0.1:1", "[::1]:65535"):
        assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "localhost", ":6379", "localhost:", "localhost:0", "a:65536", "::1:6379", "a b:1"]
)
def test_bad_addresses_are_named(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not an address"):
        Address.parse(text)


@pytest.mark.parametrize("value", ["", "-a", "a b", "a#1", "ä", "x" * 65, "a\n"])
def test_bad_ids_are_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="cannot be the id of a node"):
        check_id("node", value)


def test_good_ids_pass() -> None:
    for value in ("shard-1", "A", "9.x_y", "x" * 64):
        assert check_id("node", value) == value


def test_addresses_of_data_servers_say_whether_they_speak_tls() -> None:
    for text in ("localhost:6379", "rediss://db.example.net:6379", "rediss://[::1]:6379"):
        assert str(Address.of_server(text)) == text
    assert Address.of_server("redis://h:1") == Address("h", 1)
    assert Address.of_server("rediss://h:1/").tls
    for text in ("http://h:1", "rediss://h"):
        with pytest.raises(InvalidInput, match=r"is not (the|an) address"):
            Address.of_server(text)
