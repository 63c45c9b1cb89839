"""Times in buckets: each time falls under the least bound above it, and the bounds are a quarter of a power apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from helios.admin.router_views import LatencyView
from helios.api.router_metrics import buckets
from helios.router._fast_path import Latencies, Outbox
from helios.router.stats.latency import latency

BOUNDS = [1024] + [(5 + quarter) << (power - 2) for power in range(10, 37) for quarter in range(4)]


@given(st.lists(st.integers(0, 2**37 - 1), max_size=50))
def test_each_time_is_counted_under_the_next_bound(times: list[int]) -> None:
    latencies = Latencies()
    for time in times:
        latencies.record(time)
    expected: dict[int, int] = {}
    for time in times:
        bound = next(bound for bound in BOUNDS if time < bound)
        expected[bound] = expected.get(bound, 0) + 1
    assert latencies.counted() == sorted(expected.items())
    assert latencies.total_ns == sum(times)
    latencies.clear()
    assert latencies.counted() == []


def test_longer_times_than_there_are_buckets_for_count_in_the_last() -> None:
    latencies = Latencies()
    for time in (2**37, 2**50, 2**62):
        latencies.record(time)
    assert latencies.counted() == [(BOUNDS[-1], 3)]


@given(st.lists(st.integers(1, 10**10), min_size=1, max_size=60), st.sampled_from([0.5, 0.9, 0.99, 1.0]))
def test_a_part_of_the_commands_took_no_longer(times: list[int], part: float) -> None:
    latencies = Latencies()
    for time in times:
        latencies.record(time)
    shown = latency(latencies.total_ns, latencies.counted()).at(part)
    assert shown is not None
    within = sum(time <= shown * 1e9 for time in times)
    assert within >= part * len(times) - 1e-9
    exact = sorted(times)[min(len(times) - 1, int(part * len(times)))]
    assert shown * 1e9 <= max(1024, exact * 1.25 + 1)


def test_there_is_no_latency_of_nothing() -> None:
    assert LatencyView(0, 0.0, ()).at(0.5) is None


@given(st.lists(st.integers(1, 10**11), max_size=40))
def test_prometheus_gets_counts_that_only_grow(times: list[int]) -> None:
    latencies = Latencies()
    for time in times:
        latencies.record(time)
    shown = buckets(latency(latencies.total_ns, latencies.counted()))
    counts = [count for _, count in shown]
    assert counts == sorted(counts)
    assert list(shown[-1]) == ["+Inf", len(times)]
    for bound, count in shown[:-1]:
        assert count <= sum(time < float(bound) * 1e9 for time in times)


def test_errors_are_counted_by_their_first_word_and_there_is_room_for_a_hundred() -> None:
    outbox = Outbox(None)
    for reply in (b"-ERR no\r\n", b"-ERR yes\r\n", b"-CROSSSHARD a\r\n", b"-\r\n", b"-strange word\r\n"):
        outbox.failed(reply)
    assert outbox.errors == {"ERR": 2, "CROSSSHARD": 1, "OTHER": 2}
    for number in range(200):
        outbox.failed(b"-E" + bytes(65 + int(digit) for digit in str(number)) + b" x\r\n")
    assert len(outbox.errors) <= 101
    assert sum(outbox.errors.values()) == 205
