"""What a LocalCluster hands to the processes that it starts."""

from __future__ import annotations

import pytest

from helios.errors import InvalidInput
from helios.local import LocalCluster, _environment, _written
from helios.model.passwords import hashed
from helios.runtime.settings import load_settings


def test_settings_arrive_as_they_were_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HELIOS_ROUTER__WORKERS", "7")
    monkeypatch.setenv("HELIOS_PORT", "7000")
    users = {"ada": {"role": "admin", "password_hash": hashed(b"secret", bytes(16))}}
    given = {"sharding.auto_rebalance": False, "router.hold_timeout": "2s", "security.users": users}

    environment = _environment({name: _written(value) for name, value in given.items()})

    assert environment["HELIOS_PORT"] == "7000"  # no setting
    settings = load_settings(None, environment, {})
    assert settings.router.workers == 1  # what the environment has for other clusters does not count
    assert (settings.sharding.auto_rebalance, settings.router.hold_timeout) == (False, 2.0)
    assert [user.name for user in settings.security.users] == ["ada"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("migration_rate", "'migration_rate' is not a setting"),
        ("sharding.speed", "'sharding.speed' is not a setting"),
        ("atlas.data_dir", "atlas.data_dir cannot be set"),
    ],
)
def test_what_would_have_no_effect_is_refused(name: str, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        LocalCluster(settings={name: "5"})
