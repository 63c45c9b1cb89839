"""The 90,000 keys of the package data set, kept with the tests so that a fresh clone has them."""

from __future__ import annotations

import gzip
from functools import cache
from pathlib import Path

KEYS_FILE = Path(__file__).parent / "data" / "keys.txt.gz"


@cache
def real_keys() -> tuple[bytes, ...]:
    """All keys, in the order of the file; no key is there twice."""
    return tuple(gzip.decompress(KEYS_FILE.read_bytes()).splitlines())
