"""Free ports for tests: no two tests of a run are given the same ones, whichever worker of pytest they run in.

A look alone is not enough: a test may listen long after it has looked, or leave its ports alone while its nodes are
down. So each worker has a part of the ports to itself and gives them out in turn. `helios.local` takes from others.
"""

from __future__ import annotations

import os
import random

from helios.node.ports import unused_ports

# With the data servers 10,000 above, all below what the system gives to outgoing connections.
_EVERYBODYS = range(12_000, 20_000)


def part(worker: int, workers: int) -> range:
    """The ports of one of so many workers."""
    size = len(_EVERYBODYS) // workers
    return _EVERYBODYS[worker * size : (worker + 1) * size]


class Ports:
    """Gives out the ports of one range in turn, beginning anywhere, as another run may have the same range."""

    def __init__(self, among: range) -> None:
        self._among = among
        self._next = random.choice(among)

    def adjoining(self, count: int) -> int:
        """The first of `count` adjoining ports that nobody listens on, nor 10,000 above."""
        for _ in range(len(self._among)):
            first = self._next if self._next + count <= self._among.stop else self._among.start
            if unused_ports(first, count):
                self._next = first + count
                return first
            self._next = first + 1
        raise AssertionError(f"no {count} adjoining ports are free among {self._among}")


_PORTS = Ports(
    part(int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]), int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
)


def free_ports(count: int) -> int:
    """The first of `count` adjoining loopback ports that nobody listens on now, nor 10,000 above, where servers go."""
    return _PORTS.adjoining(count)
