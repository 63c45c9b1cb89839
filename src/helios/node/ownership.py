"""Whose a data folder is: nothing that another user could have put there is read, run or written through."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from helios.errors import StartError

_ROOT_UID = 0
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH
_SEARCHABLE = stat.S_IXGRP | stat.S_IXOTH


def check_owned(root: Path, depth: int) -> None:
    """Raise StartError where the folder, or anything in it down to `depth`, is another user's or lets others write.

    A folder that is not there is nobody's. What lies in a folder that others cannot enter may have any mode.
    """
    if os.path.lexists(root):
        _check(root, depth, reachable=True)


def _check(path: Path, depth: int, *, reachable: bool) -> None:
    try:
        status = path.lstat()
        _check_owner(path, status)
        if stat.S_ISLNK(status.st_mode):
            status = path.stat()
            _check_owner(path, status)
            reachable = True
        if reachable and status.st_mode & _WRITABLE:
            raise StartError(
                f"{path} can be written by other users, who could make Helios run what they like: "
                f"run `chmod go-w {path}` after a look at what is in it, or use another folder by --data-dir"
            )
        if depth and stat.S_ISDIR(status.st_mode):
            for entry in sorted(path.iterdir()):
                _check(entry, depth - 1, reachable=reachable and bool(status.st_mode & _SEARCHABLE))
    except FileNotFoundError:
        pass  # a link to nowhere, or a file that has just been replaced
    except OSError as error:
        raise StartError(f"{path} cannot be looked at: {error.strerror}") from error


def _check_owner(path: Path, status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), _ROOT_UID):
        raise StartError(
            f"{path} belongs to {_name(status.st_uid)}, and this process runs as {_name(os.geteuid())}: run it as "
            f"{_name(status.st_uid)}, or use a folder of your own by --data-dir"
        )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
