"""Fixtures for the tests of applications that use Helios; installing Helios is enough to have them.

Nothing but pytest is imported until a test asks for a cluster.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from helios.local import LocalCluster


@pytest.fixture(scope="session")
def helios_options() -> Mapping[str, Any]:
    """The arguments of the LocalCluster that `helios_cluster` gives; override it in a conftest.py."""
    return {"shards": 3}


@pytest.fixture(scope="session")
def helios_cluster(helios_options: Mapping[str, Any]) -> Iterator[LocalCluster]:
    """A running helios.LocalCluster, shared by all tests of the run (of each worker's tests under xdist)."""
    from helios.local import LocalCluster

    with LocalCluster(**helios_options) as cluster:
        yield cluster


@pytest.fixture
def empty_helios_cluster(helios_cluster: LocalCluster) -> LocalCluster:
    """The same cluster, without any keys when the test begins; its nodes, rules and settings stay."""
    helios_cluster.flush()
    return helios_cluster
