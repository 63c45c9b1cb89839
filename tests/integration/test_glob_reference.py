"""Globs against the matcher of a real server."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import redis
from tests.servers import start_valkey

from helios.placement.glob import Glob

pytestmark = pytest.mark.processes

PIECES = ["*", "*", "?", "a", "b", "ab", "[ab]", "[^a]", "[a-c]", "[c-a]", "[\\]a]", "\\*", "\\a", "]", "-", "^"]
# A range that ends beyond ASCII is left out: servers read it as C's `char`, which has a sign or not by the processor.
BROKEN = ["[", "[^", "[a", "[b-", "[a\\", "\\", "[^a-", "[]", "[^]", "[a-]", "[\\a-c]", "[a-\\]", "[-a]", "[--b]"]


def patterns(random: Random) -> list[str]:
    """Whole patterns, and some with a class or escape that is cut off in the middle or at the end."""
    made = ["".join(random.choices([*PIECES, "é", "[^é]"], k=random.randint(1, 6))) for _ in range(1500)]
    made += ["".join(random.choices(PIECES + BROKEN, k=random.randint(1, 4))) for _ in range(1500)]
    return made + BROKEN


def test_a_server_lists_the_keys_that_match(tmp_path: Path) -> None:
    random = Random(20)
    keys = {"".join(random.choices("abc*?[]^-\\é\n", k=random.randint(1, 6))).encode() for _ in range(600)}
    with start_valkey(tmp_path / "server") as server, redis.Redis(port=server.port) as client:
        client.mset(dict.fromkeys(keys, b""))
        for pattern in patterns(random):
            glob = Glob(pattern)
            assert {key for key in keys if glob.match(key)} == set(client.keys(pattern)), pattern
