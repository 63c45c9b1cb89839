"""Servers and stores for the suites of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.engine_lab import KINDS, REAL, Lab, Three, Two, open_lab
from tests.etcd_servers import started_etcd
from tests.store_homes import HOMES, KEPT_COMMITS, Home, JumpingClock, Open, Site

from helios.engines.memory import MemoryServer
from helios.model.ids import Address
from helios.ports.store import Store


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say which servers the engine suite runs over on this machine."""
    missing = "" if "redis" in KINDS else " (no redis-server >= 7 on PATH)"
    terminalreporter.write_line(f"engines under test: {', '.join(KINDS)}{missing}")
    without = "" if "etcd" in HOMES else " (no etcd on PATH)"
    terminalreporter.write_line(f"stores under test: {', '.join(HOMES)}{without}")


@pytest.fixture(params=KINDS)
async def lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """One server of each kind."""
    async with open_lab(request.param, tmp_path / "server") as running:
        yield running


@pytest.fixture(params=REAL)
async def real_lab(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Lab]:
    """One server process of each product."""
    async with open_lab(request.param, tmp_path / "server") as running:
        yield running


@pytest.fixture(params=KINDS)
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Two]:
    """Two servers of each kind."""
    async with open_lab(request.param, tmp_path / "first") as a, open_lab(request.param, tmp_path / "second") as b:
        yield a, b


@pytest.fixture(params=KINDS)
async def three(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Three]:
    """Three servers of each kind, which can follow each other."""
    servers: dict[Address, MemoryServer] = {}
    async with (
        open_lab(request.param, tmp_path / "a", servers) as a,
        open_lab(request.param, tmp_path / "b", servers) as b,
        open_lab(request.param, tmp_path / "c", servers) as c,
    ):
        yield a, b, c


@pytest.fixture(params=REAL)
async def real_two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Two]:
    """Two server processes of each product."""
    async with open_lab(request.param, tmp_path / "first") as a, open_lab(request.param, tmp_path / "second") as b:
        yield a, b


@pytest.fixture(scope="session")
def etcd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of an etcd that runs for as long as the tests do."""
    with started_etcd(tmp_path_factory.mktemp("etcd")) as address:
        yield address


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store of SQLite is to be."""
    return tmp_path / "store.db"


@pytest.fixture(params=HOMES)
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """Each home of the store."""
    return HOMES[request.param](Site(tmp_path, KEPT_COMMITS, request.getfixturevalue))


@pytest.fixture
def clock(home: Home) -> JumpingClock:
    """The clock that the leases of the home go by."""
    return home.clock


@pytest.fixture
async def handle(home: Home) -> AsyncIterator[Open]:
    """Opens handles of one store; they are closed after the test."""
    opened: list[Store] = []

    async def open_one() -> Store:
        store = await home.open()
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        await store.close()


@pytest.fixture
async def store(handle: Open) -> Store:
    """One handle."""
    return await handle()
