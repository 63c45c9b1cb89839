"""The judge of functions: which versions of a library may answer, and when."""

from __future__ import annotations

import pytest
from tests.simulation.history import Impossible
from tests.simulation.library import ABSENT, Library


def _loaded(library: Library, version: int, at_ms: float) -> None:
    before = library.open
    library.asked(version, at_ms)
    library.done(version, at_ms + 1, before=before)


def test_a_library_that_was_loaded_answers_and_those_before_it_do_not() -> None:
    library = Library()
    _loaded(library, 1, 0)
    _loaded(library, 2, 10)
    library.called(2, 20, 21)
    for wrong in (ABSENT, 1, 3):
        with pytest.raises(Impossible):
            library.called(wrong, 20, 21)


def test_a_call_that_was_under_way_may_have_found_the_library_of_before() -> None:
    library = Library()
    _loaded(library, 1, 0)
    _loaded(library, 2, 10)
    library.called(1, 5, 20)
    library.called(2, 5, 20)


def test_a_load_of_unknown_outcome_may_come_at_any_time() -> None:
    library = Library()
    library.asked(1, 0)
    _loaded(library, 2, 10)
    for version in (1, 2):
        library.called(version, 20, 21)
    with pytest.raises(Impossible):
        library.called(ABSENT, 20, 21)


def test_a_load_that_was_refused_was_not_done() -> None:
    library = Library()
    before = library.open
    library.asked(1, 0)
    library.not_done(1, before=before)
    library.called(ABSENT, 10, 11)
    with pytest.raises(Impossible):
        library.called(1, 10, 11)


def test_a_power_cut_may_bring_back_what_was_there_before() -> None:
    library = Library()
    _loaded(library, 1, 0)
    library.power_lost(10)
    for version in (ABSENT, 1):
        library.called(version, 20, 21)
    _loaded(library, 2, 30)
    with pytest.raises(Impossible):
        library.called(1, 40, 41)


def test_a_power_cut_amid_a_load_may_take_what_was_loaded_by_then() -> None:
    library = Library()
    _loaded(library, 1, 0)
    before = library.open
    library.asked(2, 10)
    library.power_lost(11)
    library.done(2, 12, before=before)
    for version in (ABSENT, 1, 2):
        library.called(version, 20, 21)
