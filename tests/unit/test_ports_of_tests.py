"""The ports that tests are given."""

from __future__ import annotations

import socket

import pytest
from tests.ports import Ports, free_ports, part

HOST = "127.0.0.1"


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_no_two_workers_have_a_port_in_common(workers: int) -> None:
    given = [port for worker in range(workers) for port in part(worker, workers)]
    assert len(given) == len(set(given))


def test_a_port_is_not_given_again_until_all_were() -> None:
    ports = Ports(range(free := free_ports(12), free + 12))
    given = [ports.adjoining(3) for _ in range(3)]
    assert len({port for first in given for port in range(first, first + 3)}) == 9


@pytest.mark.parametrize("offset", [0, 10_000])
def test_a_port_is_not_given_where_somebody_listens(offset: int) -> None:
    ports = Ports(range(free := free_ports(3), free + 3))
    with socket.create_server((HOST, free + offset)):
        assert {ports.adjoining(2), ports.adjoining(2)} == {free + 1}
        with pytest.raises(AssertionError, match="no 3 adjoining ports are free"):
            ports.adjoining(3)
