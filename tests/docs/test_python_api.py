"""docs/PYTHON_API.md: its sessions print what is shown, and it names everything that there is."""

from __future__ import annotations

import doctest
import re

import pytest
from tests.docs.console import ROOT

import helios

PAGE = ROOT / "docs" / "PYTHON_API.md"
_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@pytest.mark.processes
def test_the_sessions_print_what_is_shown() -> None:
    names: dict[str, object] = {}
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=_FLAGS, verbose=False)
    try:
        for session in re.finditer(r"^```pycon\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
            line = PAGE.read_text("utf-8")[: session.start(1)].count("\n")
            test = doctest.DocTestParser().get_doctest(session[1], names, PAGE.name, str(PAGE), line)
            runner.run(test, out=report.append, clear_globs=False)
            names.update(test.globs)
    finally:
        for value in names.values():
            if isinstance(value, helios.LocalCluster):
                value.close()
    assert runner.summarize(verbose=False).attempted > 20
    assert not report, "".join(report)


def test_everything_is_named() -> None:
    text = PAGE.read_text("utf-8")
    for kind in (helios.Ring, helios.Placement, helios.LocalCluster, helios.AdminClient):
        for name in vars(kind):
            if not name.startswith("_"):
                assert re.search(rf"\b{name}\b", text), f"{kind.__name__}.{name} is missing"
    views = {name for name in helios.__all__ if name.endswith("View")} - {"NodeView", "MigrationView", "ChangeView"}
    for name in set(helios.__all__) - views - {"Rule", "Progress"}:
        assert re.search(rf"\b{name}\b", text), f"{name} is missing"
