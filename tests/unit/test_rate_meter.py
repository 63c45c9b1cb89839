"""How many commands a second there were of late."""

from __future__ import annotations

from helios.router.stats.counters import RateMeter


def test_what_was_before_the_last_seconds_does_not_count_however_seldom_somebody_looks() -> None:
    meter = RateMeter()
    for second in range(100):
        meter.sample(float(second), 0)
    for quarter in range(1, 41):
        meter.sample(99 + quarter / 4, 250 * quarter)
    assert meter.per_s == 1000.0


def test_one_look_tells_no_rate_and_counts_that_begin_anew_none_below_zero() -> None:
    meter = RateMeter()
    meter.sample(1.0, 500)
    assert meter.per_s == 0.0
    meter.sample(2.0, 100)
    assert meter.per_s == 0.0
