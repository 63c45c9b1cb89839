"""How long to wait before something that died is started again."""

from __future__ import annotations


class Backoff:
    """Waits that double from `first_s` to `max_s`; whatever ran for `calm_s` starts from the beginning."""

    def __init__(self, first_s: float = 0.2, max_s: float = 10.0, calm_s: float = 30.0) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._calm_s = calm_s
        self._next_s = first_s

    def next(self, ran_s: float) -> float:
        """Seconds to wait now, after a run of `ran_s` seconds."""
        if ran_s >= self._calm_s:
            self._next_s = self._first_s
        wait_s = self._next_s
        self._next_s = min(self._next_s * 2, self._max_s)
        return wait_s
