"""`helios config`: the settings of the cluster in a data folder, whether it runs or not."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from helios.cli.outcome import NOT_IN_ORDER, carry_out
from helios.terminal import clean

if TYPE_CHECKING:
    from helios.runtime.settings import SettingsSource

config = typer.Typer(
    help="Show, check and change settings, and take changes back.",
    epilog="Example: helios config show --origin",
    no_args_is_help=True,
    rich_markup_mode=None,
)

DataDir = Annotated[
    str | None, typer.Option("--data-dir", metavar="DIR", help="Folder of the cluster [default: ./helios-data].")
]
StoreUrl = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="The store [default: helios.db in the folder].")
]
Json = Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")]


def _names(incomplete: str) -> list[str]:
    """Every setting that begins so, for a shell."""
    from helios.model.setting_info import all_settings

    return [name for name in all_settings() if name.startswith(incomplete)]


def _shared_names(incomplete: str) -> list[str]:
    """The settings that all processes share, and that begin so."""
    from helios.model.setting_info import all_settings

    return [name for name in _names(incomplete) if all_settings()[name].shared]


@config.command("show")
def show(
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="One setting, with what it may be.", autocompletion=_names),
    ] = None,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    file: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="As a start with this settings file would have it.")
    ] = None,
    data_dir: DataDir = None,
    store: StoreUrl = None,
    as_json: Json = False,
) -> None:
    """Show the settings as the cluster has them, or as a start would.

    Example: helios config show --origin
    """

    def start() -> None:
        from dataclasses import asdict

        from helios.cli import cluster_output
        from helios.errors import NotFound
        from helios.model.setting_info import nearest
        from helios.runtime.configuration import settings_of

        views = [asdict(view) for view in settings_of(_source(file, data_dir, store), planned=file is not None)]
        if name is None:
            _print({"settings": views}, as_json, lambda: cluster_output.settings(views, origins=origin))
            return
        view = next((view for view in views if view["name"] == name), None)
        if view is None:
            raise NotFound(f"{clean(name)} is not a setting; {nearest(name)}`helios config show` lists all")
        _print(view, as_json, lambda: cluster_output.setting(view))

    carry_out(start)


@config.command("check")
def check(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="A settings file.")] = None,
    data_dir: DataDir = None,
    store: StoreUrl = None,
) -> None:
    """Look at a settings file and the environment without starting anything.

    Exit status 1 where a start, or the running cluster, would not take them.

    Example: helios config check configs/sharded-cluster.yaml
    """

    def start() -> None:
        from helios.cli import output
        from helios.errors import SettingsError, StartError
        from helios.runtime.configuration import checked

        try:
            rows = checked(_source(file, data_dir, store))
        except (SettingsError, StartError) as error:
            from helios.runtime.lifecycle import complain

            complain(str(error))
            raise typer.Exit(NOT_IN_ORDER) from error
        output.write(output.table(["SETTING", ">VALUE", "TAKES EFFECT", "FROM"], rows) if rows else "nothing is set")

    carry_out(start)


@config.command("set", context_settings={"ignore_unknown_options": True})
def set_one(
    name: Annotated[
        str,
        typer.Argument(
            metavar="KEY", help="Its full name, such as sharding.migration_rate.", autocompletion=_shared_names
        ),
    ],
    value: Annotated[str, typer.Argument(metavar="VALUE", help="Written as a settings file would have it.")],
    data_dir: DataDir = None,
    store: StoreUrl = None,
) -> None:
    """Change a shared setting, for all processes of the cluster at once.

    Example: helios config set sharding.migration_rate 5000
    """

    def start() -> None:
        from helios.cli import output
        from helios.runtime.configuration import change, lasting

        altered = change(_source(None, data_dir, store), name, value)
        if altered is None:
            output.write(f"{name} is {value} already")
            return
        output.write(f"{altered.name}: {altered.new} (was {altered.old})")
        if lasting(altered.before):
            output.write(f"note: {altered.before} sets it, too, and wins at the next start of helios up")

    carry_out(start)


@config.command("history")
def history(data_dir: DataDir = None, store: StoreUrl = None, as_json: Json = False) -> None:
    """Show what was changed, when and by whom; the last hundred changes.

    Example: helios config history
    """

    def start() -> None:
        from dataclasses import asdict

        from helios.cli import cluster_output
        from helios.runtime.configuration import history_of

        changes = [asdict(change) for change in history_of(_source(None, data_dir, store))]
        _print({"changes": changes}, as_json, lambda: cluster_output.setting_history(changes))

    carry_out(start)


@config.command("rollback")
def roll_back(
    number: Annotated[
        int | None, typer.Argument(metavar="[N]", min=0, help="A change of the history [default: the last but one].")
    ] = None,
    data_dir: DataDir = None,
    store: StoreUrl = None,
) -> None:
    """Bring back the values that held after change N, or undo the last change.

    That is a change as well, which can be taken back in the same way.

    Example: helios config rollback 3
    """

    def start() -> None:
        from dataclasses import asdict

        from helios.cli import cluster_output, output
        from helios.runtime.configuration import bring_back

        altered = [asdict(item) for item in bring_back(_source(None, data_dir, store), number)]
        output.write(cluster_output.altered(altered))

    carry_out(start)


def _source(file: Path | None, data_dir: str | None, store: str | None) -> SettingsSource:
    from helios.runtime.settings import SettingsSource

    return SettingsSource(file, os.environ, {"atlas.data_dir": data_dir, "store.url": store})


def _print(value: object, as_json: bool, render: Callable[[], str]) -> None:
    from helios.cli import output

    if as_json:
        output.write_json(value)
    else:
        output.write(render())
