"""How many files, and so connections, this process may have open."""

from __future__ import annotations

import logging
import resource

logger = logging.getLogger(__name__)

_OTHERS = 100  # servers' connections, the store, logs, and what libraries open


def clients_that_fit(wanted: int) -> int:
    """Raise the limit of open files as far as the system lets it; how many of the clients wanted fit into it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + _OTHERS
    if soft != resource.RLIM_INFINITY and soft < needed:
        reachable = needed if hard == resource.RLIM_INFINITY else hard
        if soft < reachable:
            resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
            soft = reachable
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    fitting = max(1, soft - _OTHERS)
    logger.warning(
        "only %d of the %d clients of router.max_clients can connect: this process may open %d files; "
        "raise that by `ulimit -n %d` before starting, or set router.max_clients lower",
        fitting,
        wanted,
        soft,
        needed,
    )
    return fitting
