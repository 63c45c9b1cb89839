"""Runs lives in processes of their own, as the command line does."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass

_FAILED = re.compile(r"^seed (\d+) failed: (.*)$", re.MULTILINE)
_DIGEST = re.compile(r"^seed \d+: digest (\w+)", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Run:
    """What a command of the simulation said."""

    held: bool
    said: str

    @property
    def failures(self) -> dict[int, str]:
        """The seeds that failed, with what was broken."""
        return {int(seed): what for seed, what in _FAILED.findall(self.said)}

    @property
    def digest(self) -> str:
        """Of a replayed life: equal for equal lives."""
        found = _DIGEST.search(self.said)
        assert found is not None, self.said
        return found[1]


def simulate(*arguments: str | int) -> Run:
    """`python -m tests.simulation` with these arguments."""
    command = [sys.executable, "-m", "tests.simulation", *map(str, arguments)]
    # With the seed that the command insists on, so that it need not start again.
    env = {**os.environ, "PYTHONHASHSEED": "0"}
    run = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
    assert run.returncode in (0, 1), run.stderr
    return Run(run.returncode == 0, run.stdout)
