"""Writes shop.tsv.gz, the data of the tour: users and carts of a shop that does not exist.

    python examples/sharding/make_shop.py examples/sharding/shop.tsv.gz

The same bytes come out on every run.
"""

from __future__ import annotations

import gzip
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

USERS = 9_000
CARTS = 3_000

_NAMES = [
    "Ada",
    "Bo",
    "Cem",
    "Dana",
    "Emre",
    "Fay",
    "Gus",
    "Hana",
    "Ivo",
    "Jin",
    "Kaya",
    "Lars",
    "Mona",
    "Nils",
    "Olga",
]
_TOWNS = ["Aarhus", "Bergen", "Cork", "Delft", "Evora", "Faro", "Ghent", "Hania", "Ivrea", "Jena"]
_GOODS = ["apples", "bread", "cheese", "dates", "eggs", "flour", "grapes", "honey"]


def lines() -> Iterator[str]:
    """Key, tab and value of each pair, in the order of the file."""
    draw = random.Random(1)
    for number in range(USERS):
        user = {"name": draw.choice(_NAMES), "town": draw.choice(_TOWNS)}
        yield f"user:{number:04}\t{json.dumps(user)}"
    for number in sorted(draw.sample(range(USERS), CARTS)):
        cart = {draw.choice(_GOODS): draw.randint(1, 9)}
        yield f"cart:{number:04}\t{json.dumps(cart)}"


def content() -> bytes:
    """The file before it is packed."""
    return "".join(f"{line}\n" for line in lines()).encode()


if __name__ == "__main__":
    Path(sys.argv[1]).write_bytes(gzip.compress(content(), mtime=0))
