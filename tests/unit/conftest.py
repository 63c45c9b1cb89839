"""The REST interface over a fake cluster, for the tests of this folder."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from tests.fake_gateway import Gateway


@pytest.fixture(scope="module")
def built() -> Gateway:
    return Gateway()


@pytest.fixture
async def gateway(built: Gateway) -> AsyncIterator[Gateway]:
    built.reset()
    async with built.http:
        yield built
