"""A process of this cluster that was stopped in the middle of a commit keeps all others from writing: it is ended.

SQLite gives its lock for writing to a process, and takes it back when that ends, however it ends; nothing of the commit
is seen then. So ending such a process does what a crash of it does at that moment, and whoever looks after it starts it
again. One that merely stands still, and holds nothing, is left alone: its leases run out, and it may wake up.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator

from helios.node.files import DataFolder
from helios.node.locks import holder_of
from helios.node.process import ProcessId
from helios.ports.location import StoreLocation
from helios.ports.pulse import rest

logger = logging.getLogger(__name__)

_LOOK_EVERY_S = 1.0
_REQUEST_TIMEOUT_S = 1.0  # well below a router's lease, so that clients notice nothing


class StalledWriterWatch:
    """Looks for such processes, from one that is not itself in need of the store for it."""

    def __init__(
        self, data: DataFolder, location: StoreLocation, request_timeout_s: float = _REQUEST_TIMEOUT_S
    ) -> None:
        self._data = data
        self._location = location
        self._request_timeout_s = request_timeout_s
        self._since: dict[ProcessId, float] = {}
        self._told: set[ProcessId] = set()

    async def watch(self) -> None:
        """For ever; a look costs two calls of the system."""
        while True:
            self.look(time.monotonic())
            await rest(_LOOK_EVERY_S)

    def look(self, now: float) -> None:
        """End what has stood still in a commit for too long by `now` (monotonic seconds)."""
        stuck = {process for pid in self._location.writers() if (process := ProcessId.of(pid)) and process.stopped()}
        self._since = {process: self._since.get(process, now) for process in stuck}
        for process, since in self._since.items():
            if now - since >= self._request_timeout_s:
                self._end(process)

    def _end(self, process: ProcessId) -> None:
        if process in set(self._ours()):
            logger.error("stopped in a commit, ended: pid=%d", process.pid)
            process.send(signal.SIGKILL)
        elif process not in self._told:
            self._told.add(process)
            logger.error(
                "stopped in a commit: pid=%d; it is not ours to end: kill -CONT %d, or kill -KILL %d",
                process.pid,
                process.pid,
                process.pid,
            )

    def _ours(self) -> Iterator[ProcessId]:
        """The processes of this folder that somebody starts again: by their own names in the locks that they hold."""
        paths = [self._data.gateway_lock]
        for node_id in self._data.node_ids():
            paths += self._data.node(node_id).process_locks()
        for path in paths:
            holder = holder_of(path)
            if holder is not None:
                yield holder.process
