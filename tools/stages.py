"""Draws the stages of a fence in docs/MOVING_KEYS.md from the control's own table. Run it after STAGES was changed:

.venv/bin/python tools/stages.py
"""

from __future__ import annotations

import re
from pathlib import Path

from helios.control.transition import STAGES
from helios.control.transition_state import Stage

TARGET = Path(__file__).parents[1] / "docs" / "MOVING_KEYS.md"
BEGIN, END = "<!-- stages: drawn by tools/stages.py -->", "<!-- end of stages -->"

_NAME_WIDTH = 16
_RAIL = 50  # the column in which failures run down to lifting


def diagram() -> str:
    """The stages from top to bottom as all goes well, each with what leads to lifting the fence on its right."""
    lines: list[str] = []
    stage: Stage | None = None
    while not lines or stage is not None:
        failures = ", ".join(_words(cause) for cause, after in STAGES[stage].items() if after is Stage.LIFTING)
        lines.append(f"{_named(stage)}--- {failures} ".ljust(_RAIL, "-") + ".")
        cause, stage = _forward(stage)
        lines += [f"{left:<{_RAIL}}|" for left in (f"   | {cause}", "   v")]
    cause, stage = _forward(Stage.LIFTING)
    lines.append(f"{_named(stage)}<-- {cause} --- {Stage.LIFTING} <".ljust(_RAIL, "-") + "'")
    return "\n".join(["```", *lines, "```"])


def _forward(stage: Stage | None) -> tuple[str, Stage | None]:
    """What leads from a stage to another one than lifting, and which that is."""
    [(cause, after)] = [found for found in STAGES[stage].items() if found[1] not in (stage, Stage.LIFTING)]
    return _words(cause), after


def written(page: str) -> str:
    """The page with the diagram as it is now."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{diagram()}\n\n{END}{rest.partition(END)[2]}"


def _named(stage: Stage | None) -> str:
    return f" {stage or 'not fenced'} ".ljust(_NAME_WIDTH)


def _words(cause: type) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", " ", cause.__name__).lower()


if __name__ == "__main__":
    TARGET.write_text(written(TARGET.read_text()))
