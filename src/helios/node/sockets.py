"""Unix sockets of data servers: a shorter way to those on this host, which no other user can take."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from helios.model.topology import Member
from helios.node.files import DataFolder

_LONGEST_BYTES = 103  # of a path, on every system


def fits(path: Path) -> bool:
    """Whether a socket can have this path."""
    return len(os.fsencode(path)) <= _LONGEST_BYTES


def socket_of(data: DataFolder, member: Member) -> str | None:
    """The socket of a member whose server runs on this data folder, and as this user; None where there is none.

    That it is there does not prove that the member's server listens at it: whoever uses it has to log in.
    """
    path = data.node(member.node).member(member.id).socket
    try:
        status = path.lstat()
    except OSError:
        return None
    mine = stat.S_ISSOCK(status.st_mode) and status.st_uid == os.geteuid() and fits(path)
    return str(path) if mine else None
