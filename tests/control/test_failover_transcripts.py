"""Transcripts of failovers: each event as it comes in and, indented, what the control does about it.

A transcript names the members first, the old leader before all others, and the terms, the latest first, each as
history@begin; then who is to lead, if the leader hands over, who is wanted rather than others, which members are on
external servers, and which were the members before a change that is under way.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.control.transcripts import check

from helios.control import failover as control
from helios.control.failover import STAGES, Effect, Event, FailoverState, Position, Stage, step
from helios.model.topology import Term

TRANSCRIPTS = sorted((Path(__file__).parent / "failover").glob("*.txt"))


class Performer:
    """Stands where the coordinator stands, and does nothing."""

    def __init__(self, line: str) -> None:
        members, *others = line.split("; ")
        names, said = members.split(", "), dict(other.split(": ") for other in others)
        lineage = tuple(map(_term, said["terms"].split(", ")))
        external = frozenset(said.get("external", "").split(", ")) - {""}
        before = frozenset(said.get("before", "").split(", ")) - {""}
        self._begun = FailoverState(
            "shard",
            names[0],
            (frozenset(names), before) if before else (frozenset(names),),
            lineage,
            preferred=said.get("successor", ""),
            wanted=tuple(said["wanted"].split(", ")) if "wanted" in said else (),
            external=external,
        )
        self._state = self._begun

    def feed(self, line: str) -> list[str]:
        """The effects of one event."""
        event: Event
        if line == "a new coordinator":
            fenced = self._state.stage is not Stage.FENCING
            self._state, event = self._begun, control.Begun(fenced)
        else:
            event = _event(line)
        self._state, effects = step(self._state, event)
        shown = [_shown(effect) for effect in effects]
        if self._state.stage is Stage.DETACHING and self._state.missing:
            shown.append(f"waiting for {self._state.missing} more")
        if self._state.stage is Stage.DONE:
            shown.append("the end, with loss" if self._state.lossy else "the end")
        return shown


def _term(text: str) -> Term:
    history, _, begins = text.partition("@")
    return Term(history, int(begins))


def _event(line: str) -> Event:
    name, _, rest = line.partition(": ")
    member, _, detail = rest.partition(", ")
    match name:
        case "begun":
            return control.Begun()
        case "published":
            return control.Published()
        case "detached":
            history, _, offset = detail.partition("@")
            return control.Detached(member, Position(history, int(offset or 0)))
        case "failed":
            return control.Failed(member, detail)
        case "promoted":
            return control.Promoted(member, detail)
        case "loss accepted":
            return control.LossAccepted(member)
        case "answered":
            return control.Answered(stands=member == "it leads", empty=detail == "and is empty")
    raise AssertionError(f"no such event: {line}")


def _shown(effect: Effect) -> str:
    match effect:
        case control.PublishFence(shard):
            return f"publish a fence of {shard}"
        case control.Detach(member, delay_s):
            return f"detach {member}" + (f" in {delay_s:g} s" if delay_s else "")
        case control.Promote(member, position):
            return f"promote {member} at {position.history}@{position.offset}"
        case control.PublishLeader(member, lineage, alone):
            terms = ", ".join(f"{term.history}@{term.begins}" for term in lineage)
            return f"publish that {member} leads{' alone' * alone}{f'; terms: {terms}' * bool(terms)}"
        case control.Follow(member, leader):
            return f"have {member} follow {leader}"
        case control.Ask(leader):
            return f"ask {leader} whether it leads still"
        case control.LiftFence(shard):
            return f"lift the fence of {shard}"


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_the_control_does_what_its_transcript_says(path: Path) -> None:
    check(path, "members: ", Performer)


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) >= 6


def test_every_stage_can_be_reached_and_all_but_the_last_be_left() -> None:
    reached = {after for causes in STAGES.values() for after in causes.values()}
    assert set(STAGES) == set(Stage) == {Stage.FENCING, *reached}
    assert {stage for stage, causes in STAGES.items() if not causes} == {Stage.DONE}
