"""Profiles of the property tests: without deadlines, since machines differ; `ci` tries the same examples each time.

HYPOTHESIS_PROFILE=long tries a hundred times as many, for whoever has changed what they test.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings
from tests.cluster_store import serving_clusters
from tests.leftovers import nothing_left_running as nothing_left_running

settings.register_profile("local", deadline=None, print_blob=True, max_examples=50)
settings.register_profile("ci", deadline=None, print_blob=True, max_examples=50, derandomize=True, database=None)
settings.register_profile("long", deadline=None, print_blob=True, max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "local"))

# A run that was started in the background of a script ignores interrupts, and so would the programs under test.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _store_of_clusters(nothing_left_running: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where tests of whole clusters are to run over etcd, there is one."""
    with serving_clusters(tmp_path_factory.getbasetemp() / "etcd-of-clusters"):
        yield
