"""Ports: free, taken, reserved."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from tests.ports import free_ports

from helios.errors import StartError
from helios.model.ids import Address
from helios.node import ports
from helios.node.ports import MEMBER_PORT_OFFSET, Reservation, choose_member_port, outward_host, taken

HOST = "127.0.0.1"


def listening() -> socket.socket:
    return socket.create_server((HOST, 0))


def test_a_port_is_taken_while_somebody_listens() -> None:
    with listening() as server:
        port = server.getsockname()[1]
        assert taken(HOST, port) == f"port {port} on {HOST} is taken by another process"
        assert taken("localhost", port) is not None
    assert taken(HOST, port) is None


def test_hosts_that_are_not_here() -> None:
    assert taken("192.0.2.1", 7000) == "192.0.2.1 is not an address of this machine"
    with pytest.raises(StartError, match="is not an address of this machine"):
        taken("no such host", 7000)


def test_a_reserved_port_serves_only_those_who_share_it() -> None:
    with listening() as server:
        port = server.getsockname()[1]
        with pytest.raises(StartError, match="is taken by another process"):
            Reservation(Address(HOST, port))
    reservation = Reservation(Address(HOST, port))
    assert taken(HOST, port) is not None
    with pytest.raises(OSError, match="in use"):
        socket.create_server((HOST, port))
    with socket.create_server((HOST, port), reuse_port=True) as server:
        again = Reservation(Address(HOST, port))
        # The reservations stand in nobody's way: every connection comes to the one that listens.
        for _ in range(20):
            socket.create_connection((HOST, port), timeout=5).close()
            server.accept()[0].close()
        again.release()
    reservation.release()
    assert taken(HOST, port) is None


def test_what_an_earlier_server_left_does_not_stop_a_reservation() -> None:
    with listening() as server:
        port = server.getsockname()[1]
        client = socket.create_connection((HOST, port), timeout=5)
        accepted = server.accept()[0]
        accepted.close()  # the side that closes first keeps the port for a minute
        assert client.recv(1) == b""
        client.close()
    Reservation(Address(HOST, port)).release()


def test_a_servers_port_lies_above_its_nodes_where_it_can() -> None:
    wished = free_ports(1)
    assert choose_member_port(HOST, wished) == wished
    with socket.create_server((HOST, wished)):
        assert choose_member_port(HOST, wished) != wished


@pytest.mark.parametrize(
    "outgoing",
    ["32768\t60999\n", "10000\t65535\n", "20000\t65535\n", "1024\t40000\n", "-", ""],
)
@pytest.mark.parametrize("wished", [0, 16379, 33000, 40000, 75000])
def test_no_outgoing_connection_takes_a_servers_port(
    outgoing: str, wished: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where the system may give every port to one, and where nothing says which it gives."""
    said = tmp_path / "ip_local_port_range"
    if outgoing:
        said.write_text(outgoing)
    monkeypatch.setattr(ports, "_OUTGOING", said)
    port = choose_member_port(HOST, wished)
    assert taken(HOST, port) is None
    assert 1023 < port <= 65535
    if outgoing not in ("", "-", "10000\t65535\n"):
        assert port not in ports.outgoing_ports()


def test_a_servers_port_lies_below_its_nodes_where_the_system_has_those_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = free_ports(1) + MEMBER_PORT_OFFSET  # nobody listens there, and where it came from neither
    monkeypatch.setattr(ports, "_OUTGOING", tmp_path / "ip_local_port_range")
    (tmp_path / "ip_local_port_range").write_text(f"{node + 1}\t65535\n")
    assert choose_member_port(HOST, node + MEMBER_PORT_OFFSET) == node - MEMBER_PORT_OFFSET


def test_others_reach_what_is_bound_to_every_address_by_one() -> None:
    assert outward_host("127.0.0.1") == "127.0.0.1"
    assert outward_host("0.0.0.0") != "0.0.0.0"
