"""helios-cli: keys, nodes and migrations from a shell.

Built on Click, not on Typer as `helios` is: Typer converts arguments with pydantic, whose import alone
takes longer than a whole call may. Modules that only some verbs need are imported by those verbs.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click

from helios.cli import (
    backup_verbs,
    balance_verbs,
    cluster_verbs,
    key_verbs,
    maintenance_verbs,
    output,
    replica_verbs,
    top,
    transfer_verbs,
)
from helios.cli.session import Session
from helios.client.connection import CommandRefused
from helios.client.entry import Entry
from helios.errors import HeliosError, InvalidInput

BROKEN_PIPE_STATUS = 141  # what a shell shows for a program that SIGPIPE has ended
INTERRUPTED_STATUS = 130
_GLOBAL_FLAGS = ("--json", "--tls", "--insecure")
_GLOBAL_OPTIONS = ("--host", "--port", "--user", "--cacert", "--cert", "--key")


class VerbGroup(click.Group):
    """Runs a verb; whatever it refuses becomes one line on stderr and exit status 1."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, hoist(args))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except HeliosError as error:
            _complain(ctx, error)
            ctx.exit(1)
        except click.UsageError as error:
            if ctx.params.get("as_json"):
                _write_error(InvalidInput.code, error.format_message())
            raise
        except BrokenPipeError:
            _discard_stdout()
            ctx.exit(BROKEN_PIPE_STATUS)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED_STATUS)
        return result

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)  # as they were registered, what belongs together side by side


def _complain(ctx: click.Context, error: HeliosError) -> None:
    """Say what a verb refused: a line on stderr, and for programs the object that REST would answer on stdout."""
    refused = isinstance(error, CommandRefused)
    if ctx.params.get("as_json"):
        _write_error(error.code, str(error).removeprefix(f"{error.code} ") if refused else str(error))
    output.tell(f"helios-cli: {error.sentence if isinstance(error, CommandRefused) else error}")


def _write_error(code: str, message: str) -> None:
    output.write_json({"error": {"code": code, "message": message}})


def _version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        from helios import __version__

        click.echo(f"helios-cli {__version__}")
        ctx.exit()


@click.group(
    cls=VerbGroup,
    context_settings={"max_content_width": 100, "show_default": True},
    epilog="Options may also follow the verb, all but -h and -p; what stands behind -- is never an option. "
    "Exit status: 0 done; 1 refused, missing or out of reach; 2 wrong use.",
)
# The short forms are redis-cli's, and as there they stand in front of the verb: behind it, -h may be a value.
@click.option(
    "-h", "--host", envvar="HELIOS_HOST", show_envvar=True, default="127.0.0.1", help="Any node of the cluster."
)
@click.option(
    "-p",
    "--port",
    envvar="HELIOS_PORT",
    show_envvar=True,
    default=6379,
    type=click.IntRange(1, 65535),
    metavar="PORT",
    help="Its RESP port.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout, for programs.")
@click.option("--user", envvar="HELIOS_USER", show_envvar=True, default="", help="Who you are; asks for a password.")
@click.option("--tls", envvar="HELIOS_TLS", show_envvar=True, is_flag=True, help="Speak TLS.")
@click.option("--cacert", envvar="HELIOS_CACERT", show_envvar=True, default="", help="PEM file: CAs to trust.")
@click.option("--insecure", is_flag=True, help="Take any certificate.")
@click.option("--cert", envvar="HELIOS_CERT", show_envvar=True, default="", help="PEM file: a certificate of your own.")
@click.option("--key", envvar="HELIOS_KEY", show_envvar=True, default="", help="PEM file: its key.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Say which.")
@click.pass_context
def cli(ctx: click.Context, /, host: str, port: int, as_json: bool, user: str, **tls: Any) -> None:
    """Keys, nodes and migrations of a Helios cluster."""
    entry = Entry(user=user, password=_password(user), **{**tls, "tls": tls["tls"] or bool(tls["cacert"])})
    ctx.obj = Session(host=host, port=port, as_json=as_json, entry=entry)


def _password(user: str) -> str:
    """From HELIOS_PASSWORD, or asked for; never from the command line, which others can see."""
    given = os.environ.get("HELIOS_PASSWORD")
    if given is None and user:
        return str(click.prompt(f"Password of {user}", hide_input=True, err=True, default="", show_default=False))
    return given or ""


for verb in (
    *key_verbs.VERBS,
    *cluster_verbs.VERBS,
    *balance_verbs.VERBS,
    *replica_verbs.VERBS,
    *maintenance_verbs.VERBS,
    top.top,
    *transfer_verbs.VERBS,
    *backup_verbs.VERBS,
):
    cli.add_command(verb)


def hoist(argv: Sequence[str]) -> list[str]:
    """The arguments with the options of `helios-cli` itself in front, wherever before a -- they stood."""
    front: list[str] = []
    rest: list[str] = []
    position = 0
    while position < len(argv):
        word = argv[position]
        if word == "--":
            rest += argv[position:]
            break
        name, equals, _ = word.partition("=")
        if word in _GLOBAL_FLAGS or (equals and name in _GLOBAL_OPTIONS):
            front.append(word)
        elif word in _GLOBAL_OPTIONS:
            front += argv[position : position + 2]
            position += 1
        else:
            rest.append(word)
        position += 1
    return front + rest


def main() -> NoReturn:
    """The entry point of helios-cli."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        cli.main(prog_name="helios-cli")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED_STATUS)
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _discard_stdout()
            sys.exit(BROKEN_PIPE_STATUS)


def _discard_stdout() -> None:
    """Let what is still buffered go nowhere, so that the interpreter's last flush does not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
