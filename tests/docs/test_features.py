"""docs/FEATURES.md names nothing that does not exist, and gives every promise a test."""

from __future__ import annotations

import re

import pytest
from tests.docs.console import ROOT

TEXT = (ROOT / "docs" / "FEATURES.md").read_text(encoding="utf-8")
PROMISES = TEXT[: TEXT.index("\n## Figures")]
NAMED = sorted(set(re.findall(r"`((?:src|tests|docs|benchmarks)/[^`]+)`", TEXT)))


def test_there_is_much_to_hold() -> None:
    assert len(NAMED) > 60


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_exists(name: str) -> None:
    path, _, function = name.partition("::")
    assert (ROOT / path).is_file()
    if function:
        assert re.search(rf"^(async )?def {function}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)


def test_every_promise_has_a_place_and_a_test() -> None:
    rows = [row for row in PROMISES.splitlines() if row.startswith("| ") and not row.startswith("| promise")]
    assert len(rows) > 30
    for row in rows:
        _, _promise, where, held_by, _ = row.split("|")
        assert re.fullmatch(r" `(src|docs)/[^`]+` ", where), row
        assert all(re.fullmatch(r"`tests/[^`]+::test_\w+`", one) for one in held_by.strip().split(", ")), row


def test_every_figure_says_where_it_comes_from() -> None:
    figures = TEXT[TEXT.index("\n## Figures") : TEXT.index("\n## What is not")].splitlines()
    rows = [row for row in figures if row.startswith("| ") and not row.startswith("| figure")]
    assert len(rows) > 8
    tuning = (ROOT / "docs" / "TUNING.md").read_text(encoding="utf-8")
    known = tuning[tuning.index("\n## Measured") : tuning.index("\n## What only")]
    for row in rows:
        _, _figure, _promised, measured, by, _held_by, _ = row.split("|")
        assert measured.strip(), row
        assert re.fullmatch(r" `(benchmarks|src)/[^`]+` ", by), row
        if "(TUNING.md#measured)" in measured:
            numbers = re.findall(r"(?<!MD)\b\d[\d.]*", measured)
            assert numbers, row
            assert set(numbers) <= set(re.findall(r"\b\d[\d.]*\d", known)), row
