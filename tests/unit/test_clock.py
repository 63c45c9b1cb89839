"""The clocks of this machine, as far as leases depend on them."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.given import given

from helios.ports.clock import boottime
from helios.router._fast_path import Lease
from helios.runtime.clock import SystemClock

# What a machine that was suspended for an hour shows: one clock has gone on, the other has not.
SUSPENDED = ["unshare", "--time", "--fork", "--boottime", "3600"]
ENDED_MEANWHILE = """
import time
from helios.ports.clock import boottime
from helios.router._fast_path import Lease
lease = Lease(boottime)
lease.deadline = time.monotonic() + 60.0
print(lease.lasts())
"""


def test_a_lease_lasts_until_its_deadline() -> None:
    lease = Lease(SystemClock().boottime)
    lease.deadline = boottime() + 60.0
    assert lease.lasts()
    lease.deadline = boottime() - 0.001
    assert not lease.lasts()


def test_a_lease_ends_while_its_machine_is_suspended() -> None:
    tried = subprocess.run([*SUSPENDED, "true"], capture_output=True, check=False)
    if not given(tried.returncode == 0, "a clock of its own needs root"):
        pytest.skip(f"this user may not have clocks of his own: {tried.stderr.decode().strip()}")
    told = subprocess.run(
        [*SUSPENDED, sys.executable, "-c", ENDED_MEANWHILE], capture_output=True, check=True, text=True
    )
    assert told.stdout == "False\n"
