"""How far a change is, and what is said when it has not come to be done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from helios.admin.views import ChangeView, MigrationView
from helios.errors import ChangeFailed, HeliosError, InvalidInput, Unavailable, WaitTimeout
from helios.model.migration import CHANGE_ENDED

POLL_S = 0.2
GIVE_UP_S = 60.0  # how long nothing may be heard from a cluster before waiting for it ends

Followed: TypeAlias = "ChangeView | MigrationView | str"
"""What can be waited for: a change, a migration (then the whole change that it belongs to), or a change's id."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A change and its migrations as they stand."""

    change: ChangeView
    migrations: tuple[MigrationView, ...]

    @property
    def ended(self) -> bool:
        """Whether nothing will happen any more."""
        return self.change.status in CHANGE_ENDED

    @property
    def done(self) -> bool:
        """Whether it has ended as it was meant to."""
        return self.change.status == "done"

    @property
    def keys_moved(self) -> int:
        """How many keys have been copied so far, by all migrations together."""
        return sum(one.keys_moved for one in self.migrations)

    @property
    def total_keys(self) -> int:
        """How many are to be copied, as far as that is known: a migration that has not begun counts none."""
        return sum(one.total_keys for one in self.migrations)

    @property
    def part(self) -> float:
        """How much of it is done, between 0 and 1: by keys while it runs, 1 once it is done."""
        if self.done:
            return 1.0
        return min(self.keys_moved / self.total_keys, 1.0) if self.total_keys else 0.0

    @property
    def pause_ms(self) -> float:
        """The longest time for which commands for moving keys have been held; 0 before the first switch."""
        return max((one.pause_ms for one in self.migrations if one.pause_ms is not None), default=0.0)


def change_id(what: Followed) -> str:
    """The id of the change that is meant."""
    if isinstance(what, str):
        return what
    if not what.change:
        raise InvalidInput("this is a view of nothing that runs: wait for what a change or a migration has answered")
    return what.change


def seen(change: ChangeView, migrations: list[MigrationView]) -> Progress:
    """The progress that a look at both shows."""
    return Progress(change, tuple(one for one in migrations if one.change == change.change))


def outcome(progress: Progress) -> Progress:
    """The progress itself; raises ChangeFailed where it has not been done."""
    if progress.done:
        return progress
    what = progress.change.kind.replace("_", " ")
    raise ChangeFailed(f"{what} {progress.change.status}: {progress.change.message}")


class RequestTimeout:
    """How long to go on waiting; times are seconds of a clock that never goes back."""

    def __init__(self, change: str, began_s: float, limit_s: float | None) -> None:
        self._change = change
        self._until_s = None if limit_s is None else began_s + limit_s
        self._silent_since_s: float | None = None

    def heard(self, now_s: float) -> None:
        """A node has answered; raises WaitTimeout if the time is up."""
        self._silent_since_s = None
        self._check(now_s)

    def unheard(self, error: HeliosError, now_s: float) -> None:
        """No node has answered; raises Unavailable if that has been so for a minute, WaitTimeout if the time is up."""
        if self._silent_since_s is None:
            self._silent_since_s = now_s
        if now_s - self._silent_since_s > GIVE_UP_S:
            raise Unavailable(
                f"nothing was heard from change {self._change} for {GIVE_UP_S:g} s; it may still go on: {error}"
            ) from error
        self._check(now_s)

    def rest_s(self, now_s: float) -> float:
        """How long to wait for the end before the next look."""
        return POLL_S if self._until_s is None else max(0.0, min(POLL_S, self._until_s - now_s))

    def _check(self, now_s: float) -> None:
        if self._until_s is not None and now_s >= self._until_s:
            raise WaitTimeout(f"change {self._change} has not ended yet; it goes on, and can be waited for again")
