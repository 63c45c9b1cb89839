"""Loading settings: what is refused and how it is named, which source wins, and what was set explicitly."""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from helios.errors import SettingsError
from helios.model.ids import Address
from helios.model.notation import is_loopback
from helios.model.router_settings import RouterSettings
from helios.model.sections import AofFsync, ShardingSettings
from helios.model.setting_info import all_settings, format_value, sections
from helios.model.settings import Settings
from helios.runtime.settings import data_folder, load_settings, variable

CONFIGS = Path(__file__).parents[2] / "configs"


def load(text: str, tmp_path: Path, environ: Mapping[str, str] | None = None, **overrides: object) -> Settings:
    """The settings of a file with this text; in `overrides`, two underscores stand for the dot."""
    path = tmp_path / "helios.yaml"
    path.write_text(text, encoding="utf-8")
    return load_settings(path, environ or {}, {name.replace("__", "."): value for name, value in overrides.items()})


def mistakes(text: str, tmp_path: Path) -> list[tuple[int, str]]:
    """Line and message of everything that is wrong with a file."""
    with pytest.raises(SettingsError) as caught:
        load(text, tmp_path)
    found = []
    for line in str(caught.value).splitlines():
        match = re.fullmatch(r".*?helios\.yaml:(\d+)(?:, .*?:\d+)*: (.*)", line)
        assert match is not None, line
        found.append((int(match[1]), match[2]))
    return found


# What is refused, and how it is named.


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "sharding:\n  virtual_nodes: 0\n",
            2,
            "sharding.virtual_nodes is 0 but must be a whole number from 1 to 10000",
        ),
        ("sharding:\n  virtual_nodes: 150.5", 2, "sharding.virtual_nodes is 150.5 but must be a whole number"),
        ("sharding:\n  virtual_nodes: true", 2, "sharding.virtual_nodes is true but must be a whole number"),
        (
            "sharding:\n\n\n  migration_rate: fast",
            4,
            "sharding.migration_rate is fast but must be a whole number from 0",
        ),
        ("sharding: {enabled: maybe}", 1, "sharding.enabled is maybe but must be true or false"),
        ("sharding:\n  rebalance_interval: 1 fortnight", 2, "is '1 fortnight' but must be a duration from 1s to 30d"),
        ("sharding:\n  rebalance_interval: -1h", 2, "is -1h but must be a duration from 1s to 30d"),
        ("router:\n  hold_timeout: 6m", 2, "is 6m but must be a duration from 50ms to 5m"),
        ("router:\n  hold_timeout: .inf", 2, "is .inf but must be a duration"),
        ("router:\n  max_frame: 512m", 2, "router.max_frame is 512m but must be a size from 64kb to 1gb"),
        ("router:\n  max_frame: 2gb", 2, "router.max_frame is 2gb but must be a size from 64kb to 1gb"),
        ("atlas:\n  aof_fsync: sometimes", 2, "atlas.aof_fsync is sometimes but must be every, interval or no"),
        ("atlas:\n  data_dir: ''", 2, "atlas.data_dir is '' but must be a text that is not empty"),
        ("atlas:\n  data_dir:", 2, "atlas.data_dir has no value; it must be a text that is not empty"),
        ("gateway:\n  listen: localhost", 2, "gateway.listen is localhost but must be host:port"),
        ("gateway:\n  listen: localhost:70000", 2, "with a port from 1 to 65535"),
        ("network:\n  bind: 127.0.0.1:6379", 2, "must be an IP address or a host name, without a port"),
        ("logging:\n  level: [debug]", 2, "logging.level is a list but must be debug, info, warning or error"),
        ("logging:\n  level: {a: b}", 2, "logging.level is a section of its own but must be debug, info"),
        ("logging:\n  level: !word debug", 2, "logging.level has the tag !word"),
        ("atlas:\n  maxmemory: " + "9" * 200 + "x", 2, f"is {'9' * 59}… but must be a size of at least 0"),
    ],
)
def test_a_wrong_value_is_named_with_its_line_and_what_is_allowed(
    text: str, line: int, words: str, tmp_path: Path
) -> None:
    ((found_line, message),) = mistakes(text, tmp_path)
    assert found_line == line
    assert words in message


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            "sharding:\n  virtual_node: 1",
            2,
            "sharding.virtual_node is not a setting; did you mean sharding.virtual_nodes?",
        ),
        ("router:\n  hold: 1", 2, "did you mean router.hold_timeout?"),
        ("router:\n  migration_rate: 1", 2, "did you mean sharding.migration_rate?"),
        ("sharding:\n  xyzzy: 1", 2, "sharding.xyzzy is not a setting; sharding has enabled, virtual_nodes, "),
        (
            "a: 1\n",
            1,
            "a is not a section of the settings; the sections are sharding, replication, atlas, store, network, ",
        ),
        ("# two\n# lines\nshardings:\n  virtual_nodes: 1", 3, "did you mean sharding?"),
        ("virtual_nodes: 20", 1, "did you mean sharding.virtual_nodes?"),
        ("sharding: 5", 1, "sharding is a section: its settings (enabled, "),
        ("gateway:\n- listen", 2, "gateway is a section: its settings (listen)"),
        ("- sharding", 1, "must consist of sections: sharding, replication, atlas"),
        ("hello", 1, "must consist of sections"),
        ("? [sharding]\n: 1", 1, "a name is expected here"),
        ("sharding:\n  ? {a: b}\n  : 1", 2, "a name is expected here"),
    ],
)
def test_an_unknown_name_is_named_with_its_line_and_those_that_exist(
    text: str, line: int, words: str, tmp_path: Path
) -> None:
    ((found_line, message),) = mistakes(text, tmp_path)
    assert found_line == line
    assert words in message


def test_duplicates_are_mistakes(tmp_path: Path) -> None:
    text = "sharding:\n  enabled: true\n  enabled: true\natlas:\n  server: ''\nsharding:\n  virtual_nodes: 0\n"
    assert mistakes(text, tmp_path) == [
        (3, "sharding.enabled is already given in line 2"),
        (6, "sharding is already given in line 1"),
    ]


def test_all_mistakes_of_all_sources_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "helios.yaml"
    path.write_text("sharding:\n  virtual_nodes: no\nrouter:\n  workers: 0\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(path, {"HELIOS_LOGGING__LEVEL": "loud"}, {"gateway.listen": "nowhere"})
    assert [line.partition(": ")[0] for line in str(caught.value).splitlines()] == [
        f"{path}:2",
        f"{path}:4",
        "environment variable HELIOS_LOGGING__LEVEL",
        "command line",
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("sharding:\n  enabled: true\n bad: 1\n", 3),
        ("sharding:\n\tenabled: true\n", 2),
        ("sharding:\n  enabled: 'true\n", 3),
        ("sharding:\n  enabled: *unknown\n", 2),
        ("sharding:\n  enabled: true\n---\natlas:\n", 3),
        ("sharding:\n  enabled: true # \x07\n", 2),
    ],
)
def test_what_is_not_yaml_is_named_with_its_line(text: str, line: int, tmp_path: Path) -> None:
    ((found_line, message),) = mistakes(text, tmp_path)
    assert found_line == line
    assert "is not valid YAML" in message


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "none.yaml", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SettingsError, match=words) as caught:
            load_settings(path, {}, {})
        assert str(path) in str(caught.value)
    latin = tmp_path / "helios.yaml"
    latin.write_bytes(b"atlas:\n  server: caf\xe9\n")
    with pytest.raises(SettingsError, match=r"helios\.yaml:2: is not UTF-8 text"):
        load_settings(latin, {}, {})
    latin.write_text("[" * 2000)
    with pytest.raises(SettingsError, match="nested too deeply"):
        load_settings(latin, {}, {})


@given(st.text(alphabet="shardinge:_ \n-[]{}'\"&*!|>#?,x0\t\0é", max_size=60))
def test_no_text_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        assert load_settings(path, {}, {}) == Settings()
    except SettingsError as error:
        assert str(path) in str(error)


# Values that do not go together.


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("security:\n  tls_cert_file: a.pem", 2, "security.tls_cert_file and security.tls_key_file belong together"),
        ("atlas:\n  tls_key_file: a.pem", 2, "atlas.tls_cert_file and atlas.tls_key_file belong together"),
        ("atlas: {tls_key_file: k, tls_cert_file: c}", 1, "atlas.tls_cert_file needs atlas.tls_ca_file"),
        ("security:\n  tls_client_ca_file: a.pem", 2, "security.tls_client_ca_file means something with TLS only"),
        (
            "router:\n  hold_timeout: 800ms",
            2,
            "coordinator.fence_ack_timeout (1 s) must be less than router.hold_timeout",
        ),
    ],
)
def test_values_that_do_not_go_together_are_named_with_their_lines(
    text: str, line: int, words: str, tmp_path: Path
) -> None:
    ((found_line, message),) = mistakes(text, tmp_path)
    assert found_line == line
    assert words in message


def test_addresses_of_every_family(tmp_path: Path) -> None:
    assert load("gateway:\n  listen: 0.0.0.0:8443\n", tmp_path).gateway.listen == Address("0.0.0.0", 8443)
    assert load("network:\n  bind: '::1'\n", tmp_path).network.bind == "::1"


def test_a_conflict_names_every_place_it_comes_from(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        load("router:\n  hold_timeout: 2s\n", tmp_path, {"HELIOS_COORDINATOR__FENCE_ACK_TIMEOUT": "2s"})
    message = str(caught.value)
    assert "environment variable HELIOS_COORDINATOR__FENCE_ACK_TIMEOUT, " in message
    assert "helios.yaml:2: " in message


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("LOCALHOST", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.4", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


# Sources.


def test_flags_win_over_environment_over_file_over_defaults(tmp_path: Path) -> None:
    text = "sharding:\n  migration_rate: 1\n  virtual_nodes: 2\n  replication_factor: 3\n"
    environ = {"HELIOS_SHARDING__MIGRATION_RATE": "10", "HELIOS_SHARDING__VIRTUAL_NODES": "20"}
    sharding = load(text, tmp_path, environ, sharding__migration_rate=100).sharding
    assert sharding == ShardingSettings(migration_rate=100, virtual_nodes=20, replication_factor=3)


def test_flags_that_were_not_given_do_not_count(tmp_path: Path) -> None:
    settings = load("sharding:\n  migration_rate: 5\n", tmp_path, sharding__migration_rate=None, atlas__data_dir=None)
    assert settings.sharding.migration_rate == 5
    assert not settings.is_set("atlas.data_dir")


def test_a_value_that_is_overridden_must_be_right_all_the_same(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"helios\.yaml:2"):
        load("sharding:\n  migration_rate: x\n", tmp_path, sharding__migration_rate=5)


@pytest.mark.parametrize("name", all_settings())
def test_every_setting_can_be_given_by_its_variable(name: str) -> None:
    settings = load_settings(None, {variable(name): all_settings()[name].default.strip('"')}, {})
    assert settings == Settings()
    assert [other for other in all_settings() if settings.is_set(other)] == [name]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        (
            "HELIOS_SHARDING__MIGRATION_RATE",
            "fast",
            "sharding.migration_rate is fast but must be a whole number from 0",
        ),
        ("HELIOS_SHARDING__MIGRATION_RATE", "", "sharding.migration_rate is '' but must be"),
        ("HELIOS_SHARDING__MIGRATION_RATES", "1", "did you mean sharding.migration_rate?"),
        ("HELIOS_NOTHING__AT_ALL", "1", "nothing is not a section of the settings"),
        ("HELIOS_SHARDING__A__B", "1", "sharding.a__b is not a setting"),
        ("HELIOS_SHARDING__", "1", "sharding. is not a setting"),
        ("HELIOS_SHARDING_MIGRATION_RATE", "1", "write HELIOS_SHARDING__MIGRATION_RATE, with two underscores"),
    ],
)
def test_a_wrong_variable_is_named(key: str, value: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(None, {key: value}, {})
    assert str(caught.value).startswith(f"environment variable {key}: ")
    assert words in str(caught.value)


def test_other_variables_are_left_alone() -> None:
    environ = {"HELIOS_HOST": "x", "PATH": "/bin", "MY__THING": "1", "HELIOS": "sun"}
    assert load_settings(None, environ, {}) == Settings()


def test_words_of_yaml_are_read_as_this_project_means_them(tmp_path: Path) -> None:
    settings = load("atlas:\n  aof_fsync: no\n  data_dir: 0755\nsharding:\n  enabled: No\n", tmp_path)
    assert settings.atlas.aof_fsync is AofFsync.NO
    assert settings.atlas.data_dir == "0755"
    assert settings.sharding.enabled is False


@pytest.mark.parametrize(
    "text", ["", "# nothing\n", "sharding:\n  # all of it\n  # commented out\natlas: ~\n", "---\n"]
)
def test_an_empty_file_or_section_sets_nothing(text: str, tmp_path: Path) -> None:
    settings = load(text, tmp_path)
    assert settings == Settings()
    assert not any(settings.is_set(name) for name in all_settings())


# What was set explicitly.


@pytest.mark.parametrize("source", ["file", "environment", "flag"])
def test_what_was_set_is_told_even_if_it_is_the_default(source: str, tmp_path: Path) -> None:
    text = "sharding:\n  auto_rebalance: false\n" if source == "file" else ""
    environ = {"HELIOS_SHARDING__AUTO_REBALANCE": "false"} if source == "environment" else {}
    flag = False if source == "flag" else None
    settings = load(text, tmp_path, environ, sharding__auto_rebalance=flag)
    assert settings.is_set("sharding.auto_rebalance")
    assert not settings.is_set("sharding.enabled")
    assert settings.with_default("sharding.auto_rebalance", True) is settings


def test_another_default_holds_where_nothing_was_set(tmp_path: Path) -> None:
    settings = load("sharding:\n  migration_rate: 5\nrouter:\n  workers: 2\n", tmp_path)
    changed = settings.with_default("sharding.auto_rebalance", True).with_default("sharding.migration_rate", 9)
    assert changed.sharding == ShardingSettings(migration_rate=5, auto_rebalance=True)
    assert changed.router == RouterSettings(workers=2)
    assert changed.is_set("router.workers")
    assert not changed.is_set("router.hold_timeout")
    with pytest.raises(ValueError, match="virtual_nodes: 0 is not within its bounds"):
        settings.with_default("sharding.virtual_nodes", 0)


@given(st.data())
def test_whole_numbers_are_allowed_exactly_within_their_bounds(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from([name for name, info in all_settings().items() if "whole number" in info.allowed]))
    match = re.search(r"from (\d+) to (\d+)", all_settings()[name].allowed)
    assert match is not None
    lowest, highest = int(match[1]), int(match[2])
    value = data.draw(st.integers(lowest - 2, highest + 2) | st.sampled_from([lowest, highest]))
    environ = {variable(name): str(value)}
    if lowest <= value <= highest:
        section, _, field = name.partition(".")
        settings = load_settings(None, environ, {})
        assert getattr(getattr(settings, section), field) == value
        assert format_value(name, value) == str(value)
    else:
        with pytest.raises(SettingsError, match=f"from {lowest} to {highest}"):
            load_settings(None, environ, {})


@given(st.sampled_from(list(sections())), st.text(alphabet=string.printable, max_size=30))
def test_no_variable_breaks_the_reader(section: str, value: str) -> None:
    for name in all_settings():
        if name.startswith(f"{section}."):
            try:
                assert load_settings(None, {variable(name): value}, {}).is_set(name)
            except SettingsError as error:
                assert variable(name) in str(error)


def test_the_data_folder_is_absolute() -> None:
    assert data_folder(Settings()) == Path.cwd() / "helios-data"
    at_home = load_settings(None, {}, {"atlas.data_dir": "~/data"})
    assert data_folder(at_home) == Path.home() / "data"
