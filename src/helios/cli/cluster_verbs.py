"""The verbs for nodes and migrations; a node answers each with the fields of helios.admin.views."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import click

from helios.cli import completing, output
from helios.cli.session import Session, described, pass_session
from helios.client.connection import REPLY_TIMEOUT_S
from helios.errors import HeliosError

_ANY = "*"  # instead of a node: every one
DRY_RUN = click.option("--dry-run", is_flag=True, help="Only say what would move from where to where.")
WAIT = click.option("--wait", is_flag=True, help="Wait for the keys to arrive, and show how far they are.")


@click.command("addnode", **described("helios-cli addnode shard-4 localhost:6382"))
@click.argument("node_id", metavar="ID")
@click.argument("address")
@click.option("--weight", default=1.0, help="Its share of the keys, relative to the others'.")
@click.option(
    "--zone", default="", metavar="ZONE", show_default=False, help="Where it stands: replicas spread over zones."
)
@click.option("--import", "import_keys", is_flag=True, help="Take a plain server's keys in: each moves to its owner.")
@click.option("--flush", is_flag=True, help="Discard the keys that a plain server holds.")
@click.option("--adopt", is_flag=True, help="Found the cluster with a plain server and its keys where they are.")
@DRY_RUN
@WAIT
@pass_session
def add_node(
    session: Session,
    node_id: str,
    address: str,
    weight: float,
    zone: str,
    import_keys: bool,
    flush: bool,
    adopt: bool,
    dry_run: bool,
    wait: bool,
) -> None:
    """Take a node in.

    One of Helios, or a plain Valkey or Redis server; ADDRESS is where it listens, host:port. With auto_rebalance
    it gets its share of the keys at once, which is what --dry-run foresees; else `rebalance` gives it that.
    """
    if import_keys + flush + adopt > 1:
        raise click.UsageError(
            "--import, --flush and --adopt exclude each other: keys move, go, or stay where they are"
        )
    if dry_run and adopt:
        raise click.UsageError("--dry-run has nothing to foresee for --adopt: no key moves")
    argv = ["ADDNODE", node_id, address]
    if weight != 1.0:
        argv += ["WEIGHT", repr(weight)]
    if zone and not dry_run:
        argv += ["ZONE", zone]
    argv += ["IMPORT"] * import_keys + ["FLUSH"] * flush + ["ADOPT"] * adopt
    if dry_run:
        _preview(session, wait, *argv)
        return
    change(session, wait, *argv)


@click.command("removenode", **described("helios-cli removenode shard-4 --wait"))
@click.argument("node_id", metavar="ID", shell_complete=completing.node_ids)
@DRY_RUN
@WAIT
@pass_session
def remove_node(session: Session, node_id: str, dry_run: bool, wait: bool) -> None:
    """Move a node's keys away, then let it go."""
    preview_or_change(session, dry_run, wait, "REMOVENODE", node_id)


@click.command("listnodes", **described("helios-cli listnodes"))
@pass_session
def list_nodes(session: Session) -> None:
    """All nodes: status, keys, share, leader.

    The share is of the ring, by which keys are spread; rules move keys beyond it.
    """
    from helios.cli import cluster_output

    views = ask(session, "LISTNODES")
    show(session, {"nodes": views}, lambda: cluster_output.nodes(views, time.time()))


@click.command("nodeforkey", **described("helios-cli nodeforkey user:alice", takes_anything=True))
@click.argument("key")
@click.option("--all", "everywhere", is_flag=True, help="Name every node that has a copy, the one that leads first.")
@pass_session
def node_for_key(session: Session, key: str, everywhere: bool) -> None:
    """Which node a key lives on, and why."""
    from helios.cli import cluster_output

    view = ask(session, "NODEFORKEY", key)
    show(session, view, lambda: cluster_output.key(view, everywhere=everywhere))


@click.command("clusterstats", **described("helios-cli clusterstats"))
@pass_session
def cluster_stats(session: Session) -> None:
    """The cluster in numbers."""
    from helios.cli import cluster_output

    view = ask(session, "CLUSTERSTATS")
    show(session, view, lambda: cluster_output.stats(view, time.time()))


@click.command("migrate", **described("helios-cli migrate shard-1 shard-4 'user:*' --wait"))
@click.argument("source", metavar="SRC", shell_complete=completing.node_ids)
@click.argument("target", metavar="DST", shell_complete=completing.node_ids)
@click.argument("pattern", required=False)
@click.option("--verify", is_flag=True, help="Compare each copy with its source before the node is switched to.")
@DRY_RUN
@WAIT
@pass_session
def migrate(
    session: Session, source: str, target: str, pattern: str | None, verify: bool, dry_run: bool, wait: bool
) -> None:
    """Move keys from one node to another.

    Those that match PATTERN, a glob, or all. SRC '*' stands for every node: the keys live on DST ever after. DST '*'
    brings them back to where they would be without rules.
    """
    argv = ["MIGRATE", source, target, *([] if pattern is None else [pattern])]
    if dry_run:
        _preview(session, wait, *argv)
        return
    if verify:
        argv += ["*"] * (pattern is None) + ["VERIFY"]
    view = ask(session, *argv)
    several = _ANY in (source, target)
    if wait and not _ended(view["status"]):
        _wait_for(session, view["change"], None if several else view["id"])
    elif several:
        _show_change(session, ask(session, "CHANGESTATUS", view["change"]))
    else:
        _show_migration(session, view)


@click.command("migrationstatus", **described("helios-cli migrationstatus ID"))
@click.argument("migration_id", metavar="ID", shell_complete=completing.migration_ids)
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
@click.argument("migration_id", metavar="ID", shell_complete=completing.active_ids)
@pass_session
def cancel_migration(session: Session, migration_id: str) -> None:
    """Cancel a migration.

    With it goes the change that it belongs to; keys that had moved already move back.
    """
    _migration(session, "CANCELMIGRATION", migration_id)


@click.command("pausemigration", **described("helios-cli pausemigration ID"))
@click.argument("migration_id", metavar="ID", shell_complete=completing.active_ids)
@pass_session
def pause_migration(session: Session, migration_id: str) -> None:
    """Let a migration wait.

    With it wait all that belong to the same change. Keys stay where they are, and clients notice nothing.
    """
    _migration(session, "PAUSEMIGRATION", migration_id)


@click.command("resumemigration", **described("helios-cli resumemigration ID"))
@click.argument("migration_id", metavar="ID", shell_complete=completing.active_ids)
@pass_session
def resume_migration(session: Session, migration_id: str) -> None:
    """Let a paused migration go on."""
    _migration(session, "RESUMEMIGRATION", migration_id)


@click.command("cleanupmigrations", **described("helios-cli cleanupmigrations"))
@pass_session
def cleanup_migrations(session: Session) -> None:
    """Forget migrations that have ended."""
    reply = ask(session, "CLEANUPMIGRATIONS")
    number = reply["removed"] if isinstance(reply, dict) else reply
    show(session, {"removed": number}, lambda: f"{number} forgotten")


VERBS = (
    add_node,
    remove_node,
    list_nodes,
    node_for_key,
    cluster_stats,
    migrate,
    migration_status,
    active_migrations,
    all_migrations,
    cancel_migration,
    pause_migration,
    resume_migration,
    cleanup_migrations,
)


def preview_or_change(session: Session, dry_run: bool, wait: bool, *argv: str) -> None:
    """Ask for a change, or only for what it would move."""
    if dry_run:
        _preview(session, wait, *argv)
    else:
        change(session, wait, *argv)


def _preview(session: Session, wait: bool, *argv: str) -> None:
    from helios.cli import cluster_output

    if wait:
        raise click.UsageError("--dry-run and --wait exclude each other: nothing is moved that could be waited for")
    views = ask(session, "PREVIEW", *argv)
    show(session, {"previews": views}, lambda: cluster_output.preview(views))


def change(session: Session, wait: bool, *argv: str) -> None:
    """Ask for a change, show what came of it, and with `wait` follow it to its end."""
    view = ask(session, *argv)
    if wait and not _ended(view["status"]):
        _wait_for(session, view["change"])
    else:
        _show_change(session, view)


def _show_change(session: Session, view: Any) -> None:
    from helios.cli import cluster_output

    show(session, view, lambda: cluster_output.change(view))


def _ended(status: str) -> bool:
    from helios.model.migration import CHANGE_ENDED, MIGRATION_ENDED

    return status in CHANGE_ENDED or status in MIGRATION_ENDED


def _wait_for(session: Session, change: str, migration: str | None = None) -> None:
    """Follow a request to its end and show what became of it: of one of its migrations, or of all."""
    from helios.cli import cluster_output, following

    seen = following.follow(session, change)
    one = next((view for view in seen.migrations if view["id"] == migration), None)
    if one is not None:
        _show_migration(session, one)
    else:
        show(session, seen.change, lambda: cluster_output.ended(seen.change, seen.migrations, time.time()))
    try:
        following.outcome(seen)
    except HeliosError as error:
        if not session.as_json:
            raise
        output.tell(f"helios-cli: {error}")  # its status has been written
        raise click.exceptions.Exit(1) from error


def _migration(session: Session, *argv: str) -> None:
    _show_migration(session, ask(session, *argv))


def _show_migration(session: Session, view: Any) -> None:
    from helios.cli import cluster_output

    show(session, view, lambda: cluster_output.migration(view, time.time()))


def _migrations(session: Session, *argv: str) -> None:
    from helios.cli import cluster_output

    views = ask(session, *argv)
    show(session, {"migrations": views}, lambda: cluster_output.migrations(views, time.time()))


def ask(session: Session, *argv: str, reply_timeout_s: float = REPLY_TIMEOUT_S) -> Any:
    """The reply of a node, its strings as text."""
    with session.connect(reply_timeout_s) as client:
        return output.plain(client.call(*map(os.fsencode, argv)))


def show(session: Session, reply: Any, render: Callable[[], str]) -> None:
    """A reply on stdout, as JSON of the shape that REST has, or as people read it."""
    if session.as_json:
        output.write_json(reply)
    else:
        output.write(render())
