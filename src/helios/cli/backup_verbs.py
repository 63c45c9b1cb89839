"""The verbs that keep a copy of a whole cluster: backup and restore."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from helios.cli import output
from helios.cli.session import Session, described, pass_session
from helios.terminal import shown

_FOLDER = click.argument("folder", metavar="DIR", type=click.Path(path_type=Path, file_okay=False))
Tell = Callable[[str], None]


@click.command("backup", **described("helios-cli backup ./2026-11-28"))
@_FOLDER
@pass_session
def backup(session: Session, folder: Path) -> None:
    """Copy the whole cluster into the folder DIR, as it is at one moment.

    All keys with their times to live, functions, topology, settings and users; keep it secret. Commands are held for
    the moment in which the copies begin, not while they are written. Keys that move are waited for. Run the same
    again where it was interrupted: it goes on, if that was minutes ago.
    """
    from helios.cli.backup import Taker

    with session.connect() as client, _progress("backup") as (tell, show):
        taker = Taker(
            client, folder, tell, lambda so_far: show(f"{so_far.shards_done} of {so_far.shards} shards", so_far.bytes)
        )
        taken = taker.run()
    if session.as_json:
        output.write_json({"id": taken.id, "taken_at": taken.taken_at, "pause_ms": taken.pause_ms, "bytes": taken.size})
        return
    shards = "1 shard" if len(taken.shards) == 1 else f"{len(taken.shards)} shards"
    output.write(
        f"{shards} in {folder}, {output.size(taken.size)}, as of {output.clock(taken.taken_at)}; "
        f"commands were held for {taken.pause_ms:.0f} ms"
    )


@click.command("restore", **described("helios-cli restore ./2026-11-28 --settings --users"))
@_FOLDER
@click.option("--verify", is_flag=True, help="Only check that the backup is whole; needs no cluster.")
@click.option("--settings", is_flag=True, help="Also give the shared settings the values that they had.")
@click.option("--users", is_flag=True, help="Also let in the users of then, and nobody else.")
@pass_session
def restore(session: Session, folder: Path, verify: bool, settings: bool, users: bool) -> None:
    """Write the backup in the folder DIR into a new cluster, which may have any number of nodes.

    Refused, before anything is written, where a file is damaged or missing, or the cluster has keys.
    """
    from helios.cli.restore import Restorer, check

    with _progress("check") as (_, show):
        read = 0

        def advance(more: int) -> None:
            nonlocal read
            read += more
            show("files", read)

        checked = check(folder, advance)
    if verify:
        if session.as_json:
            output.write_json(checked.as_dict())
        else:
            output.write(checked.as_text())
        return
    with session.connect() as client, _progress("restore") as (tell, show):
        restorer = Restorer(client, folder, tell, lambda keys: show(f"{keys:,} of {checked.keys:,} keys", None))
        try:
            restorer.run(checked, settings=settings, users=users)
        except BaseException:
            if restorer.report.restored:
                tell(f"stopped; known so far: {restorer.report.as_text()}; FLUSHALL empties the cluster to begin anew")
            raise
    report = restorer.report
    if session.as_json:
        output.write_json(report.as_dict())
    else:
        output.write(report.as_text())
    if not report.clean:
        raise click.exceptions.Exit(1)


VERBS = (backup, restore)


@contextmanager
def _progress(what: str) -> Iterator[tuple[Tell, Callable[[str, int | None], None]]]:
    """How to tell of a problem and of progress, which is shown if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield output.tell, lambda _text, _size: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def show(text: str, size: int | None) -> None:
            bar.update(task, description=f"{what}: {text}" + (f", {output.size(size)}" if size is not None else ""))

        yield lambda text: bar.console.print(shown(text, sys.stderr), markup=False, highlight=False), show
