"""The command lines by which Helios starts processes of its own."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def helios_command(*words: str) -> list[str]:
    """The command line that runs a command of this very Helios."""
    return _program("helios.cli.main", *words)


def child_command(kind: str, settings: Path, *words: str) -> list[str]:
    """The command line that runs a "node", a "router" or the "gateway" with the settings handed over in a file."""
    return _program("helios.runtime.child", kind, *words, "--settings", str(settings))


def node_command(options: Mapping[str, str]) -> list[str]:
    """The command line that runs a node which reads its settings itself: `config` is their file.

    A setting that is given goes by its full name.
    """
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return _program("helios.runtime.child", "node", *words)


def _program(module: str, *words: str) -> list[str]:
    # -P: modules come from where Helios was installed, not from whatever folder this was started in.
    return [sys.executable, "-P", "-m", module, *words]
