"""The verbs of balance: loads, evening out, weights, draining, and what was done."""

from __future__ import annotations

import time

import click

from helios.cli import completing
from helios.cli.cluster_verbs import DRY_RUN, WAIT, ask, change, preview_or_change, show
from helios.cli.session import Session, described, pass_session

_STRATEGY = click.option(
    "--strategy",
    type=click.Choice(["minimize_movement", "uniform"]),
    help="How far: just into the threshold, or to within 2 % of every share. Else as set.",
)
_BY = click.option("--by", type=click.Choice(["keys", "bytes", "ops"]), help="What is to be even. Else as set.")


@click.command("balance", **described("helios-cli balance --by bytes"))
@_STRATEGY
@_BY
@pass_session
def balance(session: Session, strategy: str | None, by: str | None) -> None:
    """What every node carries, and what a rebalance would do.

    Loads are collected every few seconds by a sample; OFF is how far a node is from its share by weight. Big and hot
    keys are those that samples have met so far.
    """
    from helios.cli import balance_output

    view = ask(session, "BALANCE", *_way(strategy, by))
    show(session, view, lambda: balance_output.balance(view, time.time()))


@click.command("rebalance", **described("helios-cli rebalance --strategy uniform --by bytes --wait"))
@_STRATEGY
@_BY
@DRY_RUN
@WAIT
@pass_session
def rebalance(session: Session, strategy: str | None, by: str | None, dry_run: bool, wait: bool) -> None:
    """Even out what the nodes carry, by their weights.

    Nodes without a share get theirs, and what lies beyond the threshold is moved, as little as possible.
    """
    from helios.cli import balance_output

    if not dry_run:
        change(session, wait, "REBALANCE", *_way(strategy, by))
        return
    if wait:
        raise click.UsageError("--dry-run and --wait exclude each other: nothing is moved that could be waited for")
    view = ask(session, "BALANCE", *_way(strategy, by))
    show(session, {"previews": view["moves"]}, lambda: balance_output.proposal(view))


@click.command("reweight", **described("helios-cli reweight shard-4 2 --wait", takes_anything=True))
@click.argument("node_id", metavar="ID", shell_complete=completing.node_ids)
@click.argument("weight", type=float)
@DRY_RUN
@WAIT
@pass_session
def reweight(session: Session, node_id: str, weight: float, dry_run: bool, wait: bool) -> None:
    """Change a node's weight, and its share with it.

    A node of weight 2 gets twice the keys of one of weight 1. A drained node comes back by it.
    """
    preview_or_change(session, dry_run, wait, "REWEIGHT", node_id, repr(weight))


@click.command("drain", **described("helios-cli drain shard-4 --wait"))
@click.argument("node_id", metavar="ID", shell_complete=completing.node_ids)
@DRY_RUN
@WAIT
@pass_session
def drain(session: Session, node_id: str, dry_run: bool, wait: bool) -> None:
    """Move a node's keys away, and let it stay.

    It goes on answering clients and owns nothing until `undrain` or `reweight` brings it back.
    """
    preview_or_change(session, dry_run, wait, "DRAIN", node_id)


@click.command("undrain", **described("helios-cli undrain shard-4 --wait"))
@click.argument("node_id", metavar="ID", shell_complete=completing.node_ids)
@DRY_RUN
@WAIT
@pass_session
def undrain(session: Session, node_id: str, dry_run: bool, wait: bool) -> None:
    """Give a drained node its share again."""
    preview_or_change(session, dry_run, wait, "UNDRAIN", node_id)


@click.command("history", **described("helios-cli history --count 50"))
@click.option("--count", type=click.IntRange(1, 1000), default=20, help="How many of the last changes.")
@pass_session
def history(session: Session, count: int) -> None:
    """What was done to the cluster: when, by whom, why.

    The last 200 changes are kept, also when `cleanupmigrations` has forgotten their migrations.
    """
    from helios.cli import balance_output

    views = ask(session, "HISTORY", str(count))
    show(session, {"history": views}, lambda: balance_output.history(views))


VERBS = (balance, rebalance, reweight, drain, undrain, history)


def _way(strategy: str | None, by: str | None) -> list[str]:
    return [*(["STRATEGY", strategy] if strategy else []), *(["BY", by] if by else [])]
