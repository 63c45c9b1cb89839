"""`helios doctor`: whether this machine can run a cluster, and what to do where it cannot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from helios.cli.outcome import NOT_IN_ORDER, carry_out
from helios.terminal import clean


def doctor(
    config: Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML file with settings.")] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", metavar="DIR", help="Folder of all data [default: ./helios-data].")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="URL", help="The store [default: helios.db in the folder].")
    ] = None,
    shards: Annotated[int | None, typer.Option("--shards", metavar="N", help="As for helios up.")] = None,
    port: Annotated[int | None, typer.Option("--port", metavar="P", help="As for helios up.")] = None,
    api_port: Annotated[int | None, typer.Option("--api-port", metavar="P", help="As for helios up.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for programs.")] = False,
) -> None:
    """Check this machine and the store: programs, ports, limits, disk, memory, clock, what an earlier run has left.

    Exit status 1 where something keeps a cluster from running; warnings do not count.

    Example: helios doctor --data-dir ./helios-data
    """

    def start() -> None:
        from dataclasses import asdict

        from helios.cli import output
        from helios.node.files import DataFolder
        from helios.runtime.doctor import Machine, examine
        from helios.runtime.findings import Verdict
        from helios.runtime.preflight import UpOptions
        from helios.runtime.settings import SettingsSource, data_folder

        settings = (
            SettingsSource(config, os.environ, {"atlas.data_dir": data_dir, "store.url": store}, None, api_port)
            .read()
            .settings
        )
        options = UpOptions(shards=shards, port=port)
        findings = examine(DataFolder(data_folder(settings)), settings, options, Machine())
        if as_json:
            output.write_json([asdict(finding) for finding in findings])
        else:
            output.write(output.table(["CHECK", "", "FOUND"], [[f.check, f.verdict, f.found] for f in findings]))
            todo = [finding for finding in findings if finding.todo]
            for finding in todo:
                output.write(f"\n{finding.check}: {clean(finding.todo)}")
        if any(finding.verdict is Verdict.FAIL for finding in findings):
            raise typer.Exit(NOT_IN_ORDER)

    carry_out(start)
