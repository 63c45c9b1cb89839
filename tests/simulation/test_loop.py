"""Processes on the virtual clock: what a stopped one finds when it goes on."""

from __future__ import annotations

from tests.simulation.loop import Process, SimLoop


def _asleep(seen: list[tuple[str, float]]) -> tuple[SimLoop, Process]:
    """A process that stands still since 1.0, with a timer for 1.5, one for 9.0, and news that comes at 2.0."""
    loop, process = SimLoop(), Process("sleeper")

    def see(what: str) -> None:
        seen.append((what, loop.time()))

    loop.call_later(1.5, see, "early timer", context=process.context)
    loop.call_later(9.0, see, "late timer", context=process.context)
    loop.send_later(1.0, loop.freeze, process)
    loop.send_later(2.0, lambda: loop.call_soon(see, "news", context=process.context))
    return loop, process


def _until(loop: SimLoop, at_s: float) -> None:
    loop.send_later(at_s, loop.stop)
    loop.run_forever()
    loop.close()


def test_a_stopped_process_is_late_with_everything() -> None:
    seen: list[tuple[str, float]] = []
    loop, process = _asleep(seen)
    loop.send_later(5.0, loop.thaw, process)
    _until(loop, 20.0)
    assert seen == [("early timer", 5.0), ("news", 5.0), ("late timer", 9.0)]


def test_the_timers_of_a_suspended_machine_stand_still_once_and_news_do_not() -> None:
    seen: list[tuple[str, float]] = []
    loop, process = _asleep(seen)
    loop.send_later(5.0, loop.resume, process, 1.0)
    _until(loop, 20.0)
    assert seen == [("news", 5.0), ("early timer", 5.5), ("late timer", 13.0)]


def test_a_killed_process_does_nothing_more() -> None:
    seen: list[tuple[str, float]] = []
    loop, process = _asleep(seen)
    loop.send_later(1.2, loop.kill, process)
    _until(loop, 20.0)
    assert seen == []
