"""Quiet hours as they are written, and what a server's counters mean."""

from __future__ import annotations

import pytest

from helios.engines.valkey.statistics import hits_behind, operations_in
from helios.model.balancing import QuietHours, parse_quiet_hours, quiet_hours_of


def test_quiet_hours_are_written_in_one_way() -> None:
    assert parse_quiet_hours(" 9:05-17:30,22:00 - 6:00") == "09:05-17:30, 22:00-06:00"
    assert parse_quiet_hours("") == ""
    assert quiet_hours_of("22:00-06:00") == (QuietHours(22 * 60, 6 * 60),)


@pytest.mark.parametrize("text", ["24:00-06:00", "22-06", "22:00", "at night", "22:00-06:00,", 2200])
def test_other_writings_are_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a time of the day: write 22:00-06:00"):
        parse_quiet_hours(text)


def test_operations_are_those_of_clients() -> None:
    info = {
        "cmdstat_get": "calls=7,usec=1",
        "cmdstat_xgroup|create": "calls=2,usec=1",
        "cmdstat_memory|usage": "calls=1000,usec=1",
        "cmdstat_restore": "calls=50,usec=1",
        "cmdstat_scan": "calls=3,usec=1",
        "used_memory": "5",
    }
    assert operations_in(info) == 9


def test_frequencies_grow_as_the_root_of_accesses() -> None:
    assert [hits_behind(frequency) for frequency in (0, 5, 6, 15, 25)] == [0, 0, 6, 510, 2020]
