"""Writes docs/SETTINGS.md, the reference of all settings, from the code. Run it after a setting was added or changed:

.venv/bin/python tools/settings_reference.py
"""

from __future__ import annotations

from pathlib import Path

from helios.model.setting_info import Effect, SettingInfo, all_settings, sections
from helios.runtime.settings import variable

TARGET = Path(__file__).parents[1] / "docs" / "SETTINGS.md"

_HEAD = """# Settings

Every setting, from the code (`tools/settings_reference.py` writes this page; a test holds it to the code).
[The guide](GETTING_STARTED.md#configuration) says how settings are given, changed, and taken back.

A settings file names the section and, indented below it, the setting. A value that holds **at once** is shared by all
processes of the cluster, which take it up while they run: from an edited file, `helios config set`,
`helios-cli config set` or REST. One that waits for a **restart** is taken up by processes when they are started. One
that is **fixed** belongs to a cluster from its founding on.
"""

_EFFECTS = {
    Effect.NOW: "at once",
    Effect.APART: "at once, from an edited file",
    Effect.RESTART: "restart",
    Effect.FIXED: "fixed",
}


def reference() -> str:
    """The whole page."""
    parts = [_HEAD]
    for section, kind in sections().items():
        meaning = (kind.__doc__ or "").strip().splitlines()[0]
        parts.append(f"## {section}\n\n{meaning}\n")
        parts += [_entry(info) for name, info in all_settings().items() if name.startswith(f"{section}.")]
    return "\n".join(parts)


def _entry(info: SettingInfo) -> str:
    holds = _EFFECTS[info.effect] + (f" ({info.why})" if info.why else "")
    rows = [
        ("default", f"`{info.default}`"),
        ("allowed", info.allowed),
        *([("unit", info.unit)] if info.unit else []),
        ("a change holds", holds),
        ("variable", f"`{variable(info.name)}`"),
    ]
    table = "\n".join(f"| {name} | {text.replace('|', chr(92) + '|')} |" for name, text in rows)
    return f"### {info.name}\n\n{info.description}.\n\n| | |\n|---|---|\n{table}\n"


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
