"""`helios export-store` and `helios import-store`: a cluster's state as a file, to take it into another store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from helios.cli.outcome import carry_out

if TYPE_CHECKING:
    from helios.runtime.settings import SettingsRead

File = Annotated[Path, typer.Argument(metavar="FILE")]
Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML file with settings.")]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", metavar="DIR", help="Folder of the cluster [default: ./helios-data].")
]
StoreUrl = Annotated[
    str | None, typer.Option("--store", metavar="URL", help="The store [default: helios.db in the folder].")
]


def export_store(file: File, config: Config = None, data_dir: DataDir = None, store: StoreUrl = None) -> None:
    """Write all that a cluster has agreed on into FILE: nodes, who owns which keys, settings, users, history.

    No process of the cluster may run. The keys stay where they are, on the data servers. Keep FILE secret.

    Example: helios export-store cluster.state --data-dir ./helios-data
    """

    def start() -> None:
        from helios.runtime.transfer import run_export

        run_export(_read(config, data_dir, store), file)

    carry_out(start)


def import_store(file: File, config: Config = None, data_dir: DataDir = None, store: StoreUrl = None) -> None:
    """Write what export-store has put into FILE into another store, which must be empty.

    Example: helios import-store cluster.state --store etcd://10.0.0.1:2379,10.0.0.2:2379/prod
    """

    def start() -> None:
        from helios.runtime.transfer import run_import

        run_import(_read(config, data_dir, store), file)

    carry_out(start)


def _read(config: Path | None, data_dir: str | None, store: str | None) -> SettingsRead:
    from helios.runtime.settings import SettingsSource

    return SettingsSource(config, os.environ, {"atlas.data_dir": data_dir, "store.url": store}).read()
