"""The verbs for shards and their copies: how they are, and who leads."""

from __future__ import annotations

import click

from helios.cli import completing
from helios.cli.cluster_verbs import WAIT, ask, change, show
from helios.cli.session import Session, described, pass_session


@click.command("listshards", **described("helios-cli listshards"))
@pass_session
def list_shards(session: Session) -> None:
    """All shards: who leads, who follows, how closely.

    A learner still catches up and counts for nothing yet. LAG is what the leader has written and a copy has not
    acknowledged, and how long ago it last acknowledged anything.
    """
    from helios.cli import cluster_output

    views = ask(session, "LISTSHARDS")
    show(session, {"shards": views}, lambda: cluster_output.shards(views))


@click.command("promote", **described("helios-cli promote shard-1 shard-2"))
@click.argument("shard", metavar="SHARD", shell_complete=completing.node_ids)
@click.argument("node_id", metavar="NODE", shell_complete=completing.node_ids)
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Let it lead although members are missing: what only they have is lost. For when they are gone for good.",
)
@WAIT
@pass_session
def promote(session: Session, shard: str, node_id: str, accept_loss: bool, wait: bool) -> None:
    """Let a shard's copy on another node lead.

    Clients see no error, and wait for some milliseconds. A shard whose leader is gone gets another one by itself, as
    soon as a majority of its copies answers; --accept-loss is for when that will never be.
    """
    change(session, wait, "PROMOTE", shard, node_id, *["ACCEPT-LOSS"] * accept_loss)


VERBS = (list_shards, promote)
