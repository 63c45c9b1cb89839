"""Writes docs/COMMANDS.md: every command that a server or Helios has, and how Helios treats it.

Use: python tools/command_table.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from helios.model.verbs import VERBS
from helios.resp.commands import BORROWERS, TABLE, Command, How

PATH = Path(__file__).resolve().parent.parent / "docs" / "COMMANDS.md"
_HEAD = """# Commands

How Helios treats each command. `tools/command_table.py` writes this page from the table that routers use.
[The guide](CLIENTS.md) has the details.

| treated | means |
|---|---|
| as it is | is forwarded unchanged to the node that owns its key |
| within a node | has several keys, which one node must own; otherwise `CROSSSHARD` |
| by copies | runs on one node, with borrowed copies of the keys that others own; these are not read at one moment |
| across nodes | is split by owner, and the replies are merged; not atomic |
| any node | has no key, and any node can answer |
| by the router | is answered by the router, which may ask the nodes |
| verb | administers the cluster |
| refused | answered with an error that gives the reason |

"""


def treated(command: Command) -> str:
    """The word for how a command is treated."""
    if command.name in BORROWERS:
        return "by copies"
    if command.how in (How.FORWARD, How.BLOCKING):
        return "as it is" if command.notation.isdigit() else "within a node"
    words = {
        How.SPLIT: "across nodes",
        How.ANYWHERE: "any node",
        How.ROUTER: "by the router",
        How.VERB: "verb",
        How.REFUSED: "refused",
    }
    return words[command.how]


def _remark(command: Command) -> str:
    if command.how is How.REFUSED:
        return command.reason.partition("is refused: ")[2] or command.reason
    if command.how is How.VERB:
        usage = VERBS[command.name].usage.replace("|", r"\|")
        return f"`{usage}`" if " " in usage else ""
    if command.how is How.BLOCKING:
        return "may wait; it follows its keys"
    return ""


def _rows() -> Iterator[str]:
    for name, command in sorted(TABLE.items()):
        container = name.partition("|")[0]
        if container != name and command.how is TABLE[container].how is How.REFUSED:
            continue  # Its container's row says it.
        if command.container and command.how is How.ROUTER and name != "command":
            continue  # Its subcommands say it.
        yield f"| `{name.replace('|', ' ').upper()}` | {treated(command)} | {_remark(command)} |"


def document() -> str:
    """The whole document."""
    return _HEAD + "| command | treated | |\n|---|---|---|\n" + "\n".join(_rows()) + "\n"


if __name__ == "__main__":
    PATH.write_text(document(), encoding="utf-8")
