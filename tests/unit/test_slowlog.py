"""The slow log: what it keeps of commands, and of the worst moments."""

from __future__ import annotations

import logging
import resource

import pytest

from helios.resp.wire import encode_command
from helios.router.stats.slowlog import SlowLog, shortened
from helios.runtime.files import clients_that_fit


def test_arguments_are_kept_as_far_as_they_are_short_and_few() -> None:
    assert shortened(encode_command([b"SET", b"k", b""])) == (b"SET", b"k", b"")
    assert shortened(encode_command([b"SET", b"k", b"v" * 129])) == (b"SET", b"k", b"v" * 128 + b"... (1 more bytes)")
    many = [b"%d" % number for number in range(32)]
    assert shortened(encode_command(many)) == tuple(many)
    more = shortened(encode_command([*many, b"one"]))
    assert more == (*many[:31], b"... (2 more arguments)")


def test_the_log_keeps_the_last_ones_and_gives_them_last_first() -> None:
    log = SlowLog(0.01, 3)
    for number in range(5):
        log.add(100.0 + number, 0.02, encode_command([b"GET", b"%d" % number]), "a:1", b"")
    assert [(slow.id, slow.arguments[1]) for slow in log.last(-1)] == [(4, b"4"), (3, b"3"), (2, b"2")]
    assert [slow.id for slow in log.last(1)] == [4]
    assert log.total == 5
    log.configure(0.5, 1)
    assert [slow.id for slow in log.last(10)] == [4]


def test_of_each_second_the_worst_moment_is_kept() -> None:
    log = SlowLog(0.01, 10)
    for at, took_s in ((100.1, 0.02), (100.2, 0.05), (100.3, 0.03), (101.0, 0.02), (102.0, 0.001)):
        log.note("held", at, took_s)
    assert [(int(moment.at), moment.took_s) for moment in log.moments["held"]] == [(100, 0.05), (101, 0.02)]
    assert log.worst_s == {"held": 0.05}
    assert log.forget_moments(["nothing"]) == 0
    assert log.forget_moments([]) == 1
    assert not log.moments


def test_a_log_that_is_off_notes_nothing() -> None:
    log = SlowLog(0.0, 10)
    log.note("held", 1.0, 100.0)
    assert not log.moments


@pytest.fixture
def file_limit() -> object:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_limit_of_open_files_is_raised_for_clients(file_limit: tuple[int, int]) -> None:
    _, hard = file_limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (300, hard))
    assert clients_that_fit(500) == 500
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard


def test_where_it_cannot_be_raised_so_far_that_is_said(
    file_limit: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    _, hard = file_limit
    assert hard != resource.RLIM_INFINITY, "a test machine has some limit"
    with caplog.at_level(logging.WARNING):
        assert clients_that_fit(hard) == hard - 100
    assert f"`ulimit -n {hard + 100}`" in caplog.text
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
