"""What the command line says about runs and events, and how it reads what it is told: pure functions."""

from datetime import UTC, datetime, timedelta
from typing import get_args

import msgspec
import pytest
import typer

from perdure.cli import output
from perdure.cli.narration import Narrator, arguments, event_object
from perdure.cli.options import parse_seconds, value_of
from perdure.cli.steps import Outcome, steps_of
from perdure.model import events
from perdure.model.events import (
    ActivityAttemptFailed,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    Event,
    Failure,
    SideEffectFailed,
    SideEffectRecorded,
    SignalReceived,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    WorkflowExecutionCancelled,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
)
from perdure.model.runs import HistoryEvent

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
MICROSECONDS = int(NOON.timestamp()) * 1_000_000
BUSY = Failure("ConnectionError", "busy")

TELLING: list[tuple[Event, str]] = [
    (WorkflowExecutionStarted("order", msgspec.Raw(b'{"total":42}'), "seed"), "order(total=42)"),
    (ActivityScheduled(1, "charge", msgspec.Raw(b'["4242",12]')), '#1 charge("4242", 12)'),
    (ActivityScheduled(2, "pack", msgspec.Raw(b"[]"), queue="boxes"), "#2 pack() on queue boxes"),
    (
        ActivityAttemptFailed(1, 1, BUSY, MICROSECONDS),
        "#1 charge attempt 1 failed: ConnectionError: busy; attempt 2 at ",
    ),
    (ActivityCompleted(1, msgspec.Raw(b'"paid \xc3\xa4"'), 2), '#1 charge returned "paid ä" (attempt 2)'),
    (ActivityFailed(2, BUSY, 3), "#2 pack gave up after attempt 3: ConnectionError: busy"),
    (ActivityCancelRequested(2), "#2 pack"),
    (TimerStarted(3, MICROSECONDS + 1_500_000), "#3 for 1.5 s"),
    (TimerFired(3), "#3"),
    (TimerCancelled(3), "#3"),
    (SideEffectRecorded(4, msgspec.Raw(b"[1]")), "#4 [1]"),
    (SideEffectFailed(4, BUSY), "#4 failed: ConnectionError: busy"),
    (SignalReceived("approve", msgspec.Raw(b"true"), "id"), "approve true"),
    (WorkflowExecutionCancelRequested("enough"), "enough"),
    (WorkflowExecutionCompleted(msgspec.Raw(b"59")), "59"),
    (WorkflowExecutionFailed(Failure("ValueError", "")), "ValueError"),
    (WorkflowExecutionCancelled("enough"), "enough"),
    (WorkflowExecutionTerminated("enough"), "enough"),
    (WorkflowExecutionTimedOut("too long"), "too long"),
]


def recorded(event: Event, number: int = 1, worker: str = "w") -> HistoryEvent:
    return HistoryEvent(id=number, time=NOON, type=type(event).__name__, turn=1, worker=worker, event=event)


def test_every_kind_of_event_is_told_in_words() -> None:
    narrator = Narrator()
    for event, sentence in TELLING:
        assert narrator.tell(recorded(event)).details.startswith(sentence)
    assert {type(event) for event, _ in TELLING} == set(get_args(events.Event))


def test_an_event_for_programs_has_its_own_fields_beside_number_time_type_and_worker() -> None:
    plain = event_object(recorded(ActivityCompleted(1, msgspec.Raw(b'{"a":1}'), 2), 7))
    assert plain == {
        "id": 7, "time": NOON, "type": "ActivityCompleted", "turn": 1, "worker": "w",
        "seq": 1, "result": {"a": 1}, "attempt": 2,
    }  # fmt: skip


def test_steps_count_the_attempts_and_results_that_are_recorded() -> None:
    history = [
        recorded(ActivityScheduled(1, "charge", msgspec.Raw(b"[]"))),
        recorded(ActivityScheduled(2, "pack", msgspec.Raw(b"[]"))),
        recorded(ActivityScheduled(3, "ship", msgspec.Raw(b"[]"))),
        recorded(ActivityScheduled(4, "wait", msgspec.Raw(b"[]"))),
        recorded(ActivityAttemptFailed(1, 1, BUSY, MICROSECONDS), worker="first"),
        recorded(ActivityCompleted(1, msgspec.Raw(b"1"), 2), worker="second"),
        recorded(ActivityFailed(2, BUSY, 1)),
        recorded(ActivityCancelRequested(4)),
        recorded(TimerStarted(5, MICROSECONDS)),
    ]
    steps = steps_of(history)
    assert [(step.name, step.outcome, step.attempts, step.results) for step in steps.values()] == [
        ("charge", Outcome.COMPLETED, 2, 1),
        ("pack", Outcome.FAILED, 1, 0),
        ("ship", Outcome.UNDER_WAY, 0, 0),
        ("wait", Outcome.CANCELLED, 0, 0),
    ]
    assert steps[1].worker == "second"


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b"[]", "()"),
        (b'["a",{"b":1}]', '("a", {"b": 1})'),
        (b'{"card":"4","items":[1]}', '(card="4", items=[1])'),
        (b'["' + b"x" * 50 + b'"]', '("xxxxxxxxxxxxxxxxxx…)'),
        (b"not json", "(not json)"),
    ],
)
def test_input_is_shown_as_a_call_has_it(payload: bytes, text: str) -> None:
    assert arguments(msgspec.Raw(payload), 20) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-3, "0s"), (0.9, "0s"), (59, "59s"), (60, "1m"), (184, "3m4s"), (3599, "59m"), (3600, "1h"), (5400, "1h30m"),
     (90_000, "25h"), (200_000, "2d")],
)  # fmt: skip
def test_lengths_of_time_are_told_in_at_most_two_units(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text
    assert output.age(NOON - timedelta(seconds=seconds), NOON) == text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("1.5", 1.5), ("30s", 30), ("100ms", 0.1), ("5m", 300), ("2h", 7200), ("7d", 604_800)],
)
def test_lengths_of_time_are_read_with_a_unit_or_as_seconds(text: str, seconds: float) -> None:
    assert parse_seconds(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "0", "-1", "soon", "5 parsecs", "nan", "inf", "1e999"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="no length of time"):
        parse_seconds(text)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("12", 12),
        ("true", True),
        ('"12"', "12"),
        ("[1, 2]", [1, 2]),
        ("tea", "tea"),
        ("{", "{"),
        ("", ""),
        (None, None),
    ],
)
def test_a_word_is_json_where_it_can_be_and_itself_where_not(word: str | None, value: object) -> None:
    assert value_of(word) == value
