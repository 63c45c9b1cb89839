"""`helios`: starts and ends clusters, nodes and gateways on this machine."""

# Imports of what does the work are inside the commands, so that `helios --help` answers at once.

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from helios.cli.completion import VARIABLE, completion
from helios.cli.config_verbs import config
from helios.cli.doctor import doctor
from helios.cli.outcome import NOT_IN_ORDER, carry_out
from helios.cli.simulate import simulate
from helios.cli.store_verbs import export_store, import_store

app = typer.Typer(
    help="Elastic sharding for Valkey and Redis: one key space over many servers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Config = Annotated[Path | None, typer.Option("--config", metavar="FILE", help="YAML file with settings.")]
DataDir = Annotated[
    str | None, typer.Option("--data-dir", metavar="DIR", help="Folder of all data [default: ./helios-data].")
]
StoreUrl = Annotated[
    str | None,
    typer.Option(
        "--store",
        metavar="URL",
        help="The store: a path, or etcd://HOST:PORT,.../PREFIX [default: helios.db in the folder].",
    ),
]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Router processes of a node [default: 1].")]


def _version(wanted: bool) -> None:
    if wanted:
        from helios import __version__

        typer.echo(f"helios {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, callback=_version, help="Say which.")] = False,
) -> None:
    """Elastic sharding for Valkey and Redis: one key space over many servers."""


@app.command()
def up(
    shards: Annotated[
        int | None, typer.Option("--shards", metavar="N", help="Nodes shard-1 to shard-N [default: 3 in a new folder].")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", metavar="P", help="Port of shard-1; the others follow [default: 6379].")
    ] = None,
    move_ports: Annotated[
        bool, typer.Option("--move-ports", help="With --port: nodes that exist change their ports, too.")
    ] = False,
    api_port: Annotated[
        int | None, typer.Option("--api-port", metavar="P", help="Port of REST [default: 8443].")
    ] = None,
    data_dir: DataDir = None,
    store: StoreUrl = None,
    bind: Annotated[
        str | None, typer.Option("--bind", metavar="ADDR", help="Host to listen on [default: 127.0.0.1].")
    ] = None,
    config: Config = None,
    workers: Workers = None,
    replication_factor: Annotated[
        int | None,
        typer.Option("--replication-factor", metavar="N", help="Copies of each key, on so many nodes [default: 1]."),
    ] = None,
    adopt: Annotated[
        str | None,
        typer.Option(
            "--adopt",
            metavar="HOST:PORT|nodes",
            help="Found the cluster with a running server, its keys where they are; nodes: after a loss of the store.",
        ),
    ] = None,
    parent_pipe: Annotated[bool, typer.Option("--parent-pipe", hidden=True)] = False,
    temporary: Annotated[bool, typer.Option("--temporary", hidden=True)] = False,
) -> None:
    """Start a cluster on this machine, and end it by Ctrl-C. Started again, it has its data.

    Example: helios up --shards 3 --port 6379 --data-dir ./helios-data
    """

    def start() -> None:
        from helios.model.ids import Address
        from helios.runtime.adoption import NODES
        from helios.runtime.preflight import UpOptions
        from helios.runtime.settings import SettingsSource
        from helios.runtime.up import run_up

        flags: dict[str, object] = {
            "atlas.data_dir": data_dir,
            "store.url": store,
            "network.bind": bind,
            "router.workers": workers,
            "sharding.replication_factor": replication_factor,
        }
        options = UpOptions(
            shards=_bounded("--shards", shards, 128),
            port=_bounded("--port", port, 65535),
            move_ports=move_ports,
            rebuild=adopt == NODES,
            adopt=None if adopt in (None, NODES) else Address.of_server(adopt),
            parent_pipe=parent_pipe,
            temporary=temporary,
        )
        source = SettingsSource(config, os.environ, flags, bind, _bounded("--api-port", api_port, 65535))
        if not run_up(source, options):
            raise typer.Exit(NOT_IN_ORDER)

    carry_out(start)


@app.command()
def init(
    store: StoreUrl = None,
    config: Config = None,
    data_dir: DataDir = None,
    adopt: Annotated[
        str | None,
        typer.Option(
            "--adopt",
            metavar="HOST:PORT|nodes",
            help="Found the cluster with a running server, its keys where they are; nodes: after a loss of the store.",
        ),
    ] = None,
    lost: Annotated[
        str | None,
        typer.Option("--lost", metavar="ID,ID", help="With --adopt nodes: nodes that are lost with their hosts."),
    ] = None,
) -> None:
    """Found a cluster in a store, with its settings and users, for nodes on many hosts. Once.

    Example: helios init --store etcd://10.0.0.1:2379,10.0.0.2:2379/prod --config sharded-cluster.yaml
    """

    def start() -> None:
        import asyncio

        from helios.errors import InvalidInput
        from helios.model.ids import Address
        from helios.runtime.adoption import NODES
        from helios.runtime.init import run_init
        from helios.runtime.recovery import run_recovery
        from helios.runtime.settings import SettingsSource

        if lost and adopt != NODES:
            raise InvalidInput(f"--lost goes with --adopt {NODES}")
        read = SettingsSource(config, os.environ, {"atlas.data_dir": data_dir, "store.url": store}).read()
        if adopt == NODES:
            asyncio.run(run_recovery(read, lost.split(",") if lost else ()))
        else:
            asyncio.run(run_init(read, None if adopt is None else Address.of_server(adopt)))

    carry_out(start)


@app.command()
def node(
    node_id: Annotated[str, typer.Option("--id", metavar="ID", help="Name of the node, such as shard-4.")],
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="Where clients connect.")],
    advertise: Annotated[
        str | None,
        typer.Option("--advertise", metavar="HOST:PORT", help="Where others reach that [default: as --listen]."),
    ] = None,
    data_dir: DataDir = None,
    store: StoreUrl = None,
    zone: Annotated[str, typer.Option("--zone", metavar="ZONE", help="Where the node stands.")] = "",
    config: Config = None,
    workers: Workers = None,
    leave_running: Annotated[
        bool,
        typer.Option("--leave-running", help="Its end leaves the data server and the routers to the next start."),
    ] = False,
) -> None:
    """Run one node: a data server and what routes to all the others. Ended by Ctrl-C.

    Example: helios node --id shard-4 --listen localhost:6382
    """
    from helios.runtime.command_lines import node_command

    options = {
        "id": node_id,
        "listen": listen,
        "advertise": advertise,
        "zone": zone or None,
        "leave-running": "yes" if leave_running else None,
        "config": config,
        "atlas.data_dir": data_dir,
        "store.url": store,
        "router.workers": workers,
    }
    words = node_command({name: str(value) for name, value in options.items() if value is not None})
    os.execv(words[0], words)  # the same process goes on without the library of this command line, to hold less memory


@app.command()
def gateway(
    listen: Annotated[
        str | None,
        typer.Option("--listen", metavar="HOST:PORT", help="Where REST is served [default: 127.0.0.1:8443]."),
    ] = None,
    data_dir: DataDir = None,
    store: StoreUrl = None,
    config: Config = None,
) -> None:
    """Serve the REST interface of a cluster. Ended by Ctrl-C.

    Example: helios gateway --listen 127.0.0.1:8443 --data-dir ./helios-data
    """

    def start() -> None:
        from helios.runtime.gateway import run_gateway
        from helios.runtime.settings import SettingsSource

        flags: dict[str, object] = {
            "atlas.data_dir": data_dir,
            "store.url": store,
            "gateway.listen": listen,
        }
        source = SettingsSource(config, os.environ, flags)
        run_gateway(source.read(), source)

    carry_out(start)


app.command("simulate")(simulate)
app.add_typer(config, name="config")
app.command("doctor")(doctor)
app.command("export-store")(export_store)
app.command("import-store")(import_store)
app.command("completion")(completion)


@app.command("hash-password")
def hash_password() -> None:
    """Print the hash of a password, for security.users of a settings file. Asks for it, or reads a line of stdin.

    Example: helios hash-password
    """

    def start() -> None:
        import secrets
        import sys

        from helios.errors import InvalidInput
        from helios.model.passwords import SALT_BYTES, hashed

        if sys.stdin.isatty():
            password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
        else:
            password = sys.stdin.readline().rstrip("\r\n")
        if not password:
            raise InvalidInput("the password is empty")
        typer.echo(hashed(password.encode(), secrets.token_bytes(SALT_BYTES)))

    carry_out(start)


def _bounded(flag: str, value: int | None, most: int) -> int | None:
    from helios.errors import InvalidInput

    if value is not None and not 1 <= value <= most:
        raise InvalidInput(f"{flag} is {value} but must be from 1 to {most}")
    return value


def main() -> None:
    """The entry point of `helios`."""
    if VARIABLE in os.environ:
        from typer.completion import completion_init  # type: ignore[attr-defined]  # not named in an __all__

        completion_init()
    app()


if __name__ == "__main__":
    main()
