"""What who asks may do and see beyond its command: other people's servers, and the names of keys."""

from __future__ import annotations

import pytest
from tests.topologies import cluster

from helios.access.authenticator import OWNER, Identity
from helios.access.request_context import asked_by, may, requester, visible
from helios.access.rights import HIDDEN, Need, Rights
from helios.admin.client import Admin
from helios.errors import NotPermitted, Unavailable
from helios.model.ids import Address
from helios.model.topology import Member, NodeKind
from helios.model.users import Role, User
from helios.ports.engine import Engine
from helios.ports.records import AGENTS, RUNNING, TOPOLOGY, AgentRecord, RunningRecord, put_record
from helios.runtime.clock import SystemClock
from helios.stores.memory import MemoryStore


def identity(role: Role, *keys: str) -> Identity:
    user = User("mona", role, "x", keys)
    return Identity("mona", user, None if role is Role.ADMIN else Rights(user))


class Nowhere:
    """Opens nothing, and notes where it was asked to."""

    def __init__(self) -> None:
        self.asked: list[Address] = []

    async def open(self, member: Member, *, user: str | None = None, password: str | None = None) -> Engine:
        self.asked.append(member.address)
        raise Unavailable(f"nobody is at {member.address}")


async def admin_of(connector: Nowhere) -> Admin:
    clock = SystemClock()
    agent = AgentRecord("shard-9", Address("localhost", 6390), NodeKind.SUPERVISED, clock.wall(), True, 1, "1")
    runs = RunningRecord("shard-9", agent.address, "here", "", 0, "", "")
    store = MemoryStore()
    await store.commit(
        [
            put_record(TOPOLOGY, cluster("shard-1")),
            put_record(AGENTS + "shard-9", agent),
            put_record(RUNNING + "shard-9", runs),
        ]
    )
    return Admin(store, connector, clock)


@pytest.mark.parametrize("role", [Role.OPERATOR, Role.METRICS, Role.READ_WRITE])
async def test_a_server_of_ones_own_is_for_administrators(role: Role) -> None:
    nowhere = Nowhere()
    admin = await admin_of(nowhere)
    with asked_by(identity(role)):
        with pytest.raises(NotPermitted, match=f"user 'mona' with the role {role} may not add the server at far:7000"):
            await admin.add_node("thief", "far:7000")
        # Nor one that only says it is a node of this cluster.
        with pytest.raises(NotPermitted, match="may not add the server"):
            await admin.add_node("shard-8", "localhost:6390")
        with pytest.raises(NotPermitted, match="may not import the keys of shard-9"):
            await admin.add_node("shard-9", "localhost:6390", import_keys=True)
        with pytest.raises(NotPermitted, match="may not delete the keys of shard-9"):
            await admin.add_node("shard-9", "localhost:6390", flush=True)
    # A refusal must not become a means of asking what listens where.
    assert nowhere.asked == []
    for who in (identity(Role.ADMIN), OWNER):
        with asked_by(who), pytest.raises(Unavailable, match="nobody is at far:7000"):
            await admin.add_node("friend", "far:7000")


def test_names_of_keys_are_for_who_may_read_all_of_them() -> None:
    seen = {}
    for role in Role:
        with asked_by(identity(role)):
            seen[role] = visible("secret:1")
    readers = {Role.ADMIN, Role.READ_WRITE, Role.READ_ONLY}
    assert seen == {role: "secret:1" if role in readers else HIDDEN for role in Role}
    with asked_by(identity(Role.READ_ONLY, "a:*")):
        assert visible("secret:1") == HIDDEN
        assert not may(Need.READ)
        assert requester() == "mona"
    assert visible("secret:1") == "secret:1"
    assert requester() == ""
