"""`helios-cli top`: what the routers do, again and again; as a screen in a terminal, else as plain text."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import click

from helios.cli import output
from helios.cli.session import Session, described, pass_session
from helios.client.connection import CommandRefused, RespClient
from helios.errors import OutcomeUnknown, Unavailable
from helios.terminal import clean

Fields = Mapping[str, Any]
_NODES_EVERY_S = 5.0  # counting keys costs the servers more than the rest
_REPLY_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Look:
    """What there was at one moment."""

    at: float
    routers: Sequence[Fields]
    nodes: Sequence[Fields]
    migrations: Sequence[Fields]


@click.command("top", **described("helios-cli top --interval 1"))
@click.option("--interval", default=2.0, type=click.FloatRange(0.2, 3600), help="Seconds between two looks.")
@click.option("--once", is_flag=True, help="Print what one interval shows, and end.")
@pass_session
def top(session: Session, interval: float, once: bool) -> None:
    """Watch routers, shards and moves.

    For each router its commands a second, clients, latency and errors; for each shard its commands, those held
    and its keys. Refreshed in a terminal, where q ends it; else printed again and again. With --json each look is
    printed as a line of JSON.
    """
    looks = Looks(session)
    try:
        if once or session.as_json or not (sys.stdout.isatty() and sys.stdin.isatty()):
            _print(session, looks, interval, once)
        else:
            _show(session, looks, interval)
    finally:
        looks.close()


class Looks:
    """Asks a node how all routers fare; one that does not answer is asked again at the next look."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._client: RespClient | None = None
        self._nodes: Sequence[Fields] = ()
        self._counted_at = -_NODES_EVERY_S

    def take(self) -> Look:
        """Look now. Raises HeliosError."""
        try:
            if self._client is None:
                self._client = self._session.connect(_REPLY_TIMEOUT_S)
            client, now = self._client, time.monotonic()
            if now - self._counted_at >= _NODES_EVERY_S:
                self._nodes = output.plain(client.call(b"LISTNODES"))
                self._counted_at = now
            routers = output.plain(client.call(b"ROUTERS"))
            return Look(time.monotonic(), routers, self._nodes, output.plain(client.call(b"ACTIVEMIGRATIONS")))
        except (Unavailable, OutcomeUnknown):
            self.close()
            raise

    def close(self) -> None:
        """End the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _print(session: Session, looks: Looks, interval: float, once: bool) -> None:
    before = looks.take()
    while True:
        time.sleep(interval)
        after = looks.take()
        if session.as_json:
            output.write_json({"routers": after.routers, "nodes": after.nodes, "migrations": after.migrations})
        else:
            output.write(picture(before, after))
        if once:
            return
        output.write("")
        sys.stdout.flush()
        before = after


def _show(session: Session, looks: Looks, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    before = after = looks.take()
    trouble = ""
    with _keys() as wait, Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            head = f"{session.host}:{session.port}, every {interval:g} s; q ends"
            text = "\n".join([f"{head}  {clean(trouble)}".rstrip(), "", picture(before, after)])
            live.update(Text(text, no_wrap=True, overflow="crop"), refresh=True)
            due = time.monotonic() + interval
            while (left := due - time.monotonic()) > 0:
                said = wait(left)
                if said in ("q", "Q", "\x03", "\x04"):
                    return
                live.refresh()  # the size may be another one
            try:
                before, after, trouble = after, looks.take(), ""
            except (Unavailable, OutcomeUnknown, CommandRefused) as error:
                trouble = str(error)


@contextmanager
def _keys() -> Iterator[Any]:
    """How to wait some seconds for a key, which needs no Return; ends earlier, without one, at a change of the size."""
    import termios
    import tty

    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    changed, change = os.pipe()
    os.set_blocking(change, False)
    # A handler alone could run too late: a signal just before the wait would be noticed when that is over.
    former_fd = signal.set_wakeup_fd(change)
    former = signal.signal(signal.SIGWINCH, lambda *_: None)

    def wait(timeout_s: float) -> str:
        ready, _, _ = select.select([keyboard, changed], [], [], timeout_s)
        if changed in ready:
            os.read(changed, 1024)
        return os.read(keyboard, 1).decode("latin-1") or "\x04" if keyboard in ready else ""

    try:
        tty.setcbreak(keyboard)
        yield wait
    finally:
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, former)
        signal.set_wakeup_fd(former_fd)
        os.close(changed)
        os.close(change)


# --- the picture ------------------------------------------------------------------------------------------------


def picture(before: Look, after: Look) -> str:
    """Two looks as text: what happened between them, and what there is now."""
    earlier = {_id(router): router for router in before.routers if router["answers"]}
    pairs = [(earlier.get(_id(router), router), router) for router in after.routers if router["answers"]]
    span_s = max(after.at - before.at, 0.001)
    parts = [_routers(pairs, [router for router in after.routers if not router["answers"]], span_s)]
    parts.append(_shards(pairs, after.nodes, span_s))
    if after.migrations:
        parts.append("\n".join(map(_migration, after.migrations)))
    return "\n\n".join(parts)


def _id(router: Fields) -> object:
    return router["node"], router["worker"], router["pid"]


def _routers(pairs: Sequence[tuple[Fields, Fields]], silent: Sequence[Fields], span_s: float) -> str:
    rows = []
    for was, now in pairs:
        errors = sum(now["errors"].values()) - sum(was["errors"].values())
        counted = _between([was["latency"]], [now["latency"]])
        state = now["error"] or f"lease {now['lease_left_s']:.1f} s"
        rows.append(
            [
                now["node"],
                str(now["worker"]),
                _rate(was["commands"], now["commands"], span_s),
                output.count(now["clients"]),
                _time(counted, 0.5),
                _time(counted, 0.99),
                f"{max(errors, 0) / span_s:.1f}",
                output.count(now["held"]),
                output.count(now["unanswered"]),
                f"{output.size(_positive(now['bytes_in'] - was['bytes_in'], span_s))}/s",
                f"{output.size(_positive(now['bytes_out'] - was['bytes_out'], span_s))}/s",
                str(now["epoch"]),
                state,
            ]
        )
    rows += [[router["node"], str(router["worker"]), *["-"] * 10, router["error"] or ""] for router in silent]
    headings = ["ROUTER", ">WORKER", ">OPS/S", ">CLIENTS", ">P50", ">P99", ">ERR/S", ">HELD", ">UNANSWERED"]
    return output.table([*headings, ">IN", ">OUT", ">EPOCH", "STATE"], rows) if rows else "no router answers"


def _shards(pairs: Sequence[tuple[Fields, Fields]], nodes: Sequence[Fields], span_s: float) -> str:
    keys = {node["id"]: node for node in nodes}
    names = sorted({shard["shard"] for _, now in pairs for shard in now["shards"]})
    rows = []
    for name in names:
        was = [shard for before, _ in pairs for shard in before["shards"] if shard["shard"] == name]
        now = [shard for _, after in pairs for shard in after["shards"] if shard["shard"] == name]
        reads, writes = (_total(now, field) - _total(was, field) for field in ("reads", "writes"))
        ops = reads + writes + _total(now, "others") - _total(was, "others")
        counted = _between([shard["latency"] for shard in was], [shard["latency"] for shard in now])
        states = Counter(shard["state"] for shard in now)
        rows.append(
            [
                name,
                *(f"{_positive(number, span_s):,}" for number in (ops, reads, writes)),
                _time(counted, 0.5),
                _time(counted, 0.99),
                output.count(_total(now, "held")),
                output.count(_total(now, "unanswered")),
                output.count(keys[name]["keys"]) if name in keys else "?",
                _bytes(keys.get(name)),
                ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
            ]
        )
    headings = ["SHARD", ">OPS/S", ">READS/S", ">WRITES/S", ">P50", ">P99", ">HELD", ">UNANSWERED", ">KEYS", ">BYTES"]
    return output.table([*headings, "LINKS"], rows) if rows else "no shards yet"


def _bytes(node: Fields | None) -> str:
    used = None if node is None else node.get("bytes")
    return "?" if used is None else output.size(used)


def _migration(one: Fields) -> str:
    far = f"{output.count(one['keys_moved'])} of {output.count(one['total_keys'])} keys"
    state = "paused" if one["paused"] else str(one["phase"] or one["status"]).replace("_", " ")
    left = "" if one.get("remaining_s") is None else f", about {output.duration(one['remaining_s'])} left"
    return clean(f"{one['source_node']} → {one['target_node']} {one['key_pattern']}: {far}, {state}{left}")


def _total(shards: Sequence[Fields], field: str) -> int:
    return sum(shard[field] for shard in shards)


def _positive(number: float, span_s: float) -> int:
    """A rate; counts that began anew make none below zero."""
    return round(max(number, 0) / span_s)


def _rate(before: int, after: int, span_s: float) -> str:
    return f"{_positive(after - before, span_s):,}"


def _between(before: Sequence[Fields], after: Sequence[Fields]) -> Counter[float]:
    """How many commands took at most how long, of those that came between two looks."""
    counted: Counter[float] = Counter()
    for latency in after:
        counted.update(dict(map(tuple, latency["buckets"])))
    for latency in before:
        counted.subtract(dict(map(tuple, latency["buckets"])))
    return +counted


def _time(counted: Counter[float], part: float) -> str:
    """The time within which a part of the commands was answered."""
    wanted, seen = part * counted.total(), 0.0
    for longest_s in sorted(counted):
        seen += counted[longest_s]
        if seen >= wanted:
            return f"{longest_s * 1000:.2f} ms" if longest_s < 0.1 else f"{longest_s * 1000:.0f} ms"
    return "-"
