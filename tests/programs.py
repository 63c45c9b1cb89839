"""Programs that users of servers have and that tests try: redis-cli is part of a package, redis-benchmark of none."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def find_program(name: str) -> str | None:
    """The program that was installed with the tests, else one on PATH."""
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    return shutil.which(name, path=os.pathsep.join(folders))
