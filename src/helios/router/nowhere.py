"""Names of keys that no client has, for what the router does on servers for itself within one transaction."""

from __future__ import annotations

import secrets

NOWHERE = b"helios:nowhere:" + secrets.token_hex(16).encode()


def nowhere(number: int) -> bytes:
    """One of these names."""
    return b"%b:%d" % (NOWHERE, number)
