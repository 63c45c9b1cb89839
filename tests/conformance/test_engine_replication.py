"""How servers follow each other; each test runs over servers in memory and over real ones."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.engine_lab import Lab, Three, raw
from tests.followers import LONG_S, everybody_has_all, follow, in_sync, led, write
from tests.servers import ADMIN_PASSWORD, ADMIN_USER
from tests.waiting import until

from helios.errors import EngineError, EngineUnreachable
from helios.ports.engine import Replication, UserRole

SHORT_S = 0.3  # a wait that is meant to pass


async def test_a_server_of_its_own_leads_without_a_history(lab: Lab) -> None:
    engine = await lab.open()
    await lab.set(engine, b"a", b"1")
    said = await engine.replication()
    assert said == Replication(leads=True, history="", offset=said.offset)


async def test_a_follower_has_what_its_leader_had_and_gets(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await a.set(leader, b"before", b"1")
    await b.set(follower, b"own", b"gone")
    await follow(follower, a)
    await a.set(leader, b"after", b"2")
    await everybody_has_all(leader, 1)
    assert [await b.get(follower, key) for key in (b"own", b"before", b"after")] == [None, b"1", b"2"]
    leads, follows = await leader.replication(), await follower.replication()
    assert (leads.leads, leads.leader, leads.in_sync) == (True, None, True)
    assert (follows.leads, follows.leader, follows.followers) == (False, a.member.address, ())
    assert leads.history
    assert leads.history == follows.history
    (seen,) = leads.followers
    assert (seen.address, seen.online) == (b.member.address, True)
    assert seen.offset <= leads.offset
    assert seen.lag_s >= 0


async def test_a_follower_takes_no_writes(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await a.set(leader, b"key", b"1")
    await follow(follower, a)
    with pytest.raises(EngineError):
        await b.set(follower, b"key", b"2")
    with pytest.raises(EngineError):
        await follower.delete([b"key"])
    assert await b.get(follower, b"key") == b"1"


async def test_to_be_told_the_same_leader_again_changes_nothing(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await follow(follower, a)
    await follower.follow(a.member, ADMIN_USER, ADMIN_PASSWORD)
    assert (await follower.replication()).in_sync
    assert await a.copies(leader) == 1


async def test_a_follower_that_comes_back_gets_what_it_lacks(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await follow(follower, a)
    await follower.detach()
    await a.set(leader, b"meanwhile", b"1")
    await follow(follower, a)
    await everybody_has_all(leader, 1)
    assert await b.get(follower, b"meanwhile") == b"1"
    assert await a.copies(leader) == 1


async def test_a_follower_that_was_away_too_long_gets_a_whole_copy(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await follow(follower, a)
    await follower.detach()
    await write(a, leader, 40, b"x" * 4096)
    await follow(follower, a)
    await everybody_has_all(leader, 1)
    assert await follower.count() == 40
    assert await a.copies(leader) == 2


async def test_a_detached_server_acknowledges_nothing_and_stays_where_it_is(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await follow(follower, a)
    await a.set(leader, b"key", b"1")
    await everybody_has_all(leader, 1)
    position = await follower.detach()
    assert (position.leads, position.leader, position.in_sync) == (False, None, False)
    assert position.history == (await leader.replication()).history
    await a.set(leader, b"key", b"2")
    assert await leader.round(1, SHORT_S) == 0
    assert await follower.replication() == position
    assert await follower.detach() == position
    with pytest.raises(EngineError):
        await b.set(follower, b"key", b"3")
    with pytest.raises(EngineUnreachable):
        await b.get(follower, b"key")


async def test_what_a_detached_server_says_covers_all_that_it_acknowledged(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await follow(follower, a)
    for number in range(20):
        await a.set(leader, b"key", b"%d" % number)
        acknowledged = await leader.round(1, LONG_S)
        offset = (await leader.replication()).offset
        position = await follower.detach()
        assert acknowledged == 1
        assert position.offset >= offset
        await follow(follower, a)


async def test_a_leader_that_is_detached_takes_no_writes(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await follow(follower, a)
    before = await leader.replication()
    position = await leader.detach()
    assert (position.leads, position.history) == (False, before.history)
    assert position.offset >= before.offset
    with pytest.raises(EngineError):
        await a.set(leader, b"key", b"1")
    with pytest.raises(EngineError):
        await leader.round(1, SHORT_S)


async def test_users_of_a_detached_server_come_and_go(three: Three) -> None:
    engine = await three[0].open()
    await engine.detach()
    await engine.allow("helios-s-1", "secret", UserRole.ROUTER)
    assert "helios-s-1" in await engine.users()
    await engine.force_off("helios-s-1")
    assert "helios-s-1" not in await engine.users()
    assert (await engine.info()).run_id


async def test_a_promoted_server_leads_under_a_new_history(three: Three) -> None:
    a, b, c = three
    leader, follower, _ = await led(three)
    await a.set(leader, b"key", b"1")
    await everybody_has_all(leader, 2)
    position = await follower.detach()
    said = await follower.promote()
    assert (said.leads, said.leader, said.in_sync) == (True, None, True)
    assert said.history not in ("", position.history)
    assert (said.former_history, said.former_end, said.offset) == (position.history, position.offset, position.offset)
    await b.set(follower, b"key", b"2")
    again = await follower.promote()
    assert (again.history, again.former_history, again.former_end) == (
        said.history,
        position.history,
        position.offset,
    )
    assert again.offset > said.offset
    await follow(await c.open(), b)
    assert (await follower.replication()).history == said.history


async def test_after_a_promotion_the_others_follow_without_a_whole_copy(three: Three) -> None:
    _, b, c = three
    old, new, other = await led(three)
    await three[0].set(old, b"key", b"1")
    await everybody_has_all(old, 2)
    for engine in (old, other, new):
        await engine.detach()
    await new.promote()
    await b.set(new, b"key", b"2")
    await follow(other, b)
    await follow(old, b)
    await everybody_has_all(new, 2)
    assert [await three[0].get(old, b"key"), await c.get(other, b"key")] == [b"2", b"2"]
    assert await b.copies(new) == 0
    leads, follows = await new.replication(), await other.replication()
    assert (follows.history, follows.former_history) == (leads.history, leads.former_history)
    assert {each.address for each in leads.followers} == {three[0].member.address, c.member.address}


async def test_a_leader_that_wrote_on_alone_gets_a_whole_copy(three: Three) -> None:
    a, b, _ = three
    old, new = await a.open(), await b.open()
    await follow(new, a)
    await a.set(old, b"key", b"1")
    await everybody_has_all(old, 1)
    await new.detach()
    await new.promote()
    await a.set(old, b"alone", b"lost")
    await follow(old, b)
    await b.set(new, b"key", b"2")
    await everybody_has_all(new, 1)
    assert [await a.get(old, b"alone"), await a.get(old, b"key")] == [None, b"2"]
    assert await b.copies(new) == 1
    assert (await old.replication()).history == (await new.replication()).history


async def test_offsets_of_another_history_prove_nothing(three: Three) -> None:
    a, b, _ = three
    old, new = await a.open(), await b.open()
    await follow(new, a)
    await new.detach()
    await new.promote()
    await write(a, old, 3)
    await write(b, new, 20)  # further than the old one has come
    await follow(old, b)
    assert await old.count() == await new.count() == 20
    assert await b.copies(new) == 1


@pytest.mark.parametrize("leads", [False, True], ids=["a follower", "a leader"])
async def test_a_restarted_server_has_its_data_and_no_position(three: Three, leads: bool) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await follow(follower, a)
    await a.set(leader, b"key", b"1")
    await everybody_has_all(leader, 1)
    restarted, other = (a, b) if leads else (b, a)
    restarted.crash()
    restarted.restart(detached=True)
    engine = await restarted.open()
    said = await engine.replication()
    assert (said.leads, said.history, said.former_history, said.leader) == (False, "", "", None)
    with pytest.raises(EngineError):
        await restarted.set(engine, b"key", b"2")
    promoted = await engine.promote()
    assert await restarted.get(engine, b"key") == b"1"
    assert promoted.leads
    assert promoted.history
    assert promoted.former_history == ""
    await follow(await other.open(), restarted)
    assert (await engine.replication()).history == promoted.history


async def test_a_restarted_follower_gets_a_whole_copy(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await follow(follower, a)
    b.crash()
    await a.set(leader, b"meanwhile", b"1")
    b.restart(detached=True)
    engine = await b.open()
    await follow(engine, a)
    assert await b.get(engine, b"meanwhile") == b"1"
    assert await a.copies(leader) == 2


async def test_a_leader_that_restarts_detached_takes_nothing_from_its_followers(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await follow(follower, a)
    await a.set(leader, b"key", b"1")
    await everybody_has_all(leader, 1)
    a.crash()
    a.restart(detached=True)
    again = await a.open()

    async def asked_again() -> bool:
        return not (await follower.replication()).in_sync

    await until(asked_again)
    position = await follower.detach()
    assert position.history
    await follower.promote()
    assert await b.get(follower, b"key") == b"1"
    await follow(again, b)
    assert await a.get(again, b"key") == b"1"


async def test_a_follower_waits_for_a_leader_that_is_away(three: Three) -> None:
    a, b, _ = three
    follower = await b.open()
    a.crash()
    await follower.follow(a.member, ADMIN_USER, ADMIN_PASSWORD)
    said = await follower.replication()
    assert (said.leader, said.in_sync, said.leads) == (a.member.address, False, False)
    a.restart()
    leader = await a.open()
    await a.set(leader, b"key", b"1")
    await in_sync(follower)
    await everybody_has_all(leader, 1)
    assert await b.get(follower, b"key") == b"1"


async def test_a_follower_that_may_not_log_in_is_not_in_sync(three: Three) -> None:
    a, b, _ = three
    follower = await b.open()
    await follower.follow(a.member, ADMIN_USER, "wrong")

    async def refused() -> bool:
        log = await raw(await a.open()).execute("ACL", "LOG")
        return bool(log)

    if a.kind == "memory":
        await asyncio.sleep(SHORT_S)
    else:
        await until(refused)
    assert not (await follower.replication()).in_sync
    await follow(follower, a)


async def test_follow_names_members_by_address_alone(three: Three) -> None:
    a, b, _ = three
    follower = await b.open()
    await follower.follow(replace(a.member, id="other"), ADMIN_USER, ADMIN_PASSWORD)
    assert (await in_sync(follower)).leader == a.member.address


async def test_users_made_for_it_say_who_follows_whom(three: Three) -> None:
    a, b, _ = three
    for lab in (a, b):
        administrator = await lab.open()
        await administrator.allow("helios-m-1", "secret", UserRole.REPLICATOR)
        await administrator.allow("helios-r-1", "copied", UserRole.FOLLOWER)
        await administrator.allow("helios-s-1", "routed", UserRole.ROUTER)
    leader, follower = await a.open("helios-m-1", "secret"), await b.open("helios-m-1", "secret")
    await follower.follow(a.member, "helios-r-1", "copied")
    await in_sync(follower)
    routed = await a.open("helios-s-1", "routed")
    assert await leader.round(1, LONG_S) == await routed.round(1, LONG_S) == 1
    await follower.detach()
    assert (await follower.promote()).leads
    b.crash()
    b.restart(detached=True)
    administrator = await b.open()
    await administrator.allow("helios-m-1", "secret", UserRole.REPLICATOR)
    assert (await (await b.open("helios-m-1", "secret")).promote()).history
    with pytest.raises(EngineError):
        await routed.detach()
    with pytest.raises(EngineError):
        await routed.promote()


async def test_a_follower_that_has_forgotten_its_login_follows_as_long_as_it_is_connected(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await follow(follower, a)
    await leader.keep_history()
    await follower.forget_login()
    await a.set(leader, b"after", b"1")
    await everybody_has_all(leader, 1)
    assert await b.get(follower, b"after") == b"1"


async def test_a_follower_that_has_forgotten_its_login_does_not_follow_a_leader_that_was_restarted(
    three: Three,
) -> None:
    a, b, _ = three
    follower = await b.open()
    await follow(follower, a)
    await follower.forget_login()
    a.crash()
    a.restart()
    leader = await a.open()
    await a.set(leader, b"after", b"1")
    assert await leader.round(1, SHORT_S) == 0
    assert not (await follower.replication()).in_sync
    await follow(follower, a)
    assert await b.get(follower, b"after") == b"1"


async def test_who_follows_as_a_user_that_is_ended_is_cut_off(three: Three) -> None:
    a, b, _ = three
    leader, follower = await a.open(), await b.open()
    await leader.allow("helios-r-1", "copied", UserRole.FOLLOWER)
    await follower.follow(a.member, "helios-r-1", "copied")
    await in_sync(follower)
    await leader.force_off("helios-r-1")

    async def cut_off() -> bool:
        return not (await follower.replication()).in_sync

    await until(cut_off)


async def test_a_server_says_how_many_databases_it_has(lab: Lab) -> None:
    assert await (await lab.open()).databases() >= 1
