"""How processes that share a file tell each other of a commit at once: by touching others beside it (Linux's inotify).

A commit touches a file for the beginnings of each key that it changes, and who watches a prefix listens at one of these
alone: so what one process does wakes those whom it concerns, among hundreds.
"""

from __future__ import annotations

import ctypes
import os
import sys
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_IN_ATTRIB = 0x004
_DRAINED_BYTES = 64 * 1024
# How much of a key tells where it is rung for: what kind of record it is, and whose.
_BEGINNINGS = (0, 5, 12)
_FILES = 512  # beginnings share them when there are more


class ChangeNotifier:
    """Hears `ring` of any process for the prefixes that are followed. Raises OSError where the system has none (left).

    It tells sooner, it does not promise: a process that dies between its commit and its ring is not heard, so
    whoever listens must also look now and then.
    """

    def __init__(self, store: Path) -> None:
        if sys.platform != "linux":
            raise OSError(f"there is no inotify on {sys.platform}")
        self.fd = -1
        self._folder = _folder(store)
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._listeners: dict[Path, tuple[int, int]] = {}  # what inotify calls it, and how many follow it
        self.fd = int(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        # A process of an earlier release touches the store's file itself.
        if self.fd < 0 or self._libc.inotify_add_watch(self.fd, os.fsencode(store), _IN_ATTRIB) < 0:
            error = _last_error(store)
            self.close()
            raise error

    def follow(self, prefix: str) -> None:
        """Hear from now on of commits that change a key with this prefix. Raises OSError."""
        path = self._path(prefix)
        watch, count = self._listeners.get(path, (-1, 0))
        if count == 0:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            watch = int(self._libc.inotify_add_watch(self.fd, os.fsencode(path), _IN_ATTRIB))
            if watch < 0:
                raise _last_error(path)
        self._listeners[path] = watch, count + 1

    def unfollow(self, prefix: str) -> None:
        """End one `follow` of the prefix."""
        path = self._path(prefix)
        watch, count = self._listeners.pop(path, (-1, 0))
        if count > 1:
            self._listeners[path] = watch, count - 1
        elif count == 1 and self.fd >= 0:
            self._libc.inotify_rm_watch(self.fd, watch)

    def _path(self, prefix: str) -> Path:
        return self._folder / _name(prefix[: max(length for length in _BEGINNINGS if length <= len(prefix))])

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


def ring(store: Path, keys: Iterable[str]) -> None:
    """Tell all who follow a prefix of one of these keys that they have changed."""
    folder = _folder(store)
    for name in {_name(key[:length]) for key in keys for length in _BEGINNINGS if length <= len(key)}:
        with suppress(FileNotFoundError):  # nobody has ever listened there
            os.utime(folder / name)


def _folder(store: Path) -> Path:
    return store.with_name(f".{store.name}-bells")


def _name(beginning: str) -> str:
    return f"{zlib.crc32(beginning.encode('utf-8', 'surrogatepass')) % _FILES:03d}"


def _last_error(path: Path) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), str(path))
