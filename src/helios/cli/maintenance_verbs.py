"""The verbs that look after a cluster: rules, checks, shared settings."""

from __future__ import annotations

import click

from helios.cli import completing
from helios.cli.cluster_verbs import ask, show
from helios.cli.session import Session, described, pass_session
from helios.terminal import clean

_CHECK_TIMEOUT_S = 900.0  # every key's name is read, and a repair waits for the moves before it


@click.command("listrules", **described("helios-cli listrules"))
@pass_session
def list_rules(session: Session) -> None:
    """Which keys live elsewhere than the ring says.

    A rule is what `migrate` leaves behind. The first one that matches decides; one whose target is removed goes.
    """
    from helios.cli import cluster_output

    views = ask(session, "LISTRULES")
    show(session, {"rules": views}, lambda: cluster_output.rules(views))


@click.command("check", **described("helios-cli check --repair"))
@click.option("--repair", is_flag=True, help="First mend what is safe to mend: stale copies of keys are deleted.")
@pass_session
def check(session: Session, repair: bool) -> None:
    """Look at every server for what should not be there.

    Keys where nobody looks for them, keys on two nodes, servers and nodes that do not answer, users that nobody
    uses. Reads every key's name. Exit status 1 if something was found, and is still there after a repair.
    """
    from helios.cli import cluster_output

    view = ask(session, "CHECK", *["REPAIR"] * repair, reply_timeout_s=_CHECK_TIMEOUT_S)
    show(session, view, lambda: cluster_output.check(view))
    if not view["clean"]:
        raise click.exceptions.Exit(1)


@click.command("slowcommands", **described("helios-cli slowcommands --count 50"))
@click.option("--count", type=click.IntRange(1, 1000), default=20, help="How many of the last ones.")
@pass_session
def slow_commands(session: Session, count: int) -> None:
    """What took long at any router, the newest first.

    Each router keeps its last router.slowlog_length commands of router.slowlog_threshold or longer, since its start.
    """
    from helios.cli import cluster_output

    view = ask(session, "SLOWCOMMANDS", str(count))
    show(session, view, lambda: cluster_output.slow_commands(view))


@click.group("config", **described("helios-cli config set sharding.migration_rate 5000"))
def config() -> None:
    """The settings that all processes share."""


@click.command("show", **described("helios-cli config show sharding.migration_rate"))
@click.argument("name", required=False, shell_complete=completing.setting_names)
@click.option("--origin", is_flag=True, help="Say where each value comes from, not what it means.")
@pass_session
def show_settings(session: Session, name: str | None, origin: bool) -> None:
    """Show all of them, or one with what it may be."""
    from helios.cli import cluster_output

    if name is not None:
        view = ask(session, "SETTING", name)
        show(session, view, lambda: cluster_output.setting(view))
        return
    views = ask(session, "SETTINGS")
    show(session, {"settings": views}, lambda: cluster_output.settings(views, origins=origin))


@click.command("set", **described("helios-cli config set sharding.migration_rate 5000", takes_anything=True))
@click.argument("name", shell_complete=completing.setting_names)
@click.argument("value")
@pass_session
def set_setting(session: Session, name: str, value: str) -> None:
    """Change one, for all processes at once.

    Moves that run take it up, too. It outlives restarts, unless a flag, the environment or the settings file of
    `helios up` says otherwise.
    """
    view = ask(session, "SETTING", name, value)
    show(session, view, lambda: f"{view['name']}: {clean(view['value'])}")


@click.command("history", **described("helios-cli config history"))
@pass_session
def setting_history(session: Session) -> None:
    """What was changed, when and by whom; the last hundred changes."""
    from helios.cli import cluster_output

    changes = ask(session, "SETTINGHISTORY")
    show(session, {"changes": changes}, lambda: cluster_output.setting_history(changes))


@click.command("rollback", **described("helios-cli config rollback 3"))
@click.argument("number", required=False, type=click.IntRange(0))
@pass_session
def roll_back(session: Session, number: int | None) -> None:
    """Bring back the values that held after the change NUMBER of the history, or undo the last change.

    That is a change as well, which can be taken back in the same way.
    """
    from helios.cli import cluster_output

    items = ask(session, "SETTINGROLLBACK", *([] if number is None else [str(number)]))
    show(session, {"altered": items}, lambda: cluster_output.altered(items))


for verb in (show_settings, set_setting, setting_history, roll_back):
    config.add_command(verb)

VERBS = (list_rules, check, slow_commands, config)
