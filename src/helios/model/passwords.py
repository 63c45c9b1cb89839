"""Passwords as hashes: slow, salted, with their cost written beside them. Pure; the salt comes from outside."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from dataclasses import dataclass

SALT_BYTES = 16
_HASH_BYTES = 32
# 16 MB and some tens of milliseconds: much for who guesses, little for who logs in once a connection.
_COST = (1 << 14, 8, 1)
_MAX_MEMORY_BYTES = 256 << 20
_MAX_LANES = 16
_FORM = re.compile(r"scrypt\$(\d{1,8})\$(\d{1,3})\$(\d{1,3})\$([A-Za-z0-9+/=]+)\$([A-Za-z0-9+/=]+)\Z")


@dataclass(frozen=True, slots=True)
class _Parts:
    """A hash taken apart: n, r and p of scrypt (RFC 7914), salt, digest."""

    n: int
    r: int
    p: int
    salt: bytes
    digest: bytes

    def reckon(self, password: bytes) -> bytes:
        """The digest of a password under this salt and cost."""
        return hashlib.scrypt(
            password,
            salt=self.salt,
            n=self.n,
            r=self.r,
            p=self.p,
            maxmem=2 * _MAX_MEMORY_BYTES,
            dklen=len(self.digest),
        )


def hashed(password: bytes, salt: bytes) -> str:
    """The text that stands for a password in a settings file. Takes some tens of milliseconds of a core."""
    n, r, p = _COST
    parts = _Parts(n, r, p, salt, bytes(_HASH_BYTES))
    return f"scrypt${n}${r}${p}${_text(salt)}${_text(parts.reckon(password))}"


def derived(key: bytes, salt: str, of: str) -> str:
    """The password that the cluster's key gives a data server: who has no key learns nothing from the salt."""
    return hmac.digest(key, f"helios data server\0{salt}\0{of}".encode(), "sha256").hex()


def key_check(key: bytes) -> str:
    """What tells whether somebody else has the same key, and nothing else about it."""
    return hmac.digest(key, b"helios cluster key", "sha256").hex()[:32]


def matches(password: bytes, stored: str) -> bool:
    """Whether this is the password behind a hash. As slow as making one; a hash that is none matches nothing."""
    try:
        parts = _parse(stored)
    except ValueError:
        return False
    return hmac.compare_digest(parts.reckon(password), parts.digest)


def check_hash(stored: str) -> None:
    """Raise ValueError, which does not repeat the text, unless it is a hash that can be checked at bearable cost."""
    _parse(stored)


def _parse(stored: str) -> _Parts:
    found = _FORM.match(stored)
    if found is None:
        raise ValueError("is not a password's hash: `helios hash-password` prints one")
    n, r, p = int(found[1]), int(found[2]), int(found[3])
    if n < 2 or n & (n - 1) or not 1 <= p <= _MAX_LANES or r < 1 or 128 * n * r > _MAX_MEMORY_BYTES:
        raise ValueError("is a password's hash of a cost that is not accepted: `helios hash-password` prints another")
    try:
        salt, digest = base64.b64decode(found[4], validate=True), base64.b64decode(found[5], validate=True)
    except binascii.Error as error:
        raise ValueError("is a password's hash that was cut or changed: `helios hash-password` prints one") from error
    if len(salt) < 8 or not 16 <= len(digest) <= 64:
        raise ValueError("is a password's hash that was cut or changed: `helios hash-password` prints one")
    return _Parts(n, r, p, salt, digest)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
