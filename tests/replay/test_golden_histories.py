"""Histories recorded by each release replay on this one, on every supported Python."""

import random
from typing import Any

import pytest

from perdure.engine.replay import replay
from perdure.errors import NonDeterminismError
from perdure.model.events import ActivityScheduled, Turn
from perdure.model.runs import RunId, RunInfo
from tests.replay import workflows
from tests.replay.golden import stored

HISTORIES = [pytest.param(name, turns, id=f"{release}-{name}") for release, name, turns in stored()]
DEFINITIONS: dict[str, Any] = {definition.name: definition for definition in workflows.ALL}


def info(name: str) -> RunInfo:
    return RunInfo(id="it", run_id=RunId(1), namespace="default", workflow=name, queue="default")


def test_every_golden_workflow_has_a_history() -> None:
    assert {name for _, name, _ in stored()} == set(DEFINITIONS)


@pytest.mark.parametrize(("name", "turns"), HISTORIES)
def test_a_recorded_history_replays_to_its_end(name: str, turns: list[Turn]) -> None:
    assert replay(DEFINITIONS[name], info(name), turns).closed


@pytest.mark.parametrize(("name", "turns"), HISTORIES)
def test_a_damaged_history_is_never_replayed_silently(name: str, turns: list[Turn]) -> None:
    """Drop one command anywhere: the code asks for it and history does not have it."""
    for turn in turns:
        for place, event in enumerate(turn.events):
            if not isinstance(event, ActivityScheduled):
                continue
            events = (*turn.events[:place], *turn.events[place + 1 :])
            damaged = [Turn(turn.seq, turn.header, events) if other is turn else other for other in turns]
            with pytest.raises(NonDeterminismError):
                replay(DEFINITIONS[name], info(name), damaged)


def test_the_same_history_takes_the_same_course_ten_times() -> None:
    for _, name, turns in stored():
        courses = []
        for _ in range(10):
            random.seed()
            run = replay(DEFINITIONS[name], info(name), turns)
            courses.append((run.header, run._seq, sorted(run.timers), sorted(run.activities)))
        assert all(course == courses[0] for course in courses)
