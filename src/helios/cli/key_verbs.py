"""The verbs for single keys: set, get, del, expire, ttl."""

from __future__ import annotations

import os
import sys
from typing import Any

import click

from helios.cli import output
from helios.cli.session import Session, described, pass_session
from helios.errors import NotFound, ProtocolError

_TTL_MIN_S = 0.001
_TTL_MAX_S = 100 * 366 * 86_400


class Seconds(click.ParamType[int]):
    """A positive number of seconds, handed on as whole milliseconds."""

    name = "seconds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            number = float(str(value))
        except ValueError:
            number = 0.0
        if not _TTL_MIN_S <= number <= _TTL_MAX_S:
            self.fail(f"{value!r} is not a number of seconds from {_TTL_MIN_S} to {_TTL_MAX_S}", param, ctx)
        return round(number * 1000)


@click.command("set", **described("helios-cli set user:alice Alice 60", takes_anything=True))
@click.argument("key")
@click.argument("value")
@click.argument("ttl_ms", metavar="[TTL]", type=Seconds(), required=False)
@pass_session
def set_value(session: Session, key: str, value: str, ttl_ms: int | None) -> None:
    """Write a value, for TTL seconds or for good.

    The VALUE - reads it from stdin, every byte.
    """
    expiry = [] if ttl_ms is None else [b"PX", b"%d" % ttl_ms]
    content = sys.stdin.buffer.read() if value == "-" else os.fsencode(value)
    with session.connect() as client:
        client.call(b"SET", os.fsencode(key), content, *expiry)
    _done(session, key, "stored", ttl_ms)


@click.command("get", **described("helios-cli get user:alice > alice.bin", takes_anything=True))
@click.argument("key")
@pass_session
def get_value(session: Session, key: str) -> None:
    """Print a value.

    Its bytes alone; on a terminal with a newline behind them, and control characters shown as escapes.
    A missing key is exit status 1.
    """
    value = _ask(session, bytes | None, b"GET", os.fsencode(key))
    if value is None:
        raise _missing(key)
    if session.as_json:
        output.write_json(_named(key) | output.text_or_base64("value", value))
        return
    output.write_bytes(value)


@click.command("del", **described("helios-cli del user:alice", takes_anything=True))
@click.argument("keys", metavar="KEY...", nargs=-1, required=True)
@pass_session
def delete_keys(session: Session, keys: tuple[str, ...]) -> None:
    """Delete keys of any type.

    Prints how many there were; none at all is exit status 1.
    """
    deleted = _ask(session, int, b"DEL", *map(os.fsencode, keys))
    if not session.as_json:
        output.write(str(deleted))
    if not deleted:
        raise _missing(*keys)
    if session.as_json:
        output.write_json(_named(keys[0]) | {"status": "deleted"} if len(keys) == 1 else {"deleted": deleted})


@click.command("expire", **described("helios-cli expire user:alice 60", takes_anything=True))
@click.argument("key")
@click.argument("ttl_ms", metavar="SECONDS", type=Seconds())
@pass_session
def expire(session: Session, key: str, ttl_ms: int) -> None:
    """Let a key end in some seconds.

    Decimals are allowed. A missing key is exit status 1.
    """
    if not _ask(session, int, b"PEXPIRE", os.fsencode(key), b"%d" % ttl_ms):
        raise _missing(key)
    _done(session, key, "set", ttl_ms)


@click.command("ttl", **described("helios-cli ttl user:alice", takes_anything=True))
@click.argument("key")
@pass_session
def ttl(session: Session, key: str) -> None:
    """Print the seconds that a key has left.

    Rounded up; -1 if it never ends. A missing key is exit status 1.
    """
    left_ms = _ask(session, int, b"PTTL", os.fsencode(key))
    if left_ms == -2:
        raise _missing(key)
    if session.as_json:
        output.write_json(_named(key) | {"ttl": left_ms if left_ms < 0 else left_ms / 1000})
    else:
        output.write(str(left_ms if left_ms < 0 else -(-left_ms // 1000)))


VERBS = (set_value, get_value, delete_keys, expire, ttl)


def _ask(session: Session, kind: Any, *command: bytes) -> Any:
    """The reply to a command; raises ProtocolError where it is of a kind that the command never has."""
    with session.connect() as client:
        reply = client.call(*command)
    if not isinstance(reply, kind):
        raise ProtocolError(
            f"{command[0].decode()} was answered by {reply!r:.100}, which is no answer to it: is what holds "
            f"{command[1]!r:.100} a Valkey or Redis server? `helios-cli nodeforkey` names it"
        )
    return reply


def _done(session: Session, key: str, status: str, ttl_ms: int | None) -> None:
    if session.as_json:
        output.write_json(_named(key) | {"status": status, "ttl": None if ttl_ms is None else ttl_ms / 1000})
    else:
        output.write("OK")


def _named(key: str) -> dict[str, str]:
    return output.text_or_base64("key", os.fsencode(key))


def _missing(*keys: str) -> NotFound:
    return NotFound(f"there is no key {', '.join(map(repr, keys))}")
