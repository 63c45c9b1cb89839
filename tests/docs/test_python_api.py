"""What programs are shown: examples, README and docs/PYTHON_API.md do what they say, on one cluster that they share."""

from __future__ import annotations

import doctest
import re
import runpy
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import pytest
from tests.docs.console import ROOT, blocks, difference

import helios

PAGE = "examples/sharding/README.md"
API = (ROOT / "docs" / "PYTHON_API.md").read_text("utf-8")
BLOCKS = {block.steps[0].command: block for block in blocks(PAGE)}
PROGRAMS = sorted({path.stem for path in (ROOT / "examples" / "sharding").glob("*.py")} - {"make_shop"})

# What must be printed where the rest depends on the moment.
CERTAIN = {
    "basic": ["3,000 keys in one key space"],
    "topology": [
        "; 0 lost",
        "shard-4 is drained, and a node still: 0 keys",
        "shard-4 is out again: shard-1, shard-2, shard-3",
        "done: ",
    ],
    "failover": [
        "shard-1 is led by shard-1, followed by shard-2, shard-3\n",
        "shard-1 is led by another node; ",
        "\nshard-1 leads shard-1\n0 writes were refused by that\n",
        " writes were acknowledged meanwhile; 0 lost\n",
    ],
    "moving": [
        "would move 931 keys from shard-1 to shard-2",
        "moved 931 keys, 931 copies compared with their source",
        "rules: shard-1 → shard-2 cart:*; cart:0002 is on shard-2 by the rule\nrules: none; cart:0002 is on shard-1 by",
        "cancelled: cancelled\nwaiting for it says: migrate cancelled: cancelled",
    ],
    "monitoring": [
        "3 of 3 nodes online, 3,000 keys",
        "  move done, 100%\nshard-1 → shard-2: completed, 315 keys\nbalance by keys, ",
        "\nevery key is where it belongs, and nowhere else\n",
        'helios_node_keys{node="shard-1"} 917.0',
        "migrate asked for by user: done, 315 keys\n",
    ],
}


@pytest.fixture(scope="module")
def shared() -> Iterator[helios.LocalCluster]:
    with helios.LocalCluster(shards=3) as running:
        yield running


@pytest.fixture
def cluster(shared: helios.LocalCluster, monkeypatch: pytest.MonkeyPatch) -> Iterator[helios.LocalCluster]:
    """The shared cluster, empty and as it began; it is what a program gets that makes one of its own."""
    shared.flush()
    monkeypatch.setattr(helios, "LocalCluster", lambda shards: Borrowed(shared, shards))
    yield shared
    if "shard-4" in shared.addresses:
        shared.remove_node("shard-4")


class Borrowed(nullcontext[helios.LocalCluster]):
    """Stands for a cluster that is about to start, and outlives its block."""

    def __init__(self, cluster: helios.LocalCluster, shards: int) -> None:
        assert shards == cluster.shards
        super().__init__(cluster)

    def start(self) -> helios.LocalCluster:
        """The cluster, which runs already."""
        return self.enter_result


@pytest.mark.processes
@pytest.mark.parametrize("name", PROGRAMS)
def test_what_an_example_prints(name: str, cluster: helios.LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "examples" / "sharding" / f"{name}.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for certain in CERTAIN[name]:
        assert certain in printed
    block = BLOCKS[f"python examples/sharding/{name}.py"]
    shown = block.steps[0].output
    if not block.output_differs:
        assert not difference(shown, printed)
    passing = re.compile(r"  |queued|running|paused")  # what is seen of a move depends on the moment
    lines = [line for line in printed.splitlines() if not passing.match(line)]
    assert {shape(line) for line in lines} <= {shape(line) for line in shown}


def shape(line: str) -> str:
    """A line without its numbers, what a cancelled move had come to, and what is known of the balance so soon."""
    return re.sub(r"[\d,]+", "#", re.split("cancelled:|%: ", line)[0])


def test_every_example_is_on_its_page() -> None:
    assert set(BLOCKS) == {f"python examples/sharding/{name}.py" for name in PROGRAMS}
    assert sorted(CERTAIN) == PROGRAMS


@pytest.mark.processes
def test_the_program_of_the_readme_runs(cluster: helios.LocalCluster, capsys: pytest.CaptureFixture[str]) -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    exec(compile(program, "README.md", "exec"), {})
    assert capsys.readouterr().out == "241 keys have moved to shard-4, and nothing was down\n"


@pytest.mark.processes
def test_the_sessions_print_what_is_shown(cluster: helios.LocalCluster) -> None:
    names: dict[str, Any] = {}
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE, verbose=False)
    for session in re.finditer(r"^```pycon\n(.*?)^```$", API, re.MULTILINE | re.DOTALL):
        line = API[: session.start(1)].count("\n")
        test = doctest.DocTestParser().get_doctest(session[1], names, "PYTHON_API.md", None, line)
        runner.run(test, out=report.append, clear_globs=False)
        names.update(test.globs)
    assert runner.summarize(verbose=False).attempted > 20
    assert not report, "".join(report)


def test_everything_is_named() -> None:
    for kind in (helios.Ring, helios.Placement, helios.LocalCluster, helios.AdminClient):
        for name in vars(kind):
            if not name.startswith("_"):
                assert re.search(rf"\b{name}\b", API), f"{kind.__name__}.{name} is missing"
    views = {name for name in helios.__all__ if name.endswith("View")} - {"NodeView", "MigrationView", "ChangeView"}
    for name in set(helios.__all__) - views - {"Rule", "Progress", "Finding"}:
        assert re.search(rf"\b{name}\b", API), f"{name} is missing"
