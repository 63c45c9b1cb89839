"""Transcripts of transitions: each event as it comes in and, indented, what the control does about it.

A transcript names the pairs first, as source>target, each with its phase where it is not being copied, and, behind a
semicolon, how many of them are fenced at once where that is not one. `published` commits what was asked for last.
"""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import pytest
from tests.control.transcripts import check
from tests.topologies import cluster

from helios.control import transition_state as control
from helios.control.mutations import Mutation, Reverse, Together
from helios.control.transition import STAGES, fences_at_once, step
from helios.control.transition_state import Effect, Event, Stage, TransitionState
from helios.model.topology import Pair, PairPhase, Topology, Transition

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))
_EVENTS = {
    "caught up": control.CaughtUp,
    "lagging": control.Lagging,
    "acknowledged": control.Acknowledged,
    "drained": control.Drained,
    "fence failed": control.FenceFailed,
    "copy broken": control.CopyBroken,
    "copy fatally broken": control.CopyBroken,
    "copy progressed": control.CopyProgressed,
    "released": control.Released,
    "swept": control.Swept,
    "swept in memory": control.Swept,
    "sweep failed": control.SweepFailed,
    "cancel": control.CancelRequested,
}


class Performer:
    """Stands where the coordinator stands: it commits what is published, and does nothing else."""

    def __init__(self, head: str) -> None:
        pairs, _, fenced_at_once = head.partition("; fenced at once: ")
        parsed = [_pair(text) for text in pairs.split(", ")]
        shards = sorted({shard for pair in parsed for shard in (pair.source, pair.target)})
        self.topology: Topology = cluster(*shards)
        self.transition = Transition("change", self.topology.placement, tuple(parsed))
        self.topology = replace(self.topology, transition=self.transition)
        self.state = TransitionState(self.transition, fenced_at_once=int(fenced_at_once or 1))
        self.asked: Mutation | None = None

    def feed(self, line: str) -> list[str]:
        """The effects of one event."""
        event = self._event(line)
        self.state, effects = step(self.state, event)
        for effect in effects:
            if isinstance(effect, control.Publish):
                self.asked = effect.mutation
            elif isinstance(effect, control.GiveUp):
                self.asked = Reverse({(p.source, p.target): f"back-{p.migration}" for p in self._pairs()})
        return [_shown(effect) for effect in effects] + (["the end"] if self.state.finished else [])

    def _pairs(self) -> tuple[Pair, ...]:
        assert self.topology.transition is not None
        return self.topology.transition.pairs

    def _event(self, line: str) -> Event:
        name, _, rest = line.partition(": ")
        match name:
            case "begun":
                return control.Begun()
            case "paused" | "resumed":
                return control.PauseRequested(name == "paused")
            case "published":
                assert self.asked is not None, "nothing was to be published"
                self.topology, self.asked = self.asked.apply(self.topology), None
                return control.Published(self.topology.transition)
            case "a new coordinator":
                assert self.topology.transition is not None
                self.state, self.asked = TransitionState(self.topology.transition), None
                return control.Begun()
        place, _, reason = rest.partition(", ")
        words = place.split(">") if place else []
        if reason:
            words.append(reason)
        more = {"copy fatally broken": {"fatal": True}, "swept in memory": {"durable": False}}.get(name, {})
        event: Event = _EVENTS[name](*words, **more)
        return event


def _pair(text: str) -> Pair:
    names, _, phase = text.partition(" ")
    source, target = names.split(">")
    return Pair(source, target, f"m-{source}-{target}", PairPhase(phase.strip("()") or PairPhase.COPYING))


def _shown(effect: Effect | Mutation) -> str:
    """An effect in words: its name, its pair or shard, and the rest."""
    if isinstance(effect, control.Publish):
        return f"publish {_shown(effect.mutation)}"
    if isinstance(effect, Reverse):
        return "reverse"
    if isinstance(effect, Together):
        return f"together {' and '.join(map(_shown, effect.parts))}"
    values = {field.name: getattr(effect, field.name) for field in fields(effect)}
    name = "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(effect).__name__).strip()
    place = [values.pop(part) for part in ("source", "target", "shard") if part in values]
    targets = values.pop("targets", None)
    if targets:
        place.append(" ".join(targets))
    rest = [f"{part} {_plain(value)}" for part, value in values.items() if value not in (0, 0.0, frozenset())]
    return ", ".join([f"{name} {'>'.join(place)}".strip(), *rest])


def _plain(value: object) -> str:
    if isinstance(value, control.Ending):
        return f"because {value.reason}"
    return " ".join(sorted(value)) if isinstance(value, frozenset) else str(value)


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_control_does_what_its_transcript_says(path: Path) -> None:
    check(path, "pairs: ", Performer)


@pytest.mark.parametrize(("pairs", "at_once"), [(1, 1), (6, 1), (23, 1), (24, 2), (99, 8), (999, 83)])
def test_a_fence_holds_several_pairs_where_a_transition_has_many(pairs: int, at_once: int) -> None:
    assert fences_at_once(pairs) == at_once


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 8


def test_every_stage_can_be_left_and_reached() -> None:
    reached = {after for causes in STAGES.values() for after in causes.values()}
    assert set(STAGES) == {None, *Stage} == reached
    assert all(set(causes.values()) - {stage} for stage, causes in STAGES.items())
