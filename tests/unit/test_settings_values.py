"""The values of settings, how they are written, and the files in configs/ that list them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.errors import SettingsError
from helios.model.codec import decode, encode
from helios.model.ids import Address
from helios.model.notation import (
    EtcdUrl,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
    parse_store_url,
    split_etcd_url,
)
from helios.model.router_settings import RouterSettings
from helios.model.sections import AofFsync, ReplicationSettings, ShardingSettings
from helios.model.setting_info import all_settings, nearest
from helios.model.settings import ClusterSettings, Settings
from helios.runtime.settings import load_settings

CONFIGS = Path(__file__).parents[2] / "configs"


# The files that are shipped.


def commented_settings(path: Path) -> dict[str, str]:
    """Each setting of a file with the comment right above it."""
    found, section, comment = {}, "", ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(\w+):$", line):
            section, comment = match[1], ""
        elif match := re.match(r"  (?:# (?=auto_rebalance: ))?(\w+): \S", line):
            found[f"{section}.{match[1]}"], comment = comment, ""
        elif match := re.match(r"\s*# ?(.*)", line):
            comment = f"{comment} {match[1]}".strip()
        else:
            comment = ""
    return found


def test_default_yaml_is_what_holds_without_a_file() -> None:
    settings = load_settings(CONFIGS / "default.yaml", {}, {})
    assert settings == Settings()
    # What differs between `helios up` and a node by itself stays as it is without the file.
    assert {name for name in all_settings() if not settings.is_set(name)} == {"sharding.auto_rebalance"}


def test_default_yaml_lists_every_setting_and_nothing_else_in_the_order_of_the_code() -> None:
    assert list(commented_settings(CONFIGS / "default.yaml")) == list(all_settings())


@pytest.mark.parametrize("name", all_settings())
def test_default_yaml_explains_each_setting_with_bounds_and_default(name: str) -> None:
    info = all_settings()[name]
    comment = commented_settings(CONFIGS / "default.yaml")[name]
    assert re.search(rf"\b[Dd]efault {re.escape(info.default)}(?:\.|$)", comment), comment
    for bounds in re.findall(r"(?:from \S+ to [^\s)]+|of at least \S+)", info.allowed):
        assert bounds.lower() in comment.lower()
    if info.unit not in ("", "duration", "size"):
        assert info.unit in comment
    if name in ("atlas.aof_fsync", "logging.level", "logging.format"):
        assert info.allowed in comment


def test_sharded_cluster_yaml_is_an_example_for_keeps() -> None:
    settings = load_settings(CONFIGS / "sharded-cluster.yaml", {}, {})
    assert settings.sharding == ShardingSettings(auto_rebalance=True)
    assert settings.atlas.aof_fsync is AofFsync.EVERY
    assert settings.router.max_frame == 64 << 20
    assert settings.is_set("sharding.auto_rebalance")


@pytest.mark.parametrize("name", all_settings())
def test_every_setting_says_what_it_is(name: str) -> None:
    info = all_settings()[name]
    assert len(info.description) > 20
    assert info.allowed
    assert "Undefined" not in info.default


# The values themselves.


def test_values_are_frozen_and_their_names_checked() -> None:
    with pytest.raises(AttributeError, match="settings do not change"):
        Settings().sharding.virtual_nodes = 3  # type: ignore[misc]
    with pytest.raises(ValueError, match="virtual_node: there is no such setting"):
        ShardingSettings.of({"virtual_node": 3})


def test_settings_survive_the_store() -> None:
    settings = Settings(router=RouterSettings(max_frame=1 << 20), sharding=ShardingSettings(rebalance_interval=90.5))
    assert decode(Settings, encode(settings)) == settings
    assert decode(ClusterSettings, encode(settings.cluster)) == settings.cluster
    assert settings.cluster.sharding.rebalance_interval == 90.5


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("500ms", 0.5), ("30s", 30), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("7d", 604800), ("2", 2), ("0.5", 0.5)],
)
def test_durations(written: str, seconds: float) -> None:
    assert parse_duration(written) == seconds


@pytest.mark.parametrize("written", ["", "h", "1w", "1 h", "-1s", "1e3", "1.s", "1s!", "nan", True, None, "1h\n2"])
def test_what_is_no_duration(written: object) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(written)


@given(st.integers(0, 10**10))
def test_a_duration_is_written_so_that_it_is_read_again(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == milliseconds / 1000


@pytest.mark.parametrize(
    ("written", "size"), [("0", 0), ("64kb", 65536), ("512MB", 512 << 20), ("2 gb", 2 << 30), ("7b", 7), ("1000", 1000)]
)
def test_sizes(written: str, size: int) -> None:
    assert parse_size(written) == size


@pytest.mark.parametrize("written", ["", "1m", "1.5gb", "-1", "gb", "1tb", 1.5, True, None])
def test_what_is_no_size(written: object) -> None:
    with pytest.raises(ValueError, match="is not a size"):
        parse_size(written)


@given(st.integers(0, 1 << 45))
def test_a_size_is_written_so_that_it_is_read_again(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("name", "question"),
    [
        ("sharding.migration_rat", "did you mean sharding.migration_rate? "),
        ("shardin.migration_rat", "did you mean sharding.migration_rate? "),
        ("router.migration_rate", "did you mean sharding.migration_rate? "),
        ("migration_rate", "did you mean sharding.migration_rate? "),
        ("shardings", "did you mean sharding? "),
        ("nothing.like_it", ""),
    ],
)
def test_the_nearest_setting_is_asked_after(name: str, question: str) -> None:
    assert nearest(name) == question


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("", ""),
        ("agree.db", "agree.db"),
        ("/var/lib/h.db", "/var/lib/h.db"),
        ("sqlite:///var/lib/h.db", "/var/lib/h.db"),
        ("etcd://10.0.0.1:2379,10.0.0.2:2379/prod/eu", "etcd://10.0.0.1:2379,10.0.0.2:2379/prod/eu"),
        ("etcds://me:p%40ss@h:2379/prod", "etcds://me:p%40ss@h:2379/prod"),
    ],
)
def test_a_store_is_named_by_a_path_or_a_url(written: str, path: str) -> None:
    assert parse_store_url(written) == path
    assert load_settings(None, {"HELIOS_STORE__URL": written}, {}).store.url == path


@pytest.mark.parametrize(
    "written",
    [
        "etcds://host",
        "etcd://10.0.0.1:2379",
        "etcd://10.0.0.1/prod",
        "etcd:///prod",
        "sqlite://",
        "sqlite:///",
        "ftp://host/x",
    ],
)
def test_a_place_that_no_store_can_be_in_is_refused_with_what_can(written: str) -> None:
    with pytest.raises(
        SettingsError, match=r"store\.url is .* but must be .*, etcd://HOST:PORT,\.\.\./PREFIX, etcds://, or empty"
    ):
        load_settings(None, {}, {"store.url": written})


def test_a_password_in_a_url_that_cannot_be_used_is_not_repeated() -> None:
    with pytest.raises(SettingsError, match=r"store\.url is etcd://me:\*\*\*@host but must be") as refused:
        load_settings(None, {}, {"store.url": "etcd://me:secret@host"})
    assert "secret" not in str(refused.value)
    url = split_etcd_url("etcds://me:p%40:s/s@[::1]:2379,h:1/prod")
    assert url == EtcdUrl((Address("::1", 2379), Address("h", 1)), "prod", "me", "p@:s/s", tls=True)


@pytest.mark.parametrize(("factor", "least"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 3)])
def test_a_shard_shrinks_to_a_majority_of_its_factor_at_least(factor: int, least: int) -> None:
    assert ReplicationSettings().least_members(factor) == least
    assert ReplicationSettings(min_members=2).least_members(factor) == min(2, factor)
