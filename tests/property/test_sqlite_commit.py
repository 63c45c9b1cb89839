"""A commit by one statement does what the same commit does step by step."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from helios.errors import Conflict
from helios.ports.store import Compare, Delete, Event, Put, Snapshot
from helios.stores.sqlite_commit import NotSimple
from helios.stores.sqlite_file import SqliteFile

KEYS = st.sampled_from(["/a", "/a/b", "/b", "/ü"])
OPERATIONS = st.one_of(
    st.builds(Put, KEYS, st.binary(max_size=3)),
    st.builds(Put, KEYS, st.just(b"x"), st.just("LEASE")),
    st.builds(Delete, KEYS),
)
COMMITS = st.tuples(st.lists(OPERATIONS, max_size=4), st.lists(st.builds(Compare, KEYS, st.integers(0, 6)), max_size=1))
Commit = tuple[Sequence[Put | Delete], Sequence[Compare]]


@contextmanager
def opened(name: str) -> Iterator[SqliteFile]:
    with tempfile.TemporaryDirectory() as folder:
        file = SqliteFile(Path(folder) / name, monotonic=time.monotonic, keep_commits=3, busy_timeout_s=5)
        try:
            yield file
        finally:
            file.close()


def told(file: SqliteFile, commits: Sequence[Commit]) -> tuple[list[int | str], Snapshot, list[tuple[Event, ...]]]:
    """What becomes of the commits, and what is there and known of changes afterwards."""
    lease = file.grant(1000.0)
    outcomes: list[int | str] = []
    for operations, compares in commits:
        bound = [Put(one.key, one.value, lease) if isinstance(one, Put) and one.lease else one for one in operations]
        try:
            outcomes.append(file.commit(bound, compares))
        except Conflict as error:
            outcomes.append(str(error))
    snapshot = file.snapshot("")
    return outcomes, snapshot, file.events_after("", max(0, snapshot.revision - 3))[0]


@settings(max_examples=60, deadline=None)
@given(st.lists(COMMITS, max_size=6))
def test_a_statement_does_what_steps_do(commits: Sequence[Commit]) -> None:
    with opened("one") as file:
        at_once = told(file, commits)
    with opened("many") as file, patch.object(file, "_commit_at_once", side_effect=NotSimple):
        assert told(file, commits) == at_once
