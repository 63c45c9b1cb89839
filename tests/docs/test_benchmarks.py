"""The benchmarks of placing keys and of rules run; their figures are of no interest here."""

from __future__ import annotations

import pytest
from benchmarks import rules
from benchmarks.ring import main


def test_everything_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--quick"])
    printed = capsys.readouterr().out
    for heading in ("look-up", "build", "plan", "a phase of a pair", "off the mean", "points a node", "a new node"):
        assert heading in printed
    assert "farthest off: 16.2%" in printed
    assert "23.66%" in printed


def test_everything_about_rules_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    rules.main(["--quick"])
    printed = capsys.readouterr().out
    for heading in ("look-up", "one more move", "rules left"):
        assert heading in printed
