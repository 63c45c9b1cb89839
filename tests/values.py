"""Random values of every type on real servers, changes to them, and a way to compare them."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeAlias

from tests.engine_lab import raw

from helios.engines.valkey.connection import Command, ErrorReply, Reply
from helios.ports.engine import Engine

Make: TypeAlias = Callable[[random.Random, bytes, bool], list[Command]]

SCORES = ["inf", "-inf", "-0", "0", "0.1", "1e300", "5e-324", "-1.7976931348623157e308", "3", "123456789.123456789"]


def _bytes(chance: random.Random, most: int = 40) -> bytes:
    return chance.randbytes(chance.randrange(most))


def _name(chance: random.Random) -> bytes:
    """Few enough names that changes meet what is there."""
    return b"m\r\n%d" % chance.randrange(900)


def string(chance: random.Random, key: bytes, fresh: bool) -> list[Command]:
    if fresh:
        return [("SET", key, _bytes(chance, 5000))]
    return [
        chance.choice(
            [
                ("APPEND", key, _bytes(chance, 3000)),
                ("SETRANGE", key, chance.randrange(3000), _bytes(chance, 9)),
                ("SET", key, _bytes(chance, 5000)),
                ("SETBIT", key, chance.randrange(90_000), 1),
            ]
        )
        for _ in range(chance.randrange(3))
    ]


def a_list(chance: random.Random, key: bytes, fresh: bool) -> list[Command]:
    commands: list[Command] = [("RPUSH", key, *(_bytes(chance) for _ in range(chance.randrange(1, 900))))]
    if fresh:
        return commands
    others: list[Command] = [
        *(("LPUSH", key, b"new"), ("LPOP", key), ("RPOP", key), ("LREM", key, 1, b""), ("RPUSH", key, b"end")),
        *(("LTRIM", key, 0, 100), ("LTRIM", key, 50, -1), ("LINSERT", key, "BEFORE", b"", b"in")),
    ]
    return chance.sample([*others, *commands], chance.randrange(3))


def a_hash(chance: random.Random, key: bytes, fresh: bool) -> list[Command]:
    def fill(count: int) -> Command:
        return ("HSET", key, *(part for _ in range(count) for part in (_name(chance), _bytes(chance))))

    if fresh:
        return [fill(chance.randrange(1, 900)), *([_field_ends(chance, key)] if chance.random() < 0.5 else [])]
    return chance.choice(
        [[], [fill(3)], [("HDEL", key, *(_name(chance) for _ in range(9)))], [_field_ends(chance, key)]]
    )


def _field_ends(chance: random.Random, key: bytes) -> Command:
    ends_ms = int(time.time() * 1000) + chance.randrange(1_000_000, 9_000_000)
    names = list({_name(chance) for _ in range(chance.randrange(1, 300))})
    return chance.choice(
        [("HPEXPIREAT", key, ends_ms, "FIELDS", len(names), *names), ("HPERSIST", key, "FIELDS", len(names), *names)]
    )


def a_set(chance: random.Random, key: bytes, fresh: bool) -> list[Command]:
    if chance.random() < 0.3:
        add: Command = ("SADD", key, *(chance.randrange(900) for _ in range(chance.randrange(1, 900))))
    else:
        add = ("SADD", key, *(_name(chance) for _ in range(chance.randrange(1, 900))))
    return [add] if fresh else chance.choice([[], [add], [("SREM", key, *(_name(chance) for _ in range(9)))]])


def a_sorted_set(chance: random.Random, key: bytes, fresh: bool) -> list[Command]:
    def score() -> str:
        return chance.choice([*SCORES, repr(chance.uniform(-1e9, 1e9)), str(chance.randrange(9))])

    count = chance.randrange(1, 900) if fresh else chance.randrange(1, 5)
    add: Command = ("ZADD", key, *(part for _ in range(count) for part in (score(), _name(chance))))
    return [add] if fresh else chance.choice([[], [add], [("ZREM", key, *(_name(chance) for _ in range(9)))]])


def a_stream(chance: random.Random, key: bytes, fresh: bool) -> list[Command]:
    if fresh:
        commands: list[Command] = [
            ("XADD", key, f"{i}-{chance.randrange(1, 3)}", b"f", _bytes(chance), *((b"g", b"") * chance.randrange(3)))
            for i in range(1, chance.randrange(2, 700))
        ]
        commands += (("XGROUP", "CREATE", key, f"g{i}", chance.choice(["0", "$", "20-0"])) for i in range(3))
        return commands
    return [_stream_change(chance, key) for _ in range(chance.randrange(9))]


def _stream_change(chance: random.Random, key: bytes) -> Command:
    group, consumer = f"g{chance.randrange(3)}", f"c{chance.randrange(3)}"
    some = [f"{chance.randrange(1, 700)}-1" for _ in range(20)]
    changes: list[Command] = [
        ("XADD", key, "*", b"f", _bytes(chance)),
        ("XREADGROUP", "GROUP", group, consumer, "COUNT", chance.randrange(1, 200), "STREAMS", key, ">"),
        ("XREADGROUP", "GROUP", group, consumer, "COUNT", chance.randrange(1, 200), "STREAMS", key, ">"),
        ("XACK", key, group, *some),
        ("XCLAIM", key, group, consumer, 0, *some, "RETRYCOUNT", chance.randrange(9)),
        ("XGROUP", "CREATECONSUMER", key, group, f"idle{chance.randrange(3)}"),
        ("XGROUP", "DELCONSUMER", key, group, consumer),
        ("XGROUP", "DESTROY", key, f"g{chance.randrange(9)}"),
        ("XDEL", key, *some),
        ("XTRIM", key, "MAXLEN", chance.randrange(100, 700)),
    ]
    return chance.choice(changes)


MAKERS: dict[str, Make] = {
    "string": string,
    "list": a_list,
    "hash": a_hash,
    "set": a_set,
    "zset": a_sorted_set,
    "stream": a_stream,
}


async def carry_out(engine: Engine, commands: list[Command]) -> None:
    """Run commands, some of which a server may refuse (what they name is not there, or it is too old for them)."""
    await raw(engine).execute_many(commands)


async def look(engine: Engine, key: bytes) -> Reply:
    """All that a server tells of a value, in a form that is equal for equal values."""
    kind, ends = await raw(engine).execute_many([("TYPE", key), ("PEXPIRETIME", key)])
    if kind == b"stream":
        value = _steady(await raw(engine).execute("XINFO", "STREAM", key, "FULL", "COUNT", 0))
    elif kind == b"hash":
        value = await raw(engine).execute("HGETALL", key)
        fields = sorted(value)
        (end,) = await raw(engine).execute_many([("HPEXPIRETIME", key, "FIELDS", len(fields), *fields)])
        value = (value, "no ends" if isinstance(end, ErrorReply) else end)
    else:
        command: dict[bytes, Command] = {
            b"string": ("GET", key),
            b"list": ("LRANGE", key, 0, -1),
            b"set": ("SMEMBERS", key),
            b"zset": ("ZRANGE", key, 0, -1, "WITHSCORES"),
            b"none": ("GET", key),
        }
        value = await raw(engine).execute(*command[kind])
        value = sorted(value) if kind == b"set" else value
    return kind, ends, value


def _steady(stream: Reply) -> Reply:
    """What a stream is, without how it lies in memory, when its consumers came, and fractions of a second."""
    groups = []
    for group in stream[b"groups"]:
        consumers = sorted(consumer[b"name"] for consumer in group[b"consumers"])
        pending = [(entry, consumer, times) for entry, consumer, _, times in group[b"pending"]]
        groups.append(
            [group[b"name"], group[b"last-delivered-id"], group[b"entries-read"], group[b"lag"], consumers, pending]
        )
    names = (b"length", b"last-generated-id", b"max-deleted-entry-id", b"entries-added", b"recorded-first-entry-id")
    return [*(stream[name] for name in names), stream[b"entries"], sorted(groups)]


async def delivered_ms(engine: Engine, key: bytes) -> list[int]:
    """When each pending entry of a stream was delivered, in the order of groups and entries."""
    about = await raw(engine).execute("XINFO", "STREAM", key, "FULL", "COUNT", 0)
    groups = sorted(about[b"groups"], key=lambda group: bytes(group[b"name"]))
    return [int(pending[2]) for group in groups for pending in group[b"pending"]]
