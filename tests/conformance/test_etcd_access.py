"""How etcd is reached: addresses, TLS, users, and what is said where it cannot be."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.certificates import Authority
from tests.etcd_servers import EtcdTls, add_user, etcd_servers, has_etcd, started_etcd, with_users
from tests.ports import free_ports

from helios.errors import StartError, StoreError
from helios.model.sections import StoreSettings
from helios.model.setting_info import format_value
from helios.model.settings import Settings
from helios.node.files import DataFolder
from helios.ports.store import Event, Put, Store
from helios.runtime.backends import locate
from helios.runtime.handover import hand_over, take_over
from helios.stores.etcd import EtcdStore
from helios.stores.etcd_gateway import Access, too_old

pytestmark = pytest.mark.skipif(not has_etcd(), reason="no etcd on PATH")


async def opened(folder: Path, **store: str) -> Store:
    return await locate(Settings(store=StoreSettings(**store)), DataFolder(folder)).open()


async def works(store: Store) -> None:
    before = (await store.list("")).revision
    version = await store.commit([Put("/a", b"1")])
    assert await anext(store.watch("", before)) == (Event("/a", b"1", version),)
    await store.close()


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[str]:
    """host:port of an etcd that lets in helios, with a password that is odd in a URL, below /prod/ alone."""
    with started_etcd(tmp_path / "etcd") as address:
        with_users(address, {"helios": "p@ss:w/rd"}, "/prod/")
        yield address.removeprefix("http://")


async def test_user_and_password_come_by_url_setting_or_file(locked: str, tmp_path: Path) -> None:
    await works(await opened(tmp_path, url=f"etcd://helios:p%40ss%3Aw%2Frd@{locked}/prod"))
    await works(await opened(tmp_path, url=f"etcd://{locked}/prod", user="helios", password="p@ss:w/rd"))
    file = tmp_path / "password"
    file.write_text("p@ss:w/rd\n")
    await works(await opened(tmp_path, url=f"etcd://helios@{locked}/prod", password_file=str(file)))
    with pytest.raises(StartError, match=r"store\.password_file"):
        await opened(tmp_path, url=f"etcd://helios@{locked}/prod", password_file=str(tmp_path / "none"))


async def test_what_etcd_does_not_allow_is_said_with_what_to_do(locked: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no user 'helios' with this password: see store\.user and store\.password"):
        await opened(tmp_path, url=f"etcd://helios:wrong@{locked}/prod")
    with pytest.raises(StoreError, match=r"it wants a login: set store\.user and store\.password"):
        await opened(tmp_path, url=f"etcd://{locked}/prod")
    with pytest.raises(StoreError, match=r"the user 'helios' may not read and write this prefix") as refused:
        await opened(tmp_path, url=f"etcd://helios:p%40ss%3Aw%2Frd@{locked}/other")
    assert "w/rd" not in str(refused.value)


async def test_a_login_is_renewed_when_etcd_has_forgotten_it(tmp_path: Path) -> None:
    with etcd_servers(tmp_path) as servers:
        with_users(servers.addresses[0], {"helios": "secret"}, "/prod/")
        store = await EtcdStore.open(Access(tuple(servers.addresses), "helios", "secret"), "prod")
        version = await store.commit([Put("/a", b"1")])
        servers.kill(0)
        servers.start(0)
        servers.await_health([0])
        assert await anext(store.watch("", version - 1)) == (Event("/a", b"1", version),)
        # Users that change make all tokens of before too old.
        add_user(servers.addresses[0], "other")
        await store.commit([Put("/a", b"2")])
        await store.close()


@pytest.mark.parametrize("clients", [False, True])
async def test_tls_by_an_authority_of_ones_own(tmp_path: Path, clients: bool) -> None:
    ca, stranger = Authority(tmp_path), Authority(tmp_path, "stranger")
    cert, key = ca.issue("etcd")
    mine, my_key = ca.issue("helios")
    with etcd_servers(tmp_path, tls=EtcdTls(ca.path, cert, key, clients)) as servers:
        place = servers.addresses[0].removeprefix("https://")
        shown = {"tls_cert_file": str(mine), "tls_key_file": str(my_key)} if clients else {}
        await works(await opened(tmp_path, url=f"etcds://{place}/prod", tls_ca_file=str(ca.path), **shown))
        await works(await opened(tmp_path, url=f"etcd://{place}/prod", tls_ca_file=str(ca.path), **shown))
        with pytest.raises(StoreError, match=r"CERTIFICATE_VERIFY_FAILED.*: name who signed .* by store\.tls_ca_file"):
            await opened(tmp_path, url=f"etcds://{place}/prod", tls_ca_file=str(stranger.path), **shown)
        with pytest.raises(StoreError, match=r"if it wants TLS, write etcds://|HTTP 400"):
            await opened(tmp_path, url=f"etcd://{place}/prod")
        if clients:
            with pytest.raises(StoreError, match=r"if it asks for a certificate, name one by store\.tls_cert_file"):
                await opened(tmp_path, url=f"etcds://{place}/prod", tls_ca_file=str(ca.path))
    with pytest.raises(StartError, match="the files of TLS to etcd cannot be used"):
        await opened(tmp_path, url=f"etcds://{place}/prod", tls_ca_file=str(tmp_path / "none.pem"))


async def test_an_etcd_without_tls_and_one_without_users_are_told(etcd: str, tmp_path: Path) -> None:
    place = etcd.removeprefix("http://")
    with pytest.raises(StoreError, match=r"no connection: .*: if it speaks no TLS, write etcd://"):
        await opened(tmp_path, url=f"etcds://{place}/prod")
    with pytest.raises(StoreError, match=r"it knows no users: leave store\.user out"):
        await opened(tmp_path, url=f"etcd://helios:secret@{place}/prod")


async def test_no_quorum_and_nobody_there_are_told_apart(tmp_path: Path) -> None:
    with etcd_servers(tmp_path, 3) as servers:
        places = ",".join(address.removeprefix("http://") for address in servers.addresses)
        store = await opened(tmp_path, url=f"etcd://{places}/prod")
        await store.commit([Put("/a", b"1")])
        servers.kill(0)
        found = await store.get("/a")
        assert found is not None
        servers.kill(1)
        with pytest.raises(StoreError, match=r"see whether more than half of its members run|fewer than half"):
            await store.get("/a")
        servers.kill(2)
        with pytest.raises(StoreError, match="no connection: "):
            await store.get("/a")
        for number in range(3):
            servers.start(number)
        servers.await_health(range(3))
        assert await store.get("/a") == found
        await store.close()


async def test_a_lease_lives_on_while_the_endpoint_in_use_is_frozen(tmp_path: Path) -> None:
    """What may be asked twice is asked elsewhere in time."""
    with etcd_servers(tmp_path, 3) as servers:
        store = await EtcdStore.open(Access(tuple(servers.addresses)), "prod")
        lease = await store.grant(10.0)
        await store.commit([Put("/a", b"1", lease)])
        servers.signal(0, signal.SIGSTOP)
        began = asyncio.get_running_loop().time()
        await store.keep_alive(lease)
        assert asyncio.get_running_loop().time() - began < 10.0
        assert await store.get("/a") is not None
        servers.signal(0, signal.SIGCONT)
        await store.close()


@asynccontextmanager
async def answering(*answers: tuple[int, object]) -> AsyncIterator[str]:
    """The address of a server that gives these answers, each to one request."""
    left = list(answers)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        status, found = left.pop(0)
        body = json.dumps(found).encode()
        head = b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (status, len(body))
        writer.write(head + body)
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    assert not left


async def test_an_etcd_that_is_too_old_is_refused() -> None:
    async with answering((200, {"etcdserver": "3.5.5", "etcdcluster": "3.5.0"})) as address:
        with pytest.raises(
            StoreError, match=r"3\.5\.5, which is too old to be safe: Helios needs 3\.4\.22, 3\.5\.6 or"
        ):
            await EtcdStore.open(Access((address,)), "x")


async def test_a_read_that_waited_for_a_new_leader_is_asked_again() -> None:
    changed = (503, {"error": "etcdserver: leader changed", "code": 14, "message": "etcdserver: leader changed"})
    found = {"kvs": [{"key": "L3gvYQ==", "value": "MQ==", "mod_revision": "7"}]}
    opening: list[tuple[int, object]] = [(200, {"etcdserver": "3.5.6"}), (200, {})]
    async with answering(*opening, changed, (200, found), changed, changed) as address:
        store = await EtcdStore.open(Access((address,)), "x")
        entry = await store.get("/a")
        assert entry is not None and entry.value == b"1" and entry.version == 7
        with pytest.raises(StoreError, match="leader changed"):
            await store.get("/a")
        await store.close()


@pytest.mark.parametrize(
    ("version", "old"),
    [("3.3.27", True), ("3.4.21", True), ("3.4.22", False), ("3.5.5", True), ("3.5.6", False), ("3.6.0-rc.1", False)],
)
def test_versions_that_are_too_old(version: str, old: bool) -> None:
    assert too_old(version) is old


def test_passwords_are_handed_on_and_shown_to_nobody(tmp_path: Path) -> None:
    settings = Settings(store=StoreSettings(url="etcd://me:hidden@h:1/p", password="hidden", tls_ca_file="ca.pem"))
    assert format_value("store.url", settings.store.url) == "etcd://me:***@h:1/p"
    assert format_value("store.password", settings.store.password) == "not shown"
    location = locate(settings, DataFolder(tmp_path))
    assert "hidden" not in f"{location} {location!r} {settings.store.password and ''}"
    handed = tmp_path / "settings.json"
    hand_over(settings, handed)
    assert handed.stat().st_mode & 0o077 == 0
    assert take_over(handed).settings.store.url == settings.store.url
    assert take_over(handed).settings.store.tls_ca_file == str(Path("ca.pem").absolute())


def nobody() -> str:
    return f"127.0.0.1:{free_ports(1)}"


async def test_an_etcd_that_is_not_there_is_named(tmp_path: Path) -> None:
    first, second = nobody(), nobody()
    location = locate(Settings(store=StoreSettings(url=f"etcd://{first},{second}/prod")), DataFolder(tmp_path))
    with pytest.raises(StoreError, match=f"{first}: .*{second}: "):
        location.exists()


def test_whether_there_is_a_cluster(etcd: str, tmp_path: Path) -> None:
    place = etcd.removeprefix("http://")
    location = locate(Settings(store=StoreSettings(url=f"etcd://{place}/exists-{id(tmp_path)}")), DataFolder(tmp_path))
    assert not location.exists()

    async def write() -> None:
        store = await location.open()
        await store.commit([Put("/a", b"1")])
        await store.close()

    asyncio.run(write())
    assert location.exists()
