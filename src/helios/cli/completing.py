"""What a shell offers when Tab is pressed behind helios-cli: ids from the cluster, names of settings."""

from __future__ import annotations

import os

import click

_REQUEST_TIMEOUT_S = 1.0  # a person waits with a finger on the key


def node_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The nodes of the cluster; none where it cannot be asked."""
    return _beginning(incomplete, _ids(ctx, "LISTNODES"))


def active_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The migrations that wait or run."""
    return _beginning(incomplete, _ids(ctx, "ACTIVEMIGRATIONS"))


def migration_ids(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """All migrations that are remembered."""
    return _beginning(incomplete, _ids(ctx, "ALLMIGRATIONS"))


def setting_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The settings that all processes share."""
    from helios.model.setting_info import all_settings

    return _beginning(incomplete, [name for name, info in all_settings().items() if info.shared])


def _beginning(incomplete: str, words: list[str]) -> list[str]:
    return [word for word in words if word.startswith(incomplete)]


def _ids(ctx: click.Context, verb: str) -> list[str]:
    from helios.cli.output import plain
    from helios.client.connection import RespClient
    from helios.client.entry import Entry
    from helios.errors import HeliosError

    given = ctx.find_root().params
    user, password = given.get("user") or "", os.environ.get("HELIOS_PASSWORD", "")
    if user and not password:
        return []  # whoever completes is not to be asked for a password
    tls = {name: given.get(name) or "" for name in ("cacert", "cert", "key")}
    wanted = bool(given.get("tls") or tls["cacert"])
    entry = Entry(user=user, password=password, tls=wanted, insecure=bool(given.get("insecure")), **tls)
    try:
        host, port = given.get("host") or "127.0.0.1", given.get("port") or 6379
        with RespClient(host, port, _REQUEST_TIMEOUT_S, entry) as client:
            return [str(view["id"]) for view in plain(client.call(verb.encode()))]
    except (HeliosError, KeyError, TypeError):
        return []
