"""What tests need of the machine that they run on."""

from __future__ import annotations

import os


def given(able: bool, remedy: str) -> bool:
    """Whether the machine can do it. In CI it has to: no test is left out there."""
    assert able or "CI" not in os.environ, remedy
    return able
