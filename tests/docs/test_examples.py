"""The examples do what their page shows."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from collections.abc import Iterator

import pytest
from tests.docs.console import ROOT, Block, blocks, difference

from helios.local import LocalCluster

PAGE = "examples/sharding/README.md"
BLOCKS = {block.steps[0].command: block for block in blocks(PAGE)}

# What must be printed where the rest depends on the moment.
CERTAIN = {
    "topology": ["; 0 lost", "shard-4 is out again: shard-1, shard-2, shard-3", "done: "],
    "moving": [
        "would move 931 keys from shard-1 to shard-2",
        "moved 931 keys, 931 copies compared with their source",
        "rules: shard-1 → shard-2 cart:*; cart:0002 is on shard-2 by the rule\nrules: none; cart:0002 is on shard-1 by",
        "cancelled: cancelled\nwaiting for it says: migrate cancelled: cancelled",
    ],
    "monitoring": [
        "3 of 3 nodes online, 3,000 keys",
        "  move done, 100%\nshard-1 → shard-2: completed, 315 keys\nevery key is where it belongs",
        'helios_node_keys{node="shard-1"} 917.0',
    ],
}


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(shards=3) as running:
        yield running


def test_every_program_is_on_the_page() -> None:
    programs = {path.stem for path in (ROOT / "examples" / "sharding").glob("*.py")} - {"make_shop"}
    assert set(BLOCKS) == {f"python examples/sharding/{name}.py" for name in programs}
    assert set(CERTAIN) <= programs


def test_a_program_runs_as_it_stands() -> None:
    command = "python examples/sharding/basic.py"
    result = subprocess.run(
        [sys.executable, command.split()[1]], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert not difference(BLOCKS[command].steps[0].output, result.stdout)


@pytest.mark.parametrize("name", CERTAIN)
def test_what_a_program_prints(name: str, cluster: LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.flush()
    path = ROOT / "examples" / "sharding" / f"{name}.py"
    runpy.run_path(str(path))["run"](cluster)
    printed = capsys.readouterr().out
    for certain in CERTAIN[name]:
        assert certain in printed
    block: Block = BLOCKS[f"python examples/sharding/{name}.py"]
    assert block.output_differs
    assert {shape(line) for line in block.steps[0].output} >= {
        shape(line) for line in printed.splitlines() if not re.match(r"  |queued|running|paused", line)
    }


def shape(line: str) -> str:
    """A line without its numbers, and without what a cancelled move had come to."""
    return re.sub(r"[\d,]+", "#", line.partition("cancelled:")[0])
