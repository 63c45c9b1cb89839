"""The verbs that move many keys: load and dump."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING

import click

from helios.cli import output
from helios.cli.session import Session, described, pass_session
from helios.errors import InvalidInput
from helios.terminal import clean, shown

if TYPE_CHECKING:
    from helios.cli.dump import DumpReport
    from helios.cli.load import LoadReport
    from helios.cli.records import Record

_FORMAT = click.option(
    "--format",
    "file_format",
    type=click.Choice(["tsv", "jsonl"]),
    help="The format, where the file's name does not tell.",
)


class Size(click.ParamType[int]):
    """A number of bytes, perhaps with a unit, as settings have them."""

    name = "size"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from helios.model.notation import parse_size

        try:
            return max(parse_size(value), 1)
        except ValueError:
            self.fail(f"{value!r} is not a size such as 256mb", param, ctx)


@click.command("load", **described("helios-cli load packages.tsv.gz"))
@click.argument("file")
@_FORMAT
@click.option("--strict", is_flag=True, help="Stop at the first problem.")
@click.option("--max-line", metavar="SIZE", default="256mb", type=Size(), help="Pass by lines longer than this.")
@pass_session
def load(session: Session, file: str, file_format: str | None, strict: bool, max_line: int) -> None:
    """Write the pairs of a file into the cluster.

    FILE is .tsv or .jsonl, also packed with gzip; - is stdin.

    TSV: key, tab, value on each line, every byte as it stands. JSON Lines: an object on each line with
    key and value (or key_base64, value_base64), and perhaps ttl in seconds or expire_at_ms. Good lines are
    loaded although others are bad; then the exit status is 1.
    """
    from helios.cli import files
    from helios.cli.load import Loader, Stopped
    from helios.cli.records import parser

    parse = parser(_format_of(file, file_format))
    with ExitStack() as stack:
        content, raw = stack.enter_context(files.reading(file))
        client = stack.enter_context(session.connect())
        tell, progress = stack.enter_context(_loading(file, raw))
        loader = Loader(client, tell, progress, strict=strict, longest_bytes=max_line)
        try:
            loader.run(files.lines(content, max_line), parse)
        except Stopped:
            tell(f"stopped at the first problem, having read {loader.report.lines} lines")
        except BaseException:
            output.tell(f"stopped; known so far: {loader.report.as_text()}")
            raise
    _finish(session, loader.report, sys.stdout)


@click.command("dump", **described("helios-cli dump backup.jsonl.gz"))
@click.argument("file")
@_FORMAT
@click.option("--match", metavar="GLOB", help="Only keys that match.")
@pass_session
def dump(session: Session, file: str, file_format: str | None, match: str | None) -> None:
    """Write every key of the cluster to a file.

    FILE is .tsv or .jsonl, packed if .gz follows; - is stdout. It appears when it is complete.

    JSON Lines keeps every type, every byte and the times to live. TSV holds strings without theirs, behind
    a first line that tells load to undo the escapes \\t, \\n, \\r and \\\\.
    """
    from helios.cli import files, records
    from helios.cli.dump import Dumper

    tsv = _format_of(file, file_format) == "tsv"
    line = records.tsv_line if tsv else records.json_line
    with ExitStack() as stack:
        client = stack.enter_context(session.connect())
        tell, progress = stack.enter_context(_dumping(lambda: None if match else client.call(b"DBSIZE")))
        target = stack.enter_context(files.writing(file))
        if tsv:
            target.write(records.HEADER + b"\n")

        def write(record: Record) -> None:
            target.write(line(record))

        dumper = Dumper(
            client,
            write,
            tell,
            progress,
            strings_only=tsv,
            pattern=os.fsencode(match) if match else None,
        )
        try:
            dumper.run()
        except BaseException:
            kept = "" if file == files.STANDARD else f"; {clean(file)} is not written"
            output.tell(f"stopped; so far: {dumper.report.as_text()}{kept}")
            raise
    _finish(session, dumper.report, sys.stderr if file == files.STANDARD else sys.stdout)


VERBS = (load, dump)


def _format_of(file: str, given: str | None) -> str:
    from helios.cli import files

    try:
        return files.format_of(file, given)
    except InvalidInput as error:
        raise click.UsageError(str(error)) from error


def _finish(session: Session, report: LoadReport | DumpReport, stream: IO[str]) -> None:
    import json

    stream.write((json.dumps(report.as_dict()) if session.as_json else report.as_text()) + "\n")
    if not report.clean:
        raise click.exceptions.Exit(1)


@contextmanager
def _loading(file: str, raw: IO[bytes]) -> Iterator[tuple[Callable[[str], None], Callable[[], None]]]:
    """How to tell of a problem and of progress: a bar by the bytes read if stderr is a terminal."""
    if not sys.stderr.isatty():
        yield output.tell, lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn

    size = os.fstat(raw.fileno()).st_size or None
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(clean(f"load {file}"), total=size)

        def advance() -> None:
            if raw.seekable():
                bar.update(task, completed=raw.tell())

        yield lambda text: bar.console.print(shown(text, sys.stderr), markup=False, highlight=False), advance


@contextmanager
def _dumping(total: Callable[[], int | None]) -> Iterator[tuple[Callable[[str], None], Callable[[int], None]]]:
    """How to tell of a problem and of progress: a count of keys if stderr is a terminal.

    `total` gives how many there are when it begins; None where that is not known.
    """
    if not sys.stderr.isatty():
        yield output.tell, lambda _: None
        return
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("dumped"), MofNCompleteColumn(), TextColumn("keys"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("dump", total=total())
        yield (
            lambda text: bar.console.print(shown(text, sys.stderr), markup=False, highlight=False),
            lambda keys: bar.update(task, advance=keys),
        )
