import time
from typing import cast

import pytest

from helios.coordinator.kept_engines import KeptEngines
from helios.engines.memory import MemoryConnector, MemoryServer
from helios.engines.memory.engine import MemoryEngine
from helios.errors import EngineError, EngineUnreachable
from helios.model.ids import Address
from helios.model.topology import Member
from helios.ports.engine import Engine

ONE, TWO, NOWHERE = (Member(name, name, Address(name, 1)) for name in ("one", "two", "nowhere"))


@pytest.fixture
def kept() -> KeptEngines:
    servers = {member.address: MemoryServer(member.id, wall=time.time) for member in (ONE, TWO)}
    return KeptEngines(MemoryConnector(servers).open)


def is_open(engine: Engine) -> bool:
    return not cast(MemoryEngine, engine).connection.lost


async def looked(kept: KeptEngines, member: Member) -> Engine:
    async with kept.engine(member) as engine:
        await engine.count()
    return engine


async def test_an_engine_stays_open_from_look_to_look(kept: KeptEngines) -> None:
    first = await looked(kept, ONE)
    assert is_open(first)
    assert await looked(kept, ONE) is first
    assert await looked(kept, TWO) is not first


async def test_an_error_ends_the_engine_and_the_next_look_opens_another(kept: KeptEngines) -> None:
    first = await looked(kept, ONE)
    with pytest.raises(EngineError):
        async with kept.engine(ONE):
            raise EngineError("it says something odd")
    assert not is_open(first)
    assert is_open(await looked(kept, ONE))
    with pytest.raises(EngineUnreachable):
        await looked(kept, NOWHERE)


async def test_of_two_looks_at_once_one_engine_stays(kept: KeptEngines) -> None:
    async with kept.engine(ONE) as first:
        second = await looked(kept, ONE)
        assert second is not first
    assert (is_open(first), is_open(second)) == (False, True)
    assert await looked(kept, ONE) is second


async def test_engines_of_members_that_have_gone_are_let_go(kept: KeptEngines) -> None:
    one, two = await looked(kept, ONE), await looked(kept, TWO)
    await kept.let_go(but=[TWO])
    assert (is_open(one), is_open(two)) == (False, True)
    await kept.let_go()
    assert not is_open(two)
