"""What is promised to be on disk, and servers that cannot write."""

from __future__ import annotations

import asyncio

import hiredis
import pytest
from tests.engine_lab import Lab, listening, run, scan_all

from helios.engines.valkey import ValkeyConnector, durability
from helios.errors import EngineError
from helios.ports.engine import Vitals


async def test_persist_covers_what_anybody_wrote(lab: Lab) -> None:
    engine, writer = await lab.open(), await lab.open()
    for policy, promised in (("everysec", True), ("always", True), ("no", False)):
        await lab.set_fsync(policy)
        await lab.set(writer, policy.encode(), b"1")
        before = await engine.count()
        assert await engine.persist(10.0) is promised, policy
        assert await engine.count() == before
    lab.crash()
    lab.restart()
    assert await (await lab.open()).exists([b"everysec", b"always"]) == [True, True]


@pytest.mark.processes
async def test_out_of_memory_names_the_key_and_writes_nothing(real_lab: Lab) -> None:
    engine = await real_lab.open()
    await run(engine, "SET", b"a", 1)
    (dumped,) = await engine.dump([b"a"])
    assert dumped is not None
    await run(engine, "CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(EngineError, match=r"RESTORE of b'full'.*OOM"):
        await engine.restore([(b"full", dumped)])
    assert await engine.exists([b"full"]) == [False]
    assert await engine.delete([b"a"]) == 1


@pytest.mark.processes
async def test_persist_leaves_no_key_and_is_heard_by_nobody_for_long(real_lab: Lab) -> None:
    engine = await real_lab.open()
    await run(engine, "CONFIG", "SET", "appendfsync", "always")
    await run(engine, "SET", b"k", 1)
    assert await engine.persist(10.0) is True
    assert await scan_all(engine) == [b"k"]


@pytest.mark.processes
async def test_persist_is_told_of_deletions_on_a_server_that_is_out_of_memory(real_lab: Lab) -> None:
    engine = await real_lab.open()
    await run(engine, "CONFIG", "SET", "appendfsync", "always")
    await run(engine, "SET", b"k", 1)
    await run(engine, "CONFIG", "SET", "maxmemory", "1")
    assert await engine.persist(10.0) is True
    assert await scan_all(engine) == [b"k"]


@pytest.mark.processes
async def test_persist_is_not_promised_without_a_log_that_is_always_synced(real_lab: Lab) -> None:
    engine = await real_lab.open()
    await run(engine, "CONFIG", "SET", "appendfsync", "always", "no-appendfsync-on-rewrite", "yes")
    assert await engine.persist(10.0) is False
    await run(engine, "CONFIG", "SET", "no-appendfsync-on-rewrite", "no", "appendonly", "no")
    assert await engine.persist(10.0) is False
    assert (await engine.info()).aof_enabled is False


PENDING, IDLE, FAILED = (1, "ok"), (0, "ok"), (0, "err")


@pytest.mark.parametrize(
    ("seen", "looks", "error"),
    [
        ([IDLE, IDLE], 2, None),
        ([PENDING, PENDING, IDLE, IDLE], 4, None),
        ([IDLE, PENDING, IDLE, PENDING, IDLE, IDLE], 6, None),
        ([PENDING, FAILED], 2, "cannot write its log"),
        ([PENDING] * 1000, None, "within 0.5 s"),
    ],
)
async def test_persist_looks_until_a_sync_that_began_after_its_mark_has_ended(
    monkeypatch: pytest.MonkeyPatch, seen: list[tuple[int, str]], looks: int | None, error: str | None
) -> None:
    monkeypatch.setattr(durability, "_SYNC_EVERY_S", 0.0)
    log = iter([IDLE, *seen])
    said: list[bytes] = []

    def respond(command: list[bytes]) -> bytes:
        said.append(command[0])
        if command[0] == b"HELLO":
            return b"%1\r\n$5\r\nproto\r\n:3\r\n"
        if command[0] == b"CONFIG":
            value = b"everysec" if command[2] == b"appendfsync" else b"no"
            return b"%%1\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n" % (len(command[2]), command[2], len(value), value)
        if command[0] == b"INFO":
            text = b"aof_enabled:1\r\naof_pending_bio_fsync:%d\r\naof_last_write_status:%s\r\n"
            pending, status = next(log)
            text %= (pending, status.encode())
            return b"$%d\r\n%s\r\n" % (len(text), text)
        return b"+OK\r\n"

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while (command := parser.gets()) is not False:
                writer.write(respond(command))
        writer.close()

    async with listening(answer) as member:
        engine = await ValkeyConnector().open(member)
        if error is None:
            assert await engine.persist(10.0) is True
        else:
            with pytest.raises(EngineError, match=error):
                await engine.persist(0.5)
        if looks is not None:
            assert said.index(b"EXEC") == len(said) - looks - 1
            assert said.count(b"INFO") == looks + 1
        await engine.close()


FULL_AOF = b"# Persistence\r\naof_enabled:1\r\naof_last_write_status:err\r\nrdb_last_bgsave_status:ok\r\n"
NO_SAVE = b"# Persistence\r\naof_enabled:0\r\nrdb_last_bgsave_status:err\r\n"


@pytest.mark.parametrize(
    ("info", "stops", "save", "reason"),
    [
        (FULL_AOF, b"no", b"", "it could not write its log: make room on the disk of /data; a moment later"),
        (NO_SAVE, b"yes", b"3600 1", "it could not save its data: make room on the disk of /data, then give it BGSAVE"),
        (NO_SAVE, b"no", b"3600 1", ""),
        (NO_SAVE, b"yes", b"", ""),
        (b"# Persistence\r\naof_enabled:1\r\naof_last_write_status:ok\r\n", b"yes", b"1 1", ""),
    ],
)
async def test_a_server_that_cannot_write_is_known_before_a_client_finds_out(
    info: bytes, stops: bytes, save: bytes, reason: str
) -> None:
    settings = {b"stop-writes-on-bgsave-error": stops, b"save": save, b"dir": b"/data"}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        parser = hiredis.Reader()
        while data := await reader.read(65536):
            parser.feed(data)
            while (argv := parser.gets()) is not False:
                if argv[0] == b"HELLO":
                    writer.write(b"%1\r\n$5\r\nproto\r\n:3\r\n")
                elif argv[0] == b"INFO":
                    writer.write(b"$%d\r\n%b\r\n" % (len(info), info))
                elif argv[0] == b"DBSIZE":
                    writer.write(b":7\r\n")
                else:
                    value = settings[argv[2]]
                    writer.write(b"%%1\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(argv[2]), argv[2], len(value), value))
        writer.close()

    async with listening(answer) as member:
        engine = await ValkeyConnector().open(member)
        said = await engine.refuses_writes()
        assert await engine.vitals() == Vitals(7, said)
        await engine.close()
    assert said.startswith(reason)
    assert bool(said) is bool(reason)


@pytest.mark.processes
async def test_a_server_in_order_takes_writes(real_lab: Lab) -> None:
    engine = await real_lab.open()
    assert await engine.refuses_writes() == ""
    assert await engine.vitals() == Vitals(await engine.count(), "")
