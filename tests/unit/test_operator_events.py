"""Which statuses are worth an event."""

from typing import Any

import pytest

from perdure.model.runs import RunState
from perdure_operator.events import News, told_by
from perdure_operator.status import Refusal, project, render
from tests.unit.test_operator_status import NOW, run, written


def status(state: RunState, **changes: Any) -> dict[str, Any]:
    return render(project(run(state, **changes), 1), {}, NOW)


RUNNING = status(RunState.OWNED)
HELD = status(RunState.HELD, hold_reason="NonDeterminism", hold_message="it differs")


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({}, RUNNING, []),
        (RUNNING, status(RunState.COMPLETED), []),
        (RUNNING, status(RunState.CANCELLED), []),
        (RUNNING, status(RunState.FAILED), [News("WorkflowFailed", "ValueError: no")]),
        (RUNNING, status(RunState.TIMED_OUT), [News("TimedOut", "late")]),
        (RUNNING, status(RunState.TERMINATED), [News("Terminated", "stop")]),
        (status(RunState.FAILED), status(RunState.FAILED), []),
        (RUNNING, HELD, [News("NonDeterminism", "it differs")]),
        (HELD, HELD, []),
        (HELD, RUNNING, []),
        (HELD, status(RunState.HELD, hold_reason="PoisonRun", hold_message="no"), [News("PoisonRun", "no")]),
    ],
)
def test_trouble_is_told_when_it_begins(before: dict[str, Any], after: dict[str, Any], expected: list[News]) -> None:
    assert list(told_by(before, after)) == expected


def test_an_event_has_as_much_of_a_message_as_the_status() -> None:
    (news,) = told_by(RUNNING, status(RunState.HELD, hold_reason="NonDeterminism", hold_message="x" * 390))
    assert news.note == "x" * 390


def test_an_input_that_is_missing_is_told_and_a_database_that_is_away_is_not() -> None:
    missing = written(None, Refusal("InputMissing", "there is no ConfigMap texts"))
    assert list(told_by({}, missing)) == [News("InputMissing", "there is no ConfigMap texts")]
    assert list(told_by(missing, missing)) == []
    assert list(told_by({}, written(None, Refusal("StoreUnavailable", "away")))) == []
