"""Waiting for a move: asking how far it is until it has ended, and showing that."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from helios.cli import output
from helios.cli.session import Session
from helios.client.connection import CommandRefused, RespClient
from helios.client.replies import knows_no_wait
from helios.errors import HeliosError, NotFound, OutcomeUnknown, Unavailable
from helios.model.migration import CHANGE_ENDED, MIGRATION_ENDED
from helios.terminal import clean, shown

POLL_S = 0.5  # how often to show how far it is; its end is told at once
LINE_EVERY_S = 2.0
GIVE_UP_S = 60.0

Fields = Mapping[str, Any]
Show = Callable[[Sequence[Fields]], None]


@dataclass(frozen=True, slots=True)
class Seen:
    """A request and the migrations that it led to, as they stand."""

    change: Fields
    migrations: Sequence[Fields]


def follow(session: Session, change_id: str) -> Seen:
    """Wait until the request has ended, showing on stderr how far it is; it may have failed then.

    A node that goes away is asked again for a minute. Ctrl-C stops the waiting alone, and says so.
    """
    with _progress() as (tell, show):
        try:
            return _until_ended(session, change_id, tell, show)
        except KeyboardInterrupt:
            tell(
                "no longer waiting; what was asked for goes on: `helios-cli activemigrations` shows how far it is, "
                "`helios-cli cancelmigration ID` takes it back"
            )
            raise


def outcome(seen: Seen) -> None:
    """Raise what became of a request that was not done."""
    status = seen.change["status"]
    if status != "done":
        raise HeliosError(f"{seen.change['kind'].replace('_', ' ')} {status}: {seen.change['message']}")


def _until_ended(session: Session, change_id: str, tell: Callable[[str], None], show: Show) -> Seen:
    silent_since: float | None = None
    while True:
        try:
            with session.connect() as client:
                wait_s = 0.0
                while True:
                    seen = _look(client, change_id, wait_s)
                    show(seen.migrations)
                    if silent_since is not None:
                        tell(f"{client.address} answers again")
                        silent_since = None
                    if seen.change["status"] in CHANGE_ENDED:
                        return seen
                    wait_s = POLL_S
        except (Unavailable, OutcomeUnknown, CommandRefused) as error:
            if isinstance(error, CommandRefused) and error.code == NotFound.code:
                raise NotFound(f"{error}: how it ended is not known") from error
            now = time.monotonic()
            if silent_since is None:
                silent_since = now
                tell(f"{error}; asking again")
            if now - silent_since > GIVE_UP_S:
                raise Unavailable(
                    f"nothing was heard for {GIVE_UP_S:g} s; what was asked for may still go on: {error}"
                ) from error
            time.sleep(POLL_S)


def _look(client: RespClient, change_id: str, wait_s: float) -> Seen:
    """The request when it has ended, or as it stands after that time."""
    words = [b"CHANGESTATUS", change_id.encode()]
    try:
        said = client.call(*words, *([b"WAIT", b"%g" % wait_s] if wait_s else []))
    except CommandRefused as error:
        if not wait_s or not knows_no_wait(error):
            raise
        time.sleep(wait_s)  # a node of the release before, which answers at once
        said = client.call(*words)
    change = output.plain(said)
    every = output.plain(client.call(b"ALLMIGRATIONS"))
    return Seen(change, [migration for migration in every if migration["change"] == change_id])


@contextmanager
def _progress() -> Iterator[tuple[Callable[[str], None], Show]]:
    """How to tell something and to show migrations: as bars if stderr is a terminal, else as lines."""
    if not sys.stderr.isatty():
        yield output.tell, Lines(output.tell)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(migrations: Sequence[Fields]) -> None:
            for one in migrations:
                if one["id"] not in tasks:
                    tasks[one["id"]] = bars.add_task(clean(_name(one)), total=None, note="")
                ended = one["status"] == "completed"
                total = one["total_keys"] or (1 if ended else None)
                moved = total if ended and total else one["keys_moved"]
                bars.update(tasks[one["id"]], completed=moved or 0, total=total, note=clean(_note(one)))

        yield lambda text: bars.console.print(shown(text, sys.stderr), markup=False, highlight=False), show


class Lines:
    """Shows migrations as lines: each as it ends, and in between all together, now and then."""

    def __init__(self, tell: Callable[[str], None], now: Callable[[], float] = time.monotonic) -> None:
        self._tell = tell
        self._now = now
        self._ended: set[str] = set()
        self._last = ""
        self._told_at = -LINE_EVERY_S

    def __call__(self, migrations: Sequence[Fields]) -> None:
        """Tell what has changed since the last call."""
        for one in migrations:
            if one["status"] in MIGRATION_ENDED and one["id"] not in self._ended:
                self._ended.add(one["id"])
                self._tell(clean(f"{_name(one)}: {_note(one)}, {output.count(one['keys_moved'])} keys"))
        under_way = [one for one in migrations if one["status"] not in MIGRATION_ENDED]
        if not under_way or self._now() - self._told_at < LINE_EVERY_S:
            return
        line = _together(under_way)
        if line != self._last:
            self._last, self._told_at = line, self._now()
            self._tell(clean(line))


def _together(under_way: Sequence[Fields]) -> str:
    moved, total = (sum(one[name] for one in under_way) for name in ("keys_moved", "total_keys"))
    names = _name(under_way[0]) if len(under_way) == 1 else f"{len(under_way)} moves"
    left = [one["remaining_s"] for one in under_way if one.get("remaining_s") is not None]
    far = f"{output.count(moved)} of {output.count(total)} keys ({moved * 100 // total} %)" if total else "no keys yet"
    notes = [f"about {output.duration(max(left))} left"] if left else []
    verified = sum(one.get("verified", 0) for one in under_way)
    notes += [f"{output.count(verified)} compared"] if verified else []
    notes += sorted({_state(one) for one in under_way} - {"copying"})
    return ", ".join([f"{names}: {far}", *notes])


def _name(one: Fields) -> str:
    pattern = "" if one.get("key_pattern", "*") == "*" else f" {one['key_pattern']}"
    return f"{one['source_node']} → {one['target_node']}{pattern}"


def _state(one: Fields) -> str:
    if one.get("paused"):
        return "paused"
    return str(one["phase"] or one["status"]).replace("_", " ")


def _note(one: Fields) -> str:
    if one["status"] not in MIGRATION_ENDED:
        left = one.get("remaining_s")
        notes = [_state(one)] if left is None else [_state(one), f"about {output.duration(left)} left"]
        return ", ".join(notes + ([f"{output.count(one['verified'])} compared"] if one.get("verified") else []))
    notes = [one["status"]]
    if one.get("pause_ms") is not None:
        notes.append(f"pause {one['pause_ms']:.1f} ms")
    if one.get("slowed_ms"):
        notes.append(f"writes slowed by up to {one['slowed_ms']} ms")
    if one.get("verified"):
        notes.append(f"{output.count(one['verified'])} copies verified")
    if one.get("error"):
        notes.append(one["error"])
    return ", ".join(notes)
