"""The projection of a run to the status of its object."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.engine.matching import mismatch
from perdure.model.events import (
    Failure,
    TimerStarted,
    WorkflowExecutionCancelled,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
)
from perdure.model.runs import RunId, RunState, RunSummary
from perdure_operator.status import MARKER, SIZE_LIMIT, Refusal, canonical, is_finished, project, render, stored_size

T0 = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
NOW = T0 + timedelta(hours=1)
OUTCOMES = {
    RunState.COMPLETED: WorkflowExecutionCompleted(msgspec.Raw(b'"done"')),
    RunState.FAILED: WorkflowExecutionFailed(Failure("ValueError", "no")),
    RunState.CANCELLED: WorkflowExecutionCancelled("enough"),
    RunState.TERMINATED: WorkflowExecutionTerminated("stop"),
    RunState.TIMED_OUT: WorkflowExecutionTimedOut("late"),
}


def run(state: RunState = RunState.OWNED, **changes: Any) -> RunSummary:
    closed = state.closed
    values: dict[str, Any] = {
        "id": "order-1",
        "run_id": RunId(17),
        "namespace": "shop",
        "workflow": "order",
        "queue": "default",
        "state": state,
        "created_at": T0,
        "started_at": T0 + timedelta(seconds=1),
        "closed_at": T0 + timedelta(seconds=9) if closed else None,
        "wake_at": None,
        "worker": None,
        "priority": 0,
        "key": "uid",
        "waiting_for": "",
        "status_text": "",
        "progress": "",
        "hold_reason": "",
        "hold_message": "",
        "cancel_requested": False,
        "outcome": OUTCOMES.get(state),
        **changes,
    }
    return RunSummary(**values)


def written(run: RunSummary | None, refusal: Refusal | None = None, before: dict[str, Any] | None = None) -> Any:
    return render(project(run, 3, refusal), before or {}, NOW)


def truths(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in status["conditions"]}


def test_a_run_that_goes_on_is_accepted_and_unfinished() -> None:
    status = written(run(progress="1/2", status_text="packing"))
    assert truths(status) == {
        "Accepted": ("True", "Recorded"),
        "Succeeded": ("Unknown", "Running"),
        "Finished": ("False", "Running"),
    }
    assert {name: status[name] for name in ("phase", "runId", "startTime", "progress", "message")} == {
        "phase": "Running",
        "runId": "17",
        "startTime": "2026-01-02T03:04:06Z",
        "progress": "1/2",
        "message": "packing",
    }
    assert "completionTime" not in status


@pytest.mark.parametrize(
    ("state", "succeeded", "message"),
    [
        (RunState.COMPLETED, ("True", "Succeeded"), ""),
        (RunState.FAILED, ("False", "WorkflowFailed"), "ValueError: no"),
        (RunState.CANCELLED, ("False", "Cancelled"), "enough"),
        (RunState.TERMINATED, ("False", "Terminated"), "stop"),
        (RunState.TIMED_OUT, ("False", "TimedOut"), "late"),
    ],
)
def test_every_ending_is_finished_and_says_how(state: RunState, succeeded: tuple[str, str], message: str) -> None:
    status = written(run(state))
    assert truths(status)["Succeeded"] == succeeded
    assert truths(status)["Finished"] == ("True", succeeded[1])
    assert status.get("message", "") == message
    assert status["completionTime"] == "2026-01-02T03:04:14Z"
    assert ("result" in status) == (state is RunState.COMPLETED)
    assert is_finished(status)
    assert not project(run(state), 1).passing


def test_an_input_that_does_not_fit_has_a_reason_of_its_own() -> None:
    outcome = WorkflowExecutionFailed(Failure("PayloadError", "the input of order: missing card"))
    assert truths(written(run(RunState.FAILED, outcome=outcome)))["Succeeded"] == ("False", "InvalidInput")


@pytest.mark.parametrize(
    ("held", "accepted", "reason"),
    [
        ("UnknownWorkflow", ("False", "UnknownWorkflow"), "UnknownWorkflow"),
        ("NonDeterminism", ("True", "Recorded"), "NonDeterminism"),
        ("turn refused!", ("True", "Recorded"), "Turnrefused"),
        ("", ("True", "Recorded"), "Held"),
    ],
)
def test_a_held_run_is_stalled(held: str, accepted: tuple[str, str], reason: str) -> None:
    status = written(run(RunState.HELD, hold_reason=held, hold_message="what to do"))
    assert status["phase"] == "Stalled"
    assert truths(status)["Accepted"] == accepted
    assert truths(status)["Stalled"] == ("True", reason)
    assert truths(status)["Succeeded"] == ("Unknown", reason)
    assert status["message"] == "what to do"


def test_what_the_operator_refuses_is_said_with_or_without_a_run() -> None:
    invalid = Refusal("InvalidSpec", "spec.priority: expected int", stalled=True)
    status = written(None, invalid)
    assert truths(status)["Accepted"] == ("False", "InvalidSpec")
    assert truths(status)["Stalled"] == ("True", "InvalidSpec")
    assert truths(status)["Succeeded"] == ("Unknown", "InvalidSpec")
    assert status["phase"] == "Stalled"
    status = written(run(), invalid)
    assert (status["phase"], status["runId"]) == ("Running", "17")
    assert truths(status)["Accepted"] == ("False", "InvalidSpec")
    waiting = written(None, Refusal("StoreUnavailable", "no database"))
    assert waiting["phase"] == "Pending"
    assert "Stalled" not in truths(waiting)


@pytest.mark.parametrize(
    ("state", "text"), [(RunState.READY, "a worker"), (RunState.PARKED, "signal go"), (RunState.OWNED, None)]
)
def test_what_a_run_waits_for_is_shown_only_while_it_waits(state: RunState, text: str | None) -> None:
    assert written(run(state, waiting_for="signal go")).get("waitingFor") == text


def test_a_request_to_cancel_shows_until_the_end() -> None:
    assert truths(written(run(cancel_requested=True)))["Succeeded"] == ("Unknown", "Cancelling")


def test_times_of_transition_come_from_the_database_and_stay() -> None:
    first = written(run())
    assert {each["lastTransitionTime"] for each in first["conditions"]} == {"2026-01-02T03:04:05Z"}
    second = written(run(progress="2/2"), before=first)
    assert second["conditions"] == first["conditions"]
    last = {
        each["type"]: each["lastTransitionTime"]
        for each in written(run(RunState.COMPLETED), before=second)["conditions"]
    }
    assert last == {
        "Accepted": "2026-01-02T03:04:05Z",
        "Succeeded": "2026-01-02T03:04:14Z",
        "Finished": "2026-01-02T03:04:14Z",
    }


def test_a_condition_that_turns_back_does_so_now() -> None:
    held = written(run(RunState.HELD, hold_reason="UnknownWorkflow"))
    assert held["conditions"][0]["lastTransitionTime"] == "2026-01-02T04:04:05Z"
    later = render(project(run(), 3), held, NOW + timedelta(minutes=1))
    assert later["conditions"][0]["lastTransitionTime"] == "2026-01-02T04:05:05Z"


def test_every_part_names_the_generation_that_was_observed() -> None:
    status = written(run(RunState.HELD))
    assert status["observedGeneration"] == 3
    assert {each["observedGeneration"] for each in status["conditions"]} == {3}


texts = st.text(alphabet=st.characters(codec="utf-8"), max_size=2_000) | st.sampled_from(['<"' * 900, "é€😀" * 500])


@given(result=texts, message=texts, progress=texts, waiting=texts, state=st.sampled_from(RunState))
def test_a_status_stays_below_two_kilobytes_whatever_it_says(
    result: str, message: str, progress: str, waiting: str, state: RunState
) -> None:
    outcomes = {
        **OUTCOMES,
        RunState.COMPLETED: WorkflowExecutionCompleted(msgspec.Raw(msgspec.json.encode(result))),
        RunState.FAILED: WorkflowExecutionFailed(Failure("ValueError", message)),
        RunState.CANCELLED: WorkflowExecutionCancelled(message),
    }
    found = run(
        state,
        progress=progress,
        waiting_for=waiting,
        status_text=message,
        hold_message=message,
        hold_reason="NonDeterminism",
        outcome=outcomes.get(state),
    )
    for refusal in (None, Refusal("InvalidSpec", message, stalled=True)):
        status = written(found, refusal)
        assert stored_size(status) <= SIZE_LIMIT
        assert status["phase"] == found.phase


def test_a_text_that_is_cut_says_so_and_keeps_its_beginning() -> None:
    outcome = WorkflowExecutionCompleted(msgspec.Raw(msgspec.json.encode("x" * 10_000)))
    result = written(run(RunState.COMPLETED, outcome=outcome))["result"]
    assert result.startswith('"xxx')
    assert result.endswith(MARKER)
    short = WorkflowExecutionCompleted(msgspec.Raw(b'{"total": 12}'))
    assert written(run(RunState.COMPLETED, outcome=short))["result"] == '{"total": 12}'


def test_statuses_are_compared_by_content() -> None:
    assert canonical({"b": 1, "a": [2]}) == canonical({"a": [2], "b": 1})
    assert canonical(None) != canonical({})


@pytest.mark.parametrize("state", [RunState.READY, RunState.OWNED])
def test_a_run_whose_queue_nobody_serves_waits_for_workers(state: RunState) -> None:
    waiting = render(project(run(state), 1, served=False), {}, NOW)
    assert (waiting["waitingFor"], waiting["message"]) == ("Workers", "no worker serves queue default")
    pinned = render(project(run(state, build="v2"), 1, served=False), {}, NOW)
    assert pinned["waitingFor"] == "Workers of build v2"
    assert pinned["message"] == "no worker serves queue default with build v2"
    assert "message" not in render(project(run(state), 1, served=True), {}, NOW)


def test_both_sides_of_a_difference_fit_into_the_condition() -> None:
    message = str(mismatch(f"{'order-' * 12} (workflow order)", TimerStarted(3, 5), None, "orders.py:17"))
    condition = written(run(RunState.HELD, hold_reason="NonDeterminism", hold_message=message))["conditions"][-1]
    assert "history has   TimerStarted #3" in condition["message"]
    assert "the code has  nothing more" in condition["message"]


def test_a_suspended_run_says_so_and_a_resumed_one_that_it_was() -> None:
    suspended = written(run(RunState.PARKED, suspended=True, waiting_for="signal go"))
    assert (suspended["phase"], suspended["waitingFor"]) == ("Suspended", "spec.suspend to be false")
    assert truths(suspended)["Suspended"] == ("True", "Suspended")
    assert truths(suspended)["Succeeded"] == ("Unknown", "Suspended")
    resumed = written(run(RunState.PARKED), before=suspended)
    assert (resumed["phase"], truths(resumed)["Suspended"]) == ("Running", ("False", "Resumed"))
    ended = written(run(RunState.COMPLETED, suspended=True), before=suspended)
    assert (ended["phase"], truths(ended)["Suspended"]) == ("Succeeded", ("False", "Resumed"))
    assert "Suspended" not in truths(written(run()))


def test_a_suspended_run_that_is_held_is_stalled_as_well() -> None:
    held = written(run(RunState.HELD, suspended=True, hold_reason="NonDeterminism"))
    assert held["phase"] == "Stalled"
    assert {"Stalled", "Suspended"} <= set(truths(held))


@pytest.mark.parametrize(("size", "cut"), [(10, False), (400, False), (1_000, True), (1_000_000, True)])
def test_a_result_is_referred_to_when_it_is_cut_and_only_then(size: int, cut: bool) -> None:
    outcome = WorkflowExecutionCompleted(msgspec.Raw(b'"' + b"x" * size + b'"'))
    status = written(run(RunState.COMPLETED, outcome=outcome))
    assert ("resultRef" in status) == status["result"].endswith(MARKER) == cut
    if cut:
        assert status["resultRef"] == {"runId": "17", "size": size + 2}


def test_a_result_of_which_only_the_beginning_was_read_looks_the_same() -> None:
    text = '"' + "ü" * 1_000 + '"'
    whole = written(run(RunState.COMPLETED, outcome=WorkflowExecutionCompleted(msgspec.Raw(text.encode()))))
    beginning = WorkflowExecutionCompleted(msgspec.Raw(text.encode()[:1_502]))  # half of a character at its end
    assert written(run(RunState.COMPLETED, outcome=beginning, result_size=len(text.encode()))) == whole
