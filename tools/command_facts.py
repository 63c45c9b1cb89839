"""Prints src/helios/resp/facts.py: what a running Valkey server says of its commands.

Use: python tools/command_facts.py HOST PORT > src/helios/resp/facts.py && ruff format src/helios/resp/facts.py
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator
from typing import Any

import hiredis

# The server's key specifications are silent or vague about these; the rules of these names are in keys.py.
NAMED_RULES = {
    "sort": "sort",
    "sort_ro": "1",
    "georadius": "place",
    "georadiusbymember": "member",
    "xread": "streams",
    "xreadgroup": "streams",
    "migrate": "",
}
KEPT_FLAGS = ("write", "readonly", "denyoom", "admin", "pubsub", "noscript", "blocking", "fast", "movablekeys")


def ask(host: str, port: int, *words: str) -> Any:
    """The server's reply to one command."""
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w.encode()) for w in words))
        reader = hiredis.Reader(encoding="utf-8")
        while (reply := reader.gets()) is False:
            reader.feed(connection.recv(1 << 20))
        return reply


def flattened(commands: list[Any]) -> Iterator[Any]:
    """Each command followed by its subcommands, by name."""
    for command in sorted(commands, key=lambda command: str(command[0])):
        yield command
        yield from flattened(command[9])


def pairs(flat: list[Any]) -> dict[str, Any]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def key_rule(specs: list[Any]) -> str:
    """The key positions in the notation that keys.py reads."""
    parts: list[str] = []
    for spec in map(pairs, specs):
        begin, find = pairs(spec["begin_search"]), pairs(spec["find_keys"])
        if begin["type"] != "index":
            raise SystemExit(f"a key specification by {begin['type']} needs a named rule: {spec}")
        first, how = pairs(begin["spec"])["index"], pairs(find["spec"])
        if find["type"] == "keynum":
            if how["keynumidx"] != 0 or how["firstkey"] != 1:
                raise SystemExit(f"this count of keys needs a named rule: {spec}")
            part = f"#{first}"
        else:
            # A last key that is not negative counts from the first.
            last = how["lastkey"] if how["lastkey"] < 0 else first + how["lastkey"]
            part = str(first) if last == first else f"{first}..{last}"
        parts.append(part if how["keystep"] == 1 else f"{part}/{how['keystep']}")
    return " ".join(parts)


def rows(commands: list[Any]) -> Iterator[tuple[str, int, str, str]]:
    """Name, arity, flags, key rule."""
    for name, arity, flags, *_, specs, _subcommands in flattened(commands):
        names = {str(flag) for flag in flags}
        rule = NAMED_RULES[name] if name in NAMED_RULES else key_rule(specs)
        yield name, arity, " ".join(flag for flag in KEPT_FLAGS if flag in names), rule


def main() -> None:
    host, port = sys.argv[1], int(sys.argv[2])
    print('"""What the servers say of their commands. Written by tools/command_facts.py: change that, not this."""\n')
    print("# Name, arity, flags, key positions (the notation is explained in keys.py).")
    print("FACTS: tuple[tuple[str, int, str, str], ...] = (")
    for row in rows(ask(host, port, "COMMAND")):
        print(f"    {row!r},")
    print(")")


if __name__ == "__main__":
    main()
