"""Where processes listen for each other, and names that are not known yet."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from helios.runtime.reach import once_resolved


async def test_a_name_that_cannot_be_resolved_yet_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[Exception | list[Any]] = [
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        [],
    ]
    told: list[str] = []

    async def getaddrinfo(*_arguments: object, **_options: object) -> list[Any]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    monkeypatch.setattr("helios.runtime.reach._LOOK_S", 0.0)
    await once_resolved("db1.example.net", told.append)
    assert answers == []
    assert told == [
        "waiting for the name db1.example.net to be resolved: Temporary failure in name resolution",
    ]


async def test_a_name_that_nobody_knows_is_left_to_whoever_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    async def getaddrinfo(*_arguments: object, **_options: object) -> list[Any]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    told: list[str] = []
    await once_resolved("misspelt.example.net", told.append)
    assert told == []
