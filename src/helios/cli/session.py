"""What every verb gets from the options in front of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import click

from helios.client.connection import REPLY_TIMEOUT_S, RespClient
from helios.client.entry import Entry

_AS_ANYBODY = Entry()


@dataclass(frozen=True, slots=True)
class Session:
    """Where to connect, and for whom the output is."""

    host: str
    port: int
    as_json: bool
    entry: Entry = _AS_ANYBODY

    def connect(self, reply_timeout_s: float = REPLY_TIMEOUT_S) -> RespClient:
        """A connection; close it after use."""
        return RespClient(self.host, self.port, reply_timeout_s, self.entry)


pass_session = click.make_pass_decorator(Session)


def described(example: str, *, takes_anything: bool = False) -> dict[str, Any]:
    """What every verb tells Click: its example, and whether words like -5 are values and not options."""
    return {
        "epilog": f"Example: {example}",
        "context_settings": {"ignore_unknown_options": True} if takes_anything else {},
    }
