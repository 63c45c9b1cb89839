"""What `make` says where something is missing: a line each, before anything is fetched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OLD = "import sys; sys.version_info = (3, 10, 12, 'final', 0); exec(sys.argv[1])"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with as much of the project as `make` looks at; its `.venv` has Python and nothing else."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/python").symlink_to(sys.executable)
    return tmp_path


def made(clone: Path, *arguments: str, **environment: str) -> list[str]:
    """What `make up` says as it fails."""
    run = subprocess.run(
        ["make", "--no-print-directory", "up", *arguments],
        cwd=clone,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 2
    assert not run.stdout
    return run.stderr.splitlines()


def test_without_a_compiler_make_says_what_to_install(clone: Path) -> None:
    said, _ = made(clone, CC="/nowhere/cc -pthread")
    assert (
        said == "Helios has parts in Cython: install a C compiler and Python's headers (build-essential, python3-dev)"
    )


def test_an_older_python_leaves_nothing_in_the_way_of_the_remedy(clone: Path) -> None:
    old = clone / "python3.10"
    old.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{OLD}" "$2"\n')
    old.chmod(0o755)
    for left in (True, False):
        if left:
            (clone / ".venv/bin/python").unlink()
            (clone / ".venv/bin/python").symlink_to(old)
        said, _ = made(clone, f"PYTHON={old}")
        assert said == "Helios needs Python 3.11 or newer with venv: name one by make PYTHON=python3.12 up"
        assert not (clone / ".venv").exists()
