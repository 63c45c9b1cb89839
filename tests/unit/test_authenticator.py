"""Who a connection is, and how passwords are checked."""

from __future__ import annotations

import asyncio
import logging
import threading

import pytest
from tests.waiting import until

from helios.access.authenticator import OWNER, Authenticator
from helios.access.logins import Logins
from helios.access.publishing import following_users, publish_users, stored_users
from helios.access.rights import Nobody
from helios.errors import Unavailable, WrongPassword
from helios.model.users import Role, User
from helios.stores.memory import MemoryStore

ADMIN = User("alice", Role.ADMIN, "hash of a")
READER = User("bob", Role.READ_ONLY, "hash of b")
ANYBODY = User("default", Role.READ_ONLY)


class Passwords:
    """Stands for the slow comparison; remembers how often and how many at once."""

    def __init__(self) -> None:
        self.count = self.now = self.most = 0
        self._lock = threading.Lock()
        self.slept: list[float] = []

    def check(self, password: bytes, stored: str) -> bool:
        with self._lock:
            self.count += 1
            self.now += 1
            self.most = max(self.most, self.now)
        right = stored == f"hash of {password.decode()}"
        with self._lock:
            self.now -= 1
        return right

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def logins(self) -> Logins:
        return Logins(self.sleep, self.check)


def authenticator(*users: User, exposed: bool = False, passwords: Passwords | None = None) -> Authenticator:
    made = Authenticator(exposed=exposed, logins=(passwords or Passwords()).logins())
    made.apply(users)
    return made


async def test_who_has_not_logged_in() -> None:
    assert authenticator().newcomer() is OWNER
    assert not authenticator().guarded
    assert isinstance(authenticator(ADMIN).newcomer().rights, Nobody)
    anybody = authenticator(ADMIN, ANYBODY).newcomer()
    assert (anybody.name, anybody.user) == ("default", ANYBODY)
    # Where other machines connect, nobody is let in without a password.
    for exposed in (authenticator(exposed=True), authenticator(ANYBODY, exposed=True)):
        assert exposed.guarded
        assert isinstance(exposed.newcomer().rights, Nobody)
    with pytest.raises(WrongPassword):
        await authenticator(ANYBODY, exposed=True).login("default", b"", "somewhere")
    refusal = authenticator(exposed=True).newcomer().rights
    assert refusal is not None
    assert "no users are configured" in str(refusal.refusal([b"PING"]))


async def test_without_users_the_default_user_takes_any_password() -> None:
    assert await authenticator().login("default", b"whatever", "x") is OWNER
    with pytest.raises(WrongPassword):
        await authenticator().login("bob", b"whatever", "x")
    with pytest.raises(WrongPassword):
        await authenticator(exposed=True).login("default", b"whatever", "x")


async def test_logins_are_by_name_and_password() -> None:
    here = authenticator(ADMIN, READER, ANYBODY)
    alice = await here.login("alice", b"a", "x")
    assert (alice.name, alice.rights) == ("alice", None)
    bob = await here.login("bob", b"b", "x")
    assert bob.rights is not None
    assert bob.rights.user == READER
    assert (await here.login("default", b"anything", "x")).user == ANYBODY
    for name, password in (("alice", b"b"), ("carol", b"a"), ("", b"")):
        with pytest.raises(WrongPassword):
            await here.login(name, password, "x")


async def test_a_password_that_was_right_is_compared_once(caplog: pytest.LogCaptureFixture) -> None:
    passwords = Passwords()
    here = authenticator(ADMIN, passwords=passwords)
    for _ in range(5):
        await here.login("alice", b"a", "x")
    assert passwords.count == 1
    with pytest.raises(WrongPassword), caplog.at_level(logging.WARNING):
        await here.login("alice", b"hunter2", "1.2.3.4")
    assert passwords.count == 2
    assert "user=alice from=1.2.3.4" in caplog.text
    assert "hunter2" not in caplog.text
    here.apply([User("alice", Role.ADMIN, "hash of new")])
    with pytest.raises(WrongPassword):
        await here.login("alice", b"a", "x")
    await here.login("alice", b"new", "x")


async def test_failures_slow_their_source_down_and_no_other() -> None:
    passwords = Passwords()
    here = authenticator(ADMIN, passwords=passwords)
    for _ in range(7):
        with pytest.raises(WrongPassword):
            await here.login("alice", b"x", "far")
    assert passwords.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0]
    await here.login("alice", b"a", "near")
    assert len(passwords.slept) == 6
    assert here.logins.failed == 7


async def test_comparisons_at_once_and_waiting_are_bounded() -> None:
    passwords = Passwords()
    here = authenticator(ADMIN, passwords=passwords)
    tries = [here.login("alice", b"x", f"{n % 40}") for n in range(300)]
    ended = await asyncio.gather(*tries, return_exceptions=True)
    kinds = [type(each) for each in ended]
    assert kinds.count(Unavailable) == 300 - 256
    assert kinds.count(WrongPassword) == 256
    assert passwords.most <= 2
    one = [here.login("alice", b"x", "one") for _ in range(20)]
    ended = await asyncio.gather(*one, return_exceptions=True)
    assert [type(each) for each in ended].count(Unavailable) == 4


async def test_what_becomes_of_connections_when_users_change() -> None:
    here = authenticator(ADMIN, READER)
    alice, bob = await here.login("alice", b"a", "x"), await here.login("bob", b"b", "x")
    nobody = here.newcomer()
    here.apply([ADMIN, User("bob", Role.READ_WRITE, READER.password_hash)])
    after = here.still(bob)
    assert after is not None
    assert after.rights is not None
    assert after.rights.user.role is Role.READ_WRITE
    assert here.still(alice) == alice
    assert here.still(after) is not None
    here.apply([READER])
    assert here.still(after) is None  # may do less
    assert here.still(alice) is None  # is gone
    now = here.still(nobody)
    assert now is not None
    assert isinstance(now.rights, Nobody)
    here.apply([])
    assert here.still(bob) is OWNER
    assert here.still(nobody) is OWNER
    here.apply([READER])
    assert here.still(OWNER) is None  # could do everything


async def test_all_processes_follow_the_store() -> None:
    store = MemoryStore()
    assert await stored_users(store) is None
    assert await publish_users(store, [ADMIN])
    assert not await publish_users(store, [ADMIN])
    here = authenticator()
    changes: list[int] = []
    here.listen(lambda: changes.append(len(here.users)))
    async with following_users(store, here):
        assert set(here.users) == {"alice"}
        await publish_users(store, [ADMIN, READER])
        await until(lambda: "bob" in here.users)
        await publish_users(store, [])
        await until(lambda: not here.users)
    assert changes == [1, 2, 0]


async def test_those_who_fail_keep_no_right_first_login_out() -> None:
    passwords = Passwords()
    here = authenticator(ADMIN, READER, passwords=passwords)
    guesses = [asyncio.create_task(here.login("alice", b"x", "here")) for _ in range(24)]
    made_up = [asyncio.create_task(here.login(f"user-{n}", b"x", "here")) for n in range(200)]
    alice = await here.login("alice", b"a", "here", first=True)
    bob = await here.login("bob", b"b", "here", first=True)
    assert (alice.name, bob.name) == ("alice", "bob")
    ended = await asyncio.gather(*guesses, *made_up, return_exceptions=True)
    assert all(isinstance(each, (WrongPassword, Unavailable)) for each in ended)


async def test_one_users_guessers_at_many_places_keep_no_other_user_out(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, compared = threading.Event(), []

    def check(password: bytes, stored: str) -> bool:
        go_on.wait(20)
        compared.append(stored)
        return stored == f"hash of {password.decode()}"

    here = Authenticator(logins=Logins(Passwords().sleep, check))
    here.apply([ADMIN, READER])
    monkeypatch.setattr(here.logins, "_row_of", {"alice": 0, "bob": 1}.__getitem__)
    guesses = [asyncio.create_task(here.login("alice", b"x", f"from-{n % 20}", first=True)) for n in range(600)]
    await asyncio.sleep(0)
    bob = asyncio.create_task(here.login("bob", b"b", "home", first=True))
    await until(lambda: len(here.logins._turns._waiting) == 2)
    go_on.set()
    assert (await bob).name == "bob"
    assert compared.index("hash of b") <= 4, "others have had a turn each, not all that wait"
    ended = await asyncio.gather(*guesses, return_exceptions=True)
    assert {type(each) for each in ended} == {WrongPassword, Unavailable}
    assert not any(here.logins._waiting_for.values())


async def test_a_login_that_is_given_up_leaves_its_place_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    go_on = threading.Event()

    def check(password: bytes, stored: str) -> bool:
        return go_on.wait(20)

    logins = Logins(check=check)
    monkeypatch.setattr(logins, "_row_of", lambda name: int(name.rpartition("-")[2]))
    tasks = [asyncio.create_task(logins.right(f"user-{n}", b"x", "hash", f"from-{n}")) for n in range(6)]
    await until(lambda: len(logins._turns._waiting) == 4)
    for task in tasks[:4]:
        task.cancel()
    await asyncio.sleep(0)
    tasks[4].cancel()
    go_on.set()
    assert await tasks[5]
    await asyncio.gather(*tasks, return_exceptions=True)
    assert logins._turns._free == 2


async def test_names_that_do_not_exist_wait_as_others_do() -> None:
    passwords = Passwords()
    here = authenticator(ADMIN, passwords=passwords)
    for name in ("alice", "nobody"):
        passwords.slept.clear()
        for _ in range(4):
            with pytest.raises(WrongPassword):
                await here.login(name, b"x", f"from-{name}")
        assert passwords.slept == [0.1, 0.2, 0.4]
