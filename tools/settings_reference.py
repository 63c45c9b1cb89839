"""Writes docs/SETTINGS.md, the reference of all settings, from the code. Run it after a setting was added or changed:

.venv/bin/python tools/settings_reference.py
"""

from __future__ import annotations

from pathlib import Path

from helios.model.setting_info import Effect, SettingInfo, all_settings, sections
from helios.runtime.settings import variable

TARGET = Path(__file__).parents[1] / "docs" / "SETTINGS.md"

_HEAD = """# Settings

Every setting. `tools/settings_reference.py` writes this page from the code, and a test keeps the two alike.
[The guide](GETTING_STARTED.md#configuration) shows how to set, change and restore settings.

A settings file names the section and, indented below it, the setting. If a change holds **at once**, all
processes of the cluster use it while they run, whether it comes from an edited file, `helios config set`,
`helios-cli config set` or REST. If it needs a **restart**, a process uses it when it starts. A **fixed** setting
is decided when the cluster is founded.
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
