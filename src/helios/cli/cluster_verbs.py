"""The verbs for nodes and migrations; a node answers each with the fields of helios.admin.views."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import click

from helios.cli import output
from helios.cli.session import Session, described, pass_session


@click.command("addnode", **described("helios-cli addnode shard-4 localhost:6382"))
@click.argument("node_id", metavar="ID")
@click.argument("address")
@click.option("--weight", default=1.0, help="Its share of the keys, relative to the others'.")
@click.option(
    "--zone", default="", metavar="ZONE", show_default=False, help="Where it stands: replicas spread over zones."
)
@click.option("--import", "import_keys", is_flag=True, help="Take a plain server's keys in: each moves to its owner.")
@click.option("--flush", is_flag=True, help="Discard the keys that a plain server holds.")
@pass_session
def add_node(
    session: Session, node_id: str, address: str, weight: float, zone: str, import_keys: bool, flush: bool
) -> None:
    """Take a node in.

    One of Helios, or a plain Valkey or Redis server; ADDRESS is where it listens, host:port.
    """
    if import_keys and flush:
        raise click.UsageError("--import and --flush exclude each other: keys are either taken in or discarded")
    argv = ["ADDNODE", node_id, address]
    if weight != 1.0:
        argv += ["WEIGHT", repr(weight)]
    if zone:
        argv += ["ZONE", zone]
    argv += ["IMPORT"] * import_keys + ["FLUSH"] * flush
    _change(session, *argv)


@click.command("removenode", **described("helios-cli removenode shard-4"))
@click.argument("node_id", metavar="ID")
@pass_session
def remove_node(session: Session, node_id: str) -> None:
    """Move a node's keys away, then let it go."""
    _change(session, "REMOVENODE", node_id)


@click.command("listnodes", **described("helios-cli listnodes"))
@pass_session
def list_nodes(session: Session) -> None:
    """All nodes: status, keys, share, leader.

    The share is of the ring, by which keys are spread; rules move keys beyond it.
    """
    from helios.cli import cluster_output

    views = _ask(session, "LISTNODES")
    _show(session, views, lambda: cluster_output.nodes(views, time.time()))


@click.command("nodeforkey", **described("helios-cli nodeforkey user:alice", takes_anything=True))
@click.argument("key")
@pass_session
def node_for_key(session: Session, key: str) -> None:
    """Which node a key lives on, and why."""
    from helios.cli import cluster_output

    view = _ask(session, "NODEFORKEY", key)
    _show(session, view, lambda: cluster_output.key(view))


@click.command("clusterstats", **described("helios-cli clusterstats"))
@pass_session
def cluster_stats(session: Session) -> None:
    """The cluster in numbers."""
    from helios.cli import cluster_output

    view = _ask(session, "CLUSTERSTATS")
    _show(session, view, lambda: cluster_output.stats(view, time.time()))


@click.command("rebalance", **described("helios-cli rebalance"))
@pass_session
def rebalance(session: Session) -> None:
    """Give every node its share by its weight."""
    _change(session, "REBALANCE")


@click.command("migrate", **described("helios-cli migrate shard-1 shard-4 'user:*'"))
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.argument("pattern", required=False)
@pass_session
def migrate(session: Session, source: str, target: str, pattern: str | None) -> None:
    """Move keys from one node to another.

    Those that match PATTERN, a glob, or all.
    """
    _migration(session, "MIGRATE", source, target, *([] if pattern is None else [pattern]))


@click.command("migrationstatus", **described("helios-cli migrationstatus ID"))
@click.argument("migration_id", metavar="ID")
@pass_session
def migration_status(session: Session, migration_id: str) -> None:
    """How a migration fares."""
    _migration(session, "MIGRATIONSTATUS", migration_id)


@click.command("activemigrations", **described("helios-cli activemigrations"))
@pass_session
def active_migrations(session: Session) -> None:
    """Migrations that wait or run."""
    _migrations(session, "ACTIVEMIGRATIONS")


@click.command("allmigrations", **described("helios-cli --json allmigrations"))
@pass_session
def all_migrations(session: Session) -> None:
    """All migrations, the oldest first."""
    _migrations(session, "ALLMIGRATIONS")


@click.command("cancelmigration", **described("helios-cli cancelmigration ID"))
@click.argument("migration_id", metavar="ID")
@pass_session
def cancel_migration(session: Session, migration_id: str) -> None:
    """Cancel a migration.

    With it goes the change that it belongs to; keys that had moved already move back.
    """
    _migration(session, "CANCELMIGRATION", migration_id)


@click.command("cleanupmigrations", **described("helios-cli cleanupmigrations"))
@pass_session
def cleanup_migrations(session: Session) -> None:
    """Forget migrations that have ended."""
    reply = _ask(session, "CLEANUPMIGRATIONS")
    number = reply["removed"] if isinstance(reply, dict) else reply
    _show(session, {"removed": number}, lambda: f"{number} forgotten")


VERBS = (
    add_node,
    remove_node,
    list_nodes,
    node_for_key,
    cluster_stats,
    rebalance,
    migrate,
    migration_status,
    active_migrations,
    all_migrations,
    cancel_migration,
    cleanup_migrations,
)


def _change(session: Session, *argv: str) -> None:
    from helios.cli import cluster_output

    view = _ask(session, *argv)
    _show(session, view, lambda: cluster_output.change(view))


def _migration(session: Session, *argv: str) -> None:
    from helios.cli import cluster_output

    view = _ask(session, *argv)
    _show(session, view, lambda: cluster_output.migration(view, time.time()))


def _migrations(session: Session, *argv: str) -> None:
    from helios.cli import cluster_output

    views = _ask(session, *argv)
    _show(session, views, lambda: cluster_output.migrations(views, time.time()))


def _ask(session: Session, *argv: str) -> Any:
    """The reply of a node, its strings as text."""
    with session.connect() as client:
        return output.plain(client.call(*map(os.fsencode, argv)))


def _show(session: Session, reply: Any, render: Callable[[], str]) -> None:
    if session.as_json:
        output.write_json(reply)
    else:
        output.write(render())
