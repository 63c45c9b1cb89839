"""Writes the table of stages in docs/MOVING_KEYS.md from the control's own. Run it after STAGES was changed:

.venv/bin/python tools/stages.py
"""

from __future__ import annotations

import re
from pathlib import Path

from helios.control.transition import STAGES

TARGET = Path(__file__).parents[1] / "docs" / "MOVING_KEYS.md"
BEGIN, END = "<!-- stages: written by tools/stages.py -->", "<!-- end of stages -->"


def table() -> str:
    """The table, one row for each stage and event that leads to another."""
    rows = [
        f"| {_stage(stage)} | {_words(cause.__name__)} | {_stage(after)} |"
        for stage, causes in STAGES.items()
        for cause, after in causes.items()
        if after is not stage
    ]
    return "\n".join(["| stage | event | next stage |", "|---|---|---|", *rows])


def written(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{rest.partition(END)[2]}"


def _stage(stage: str | None) -> str:
    return f"`{stage}`" if stage else "none"


def _words(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", " ", name).lower()


if __name__ == "__main__":
    TARGET.write_text(written(TARGET.read_text()))
