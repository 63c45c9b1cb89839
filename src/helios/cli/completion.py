"""`helios completion`: what a shell needs to complete the words of helios and helios-cli."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

VARIABLE = "_HELIOS_COMPLETE"  # a shell asks `helios` by it
_OTHER_VARIABLE = "_HELIOS_CLI_COMPLETE"


class Shell(StrEnum):
    """The shells that are known."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def completion(
    shell: Annotated[Shell, typer.Argument(metavar="SHELL", help="bash, zsh or fish.")],
) -> None:
    """Print what makes Tab complete commands, options, ids of nodes and migrations, and settings.

    For bash and zsh, put eval "$(helios completion bash)" into ~/.bashrc, or the same with zsh into ~/.zshrc behind
    compinit; for fish, helios completion fish | source into ~/.config/fish/config.fish.

    Example: eval "$(helios completion bash)"
    """
    from click.shell_completion import get_completion_class
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # not named in an __all__

    from helios.cli.client import cli

    print(get_completion_script(prog_name="helios", complete_var=VARIABLE, shell=shell.value))
    kind = get_completion_class(shell.value)
    assert kind is not None, "click knows each of these shells"
    print(kind(cli, {}, "helios-cli", _OTHER_VARIABLE).source())
