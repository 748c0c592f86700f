"""What the operator decides to do about an object and its run."""

from typing import Any

import pytest

from perdure.manifest import WorkflowInstance, parse
from perdure.model.runs import RunState
from perdure_operator.abandoned import MOST, Abandoned, abandoned_key
from perdure_operator.reconcile import (
    ASKED,
    DELETED,
    Abandon,
    Cancel,
    CloseUntouched,
    DeletionPolicy,
    Start,
    Suspend,
    Terminate,
    decide,
    decide_gone,
)
from tests.unit.test_operator_status import run

CLOSED = [state for state in RunState if state.closed]
OPEN = [state for state in RunState if not state.closed]


def instance(*, deleting: bool = False, **spec: Any) -> WorkflowInstance:
    metadata = {"name": "order-1", "namespace": "shop", "uid": "u", "generation": 1}
    return parse(
        {
            "apiVersion": "perdure.dev/v1",
            "kind": "WorkflowInstance",
            "metadata": {**metadata, **({"deletionTimestamp": "2026-01-02T03:04:05Z"} if deleting else {})},
            "spec": {"workflow": "order", **spec},
        }
    )


def test_an_object_without_a_run_is_started() -> None:
    assert decide(instance(), None, finished=False) == (Start(),)


def test_an_object_that_is_cancelled_from_the_start_is_recorded_and_cancelled() -> None:
    assert decide(instance(cancel={}), None, finished=False) == (Start(), Cancel(ASKED))


@pytest.mark.parametrize("state", OPEN)
def test_the_reason_and_the_way_of_an_ending_are_the_objects(state: RunState) -> None:
    assert decide(instance(cancel={"reason": "sold out"}), run(state), finished=False) == (Cancel("sold out"),)
    terminate = {"mode": "Terminate", "reason": "at once"}
    assert decide(instance(cancel=terminate), run(state), finished=False) == (Terminate("at once"),)
    cancelling = run(state, cancel_requested=True)
    assert decide(instance(cancel=terminate), cancelling, finished=False) == (Terminate("at once"),)
    assert decide(instance(cancel=terminate), None, finished=False) == (Start(), Terminate("at once"))


@pytest.mark.parametrize("state", OPEN)
def test_a_run_is_suspended_and_resumed_when_it_is_not_as_the_object_says(state: RunState) -> None:
    assert decide(instance(suspend=True), run(state), finished=False) == (Suspend(suspended=True),)
    assert decide(instance(suspend=True), run(state, suspended=True), finished=False) == ()
    assert decide(instance(), run(state, suspended=True), finished=False) == (Suspend(suspended=False),)


def test_a_run_that_is_asked_to_cancel_is_not_suspended_again() -> None:
    assert decide(instance(suspend=True), run(cancel_requested=True), finished=False) == ()
    both = instance(suspend=True, cancel={})
    assert decide(both, run(suspended=True), finished=False) == (Cancel(ASKED),)
    assert decide(instance(suspend=True, deleting=True), run(suspended=True), finished=False) == (Cancel(DELETED),)


def test_an_object_that_is_on_its_way_out_is_not_started() -> None:
    assert decide(instance(deleting=True), None, finished=False) == ()


def test_an_object_whose_run_was_removed_after_its_end_is_not_started_again() -> None:
    assert decide(instance(), None, finished=True) == ()


@pytest.mark.parametrize("state", RunState)
def test_a_run_that_nobody_wants_to_end_is_left_alone(state: RunState) -> None:
    assert decide(instance(), run(state), finished=False) == ()


@pytest.mark.parametrize("state", OPEN)
def test_an_open_run_is_cancelled_once(state: RunState) -> None:
    assert decide(instance(cancel={}), run(state), finished=False) == (Cancel(ASKED),)
    assert decide(instance(deleting=True), run(state), finished=False) == (Cancel(DELETED),)
    assert decide_gone(run(state), DeletionPolicy.CANCEL) == (Cancel(DELETED),)
    assert decide_gone(run(state, cancel_requested=True), DeletionPolicy.CANCEL) == ()


@pytest.mark.parametrize("state", CLOSED)
def test_a_closed_run_is_left_alone(state: RunState) -> None:
    assert decide(instance(cancel={}, deleting=True), run(state), finished=True) == ()
    assert decide_gone(run(state), DeletionPolicy.CANCEL) == ()


@pytest.mark.parametrize("state", OPEN)
def test_an_abandoned_run_goes_on_without_its_object(state: RunState) -> None:
    assert decide(instance(deleting=True, deletionPolicy="Abandon"), run(state), finished=False) == ()
    assert decide_gone(run(state), DeletionPolicy.ABANDON) == (Abandon(),)


def test_a_cancelled_run_that_no_worker_has_taken_is_closed() -> None:
    never = run(RunState.READY, started_at=None, cancel_requested=True)
    assert decide_gone(never, DeletionPolicy.CANCEL) == (CloseUntouched(DELETED),)
    unknown = run(RunState.HELD, hold_reason="UnknownWorkflow", cancel_requested=True)
    assert decide(instance(cancel={}), unknown, finished=False) == (CloseUntouched(ASKED),)


def test_a_cancelled_run_that_is_held_in_the_middle_waits_for_its_code() -> None:
    held = run(RunState.HELD, hold_reason="NonDeterminism", cancel_requested=True)
    assert decide_gone(held, DeletionPolicy.CANCEL) == ()


def test_nothing_is_left_to_do_for_an_object_that_never_had_a_run() -> None:
    assert decide_gone(None, DeletionPolicy.CANCEL) == ()


def test_abandoned_runs_are_handed_to_the_next_leader_until_they_close() -> None:
    first, second = Abandoned(), Abandoned()
    first.add("a")
    first.add("b")
    second.read(first.text())
    assert "a" in second
    second.keep([abandoned_key("b")])
    assert "a" not in second
    assert second.text() == "b"
    second.read("")
    assert second.text() == "b"


def test_the_memory_of_abandoned_runs_is_bounded() -> None:
    memory = Abandoned()
    for number in range(MOST + 10):
        memory.add(str(number))
    assert len(memory.text().split(",")) == MOST
    assert "0" not in memory
    assert str(MOST + 9) in memory
