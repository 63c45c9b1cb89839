"""Which tests of this folder there are: those of programs that are no Python packages need the programs."""

from __future__ import annotations

import pytest
from tests.programs import find_program

_TESTS = {"redis-cli": "router/test_redis_cli.py", "redis-benchmark": "router/test_redis_benchmark.py"}
_MISSING = [name for name in _TESTS if find_program(name) is None]
collect_ignore = [_TESTS[name] for name in _MISSING]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which of the programs are tried on this machine."""
    said = [f"{name} (not on PATH)" if name in _MISSING else name for name in _TESTS]
    terminalreporter.write_line(f"programs under test: {', '.join(said)}")
