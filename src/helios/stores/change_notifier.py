"""How processes that share a file tell each other of a commit at once: by touching it (Linux's inotify)."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_IN_ATTRIB = 0x004
_DRAINED_BYTES = 64 * 1024


class ChangeNotifier:
    """Hears `ring` of any process. Raises OSError where the system has none (left).

    It tells sooner, it does not promise: a process that dies between its commit and its ring is not heard, so
    whoever listens must also look now and then.
    """

    def __init__(self, path: Path) -> None:
        if sys.platform != "linux":
            raise OSError(f"there is no inotify on {sys.platform}")
        libc = ctypes.CDLL(None, use_errno=True)
        self.fd = int(libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if self.fd < 0 or libc.inotify_add_watch(self.fd, os.fsencode(path), _IN_ATTRIB) < 0:
            code = ctypes.get_errno()
            self.close()
            raise OSError(code, os.strerror(code), str(path))

    def heard(self) -> None:
        """Forget what has been heard so far; to be called when `fd` can be read."""
        try:
            while len(os.read(self.fd, _DRAINED_BYTES)) == _DRAINED_BYTES:
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Stop listening."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def ring(path: Path) -> None:
    """Tell all who listen. The file is touched by its name: to open and close it would end SQLite's locks on it."""
    os.utime(path)
