"""The store is asked twice which data servers run, and answers the first question last."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from helios.coordinator.inbox import Inbox
from helios.model.ids import Address
from helios.model.topology import Topology
from helios.ports.records import MEMBERS, MemberRecord, put_record
from helios.ports.store import Snapshot
from helios.stores.memory import MemoryStore


def record(member_id: str) -> MemberRecord:
    return MemberRecord(member_id, member_id[0], Address(member_id, 1), "user", "password")


async def test_what_is_said_of_servers_is_not_taken_back_by_what_was_said_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, begun, go_on = MemoryStore(), asyncio.Event(), asyncio.Event()
    taken: list[list[MemberRecord]] = []
    await store.commit([put_record(MEMBERS + "a.0", record("a.0"))])
    ask = store.list

    async def late(prefix: str) -> Snapshot:
        answer = await ask(prefix)
        if not begun.is_set():
            begun.set()
            await go_on.wait()
        return answer

    monkeypatch.setattr(store, "list", late)
    context: Any = SimpleNamespace(publisher=SimpleNamespace(store=store, topology=Topology(epoch=1)))
    replicas: Any = SimpleNamespace(take=taken.append)
    nobody: Any = None
    inbox = Inbox(context, nobody, nobody, nobody, replicas)
    first = asyncio.create_task(inbox._apply_members())
    await begun.wait()
    await store.commit([put_record(MEMBERS + "a@b", record("a@b"))])
    await inbox._apply_members()
    go_on.set()
    await first
    assert taken == [[record("a.0"), record("a@b")]]
