"""The proof at the end of the demo notices what it is there to notice."""

from datetime import UTC, datetime

import msgspec
import pytest

from examples.proof import prove
from perdure.model.events import ActivityAttemptFailed, ActivityCompleted, ActivityScheduled, Event, Failure
from perdure.model.runs import HistoryEvent

EMPTY = msgspec.Raw(b"[]")
NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


def history(*events: tuple[str, Event]) -> list[HistoryEvent]:
    return [
        HistoryEvent(id=number, time=NOON, type=type(event).__name__, turn=number, worker=worker, event=event)
        for number, (worker, event) in enumerate(events, 1)
    ]


STORY = history(
    ("dead", ActivityScheduled(1, "charge", EMPTY)),
    ("dead", ActivityScheduled(2, "pack", EMPTY)),
    ("dead", ActivityScheduled(3, "pack", EMPTY)),
    ("dead", ActivityAttemptFailed(1, 1, Failure("ConnectionError", "busy"), 0)),
    ("dead", ActivityCompleted(1, EMPTY, 2)),
    ("dead", ActivityCompleted(2, EMPTY)),
    ("heir", ActivityCompleted(3, EMPTY)),
    ("heir", ActivityScheduled(4, "ship", EMPTY)),
    ("heir", ActivityCompleted(4, EMPTY)),
)


def journal(*steps: int) -> str:
    return "".join(f"17/{step}\tname\t1\t4711\n" for step in steps)


def test_what_was_recorded_ran_as_often_as_recorded_and_what_was_under_way_once_more() -> None:
    rows = prove(STORY, journal(1, 1, 2, 3, 3, 4), "dead")
    assert [(row.recorded, row.ran, row.note) for row in rows] == [
        ("1 failed attempt, 1 result", 2, "before the kill, not run again"),
        ("1 result", 1, "before the kill, not run again"),
        ("1 result", 2, "under way at the kill, tried again"),
        ("1 result", 1, "after the takeover"),
    ]
    assert all(row.right for row in rows)


@pytest.mark.parametrize(
    ("ran", "wrong"),
    [
        ((1, 1, 1, 2, 3, 4), 0),  # charged once too often
        ((1, 1, 2, 2, 3, 4), 1),  # a recorded step ran again
        ((1, 1, 3, 4), 1),  # a result from nowhere
        ((1, 1, 2, 3, 3, 3, 4), 2),  # twice more, and only one worker died
        ((1, 1, 2, 3, 4, 4), 3),  # nobody died after the takeover
    ],
)
def test_a_step_that_ran_too_often_or_never_is_wrong(ran: tuple[int, ...], wrong: int) -> None:
    rows = prove(STORY, journal(*ran), "dead")
    assert [number for number, row in enumerate(rows) if not row.right] == [wrong]


def test_a_step_with_two_results_is_wrong() -> None:
    doubled = [*STORY, *history(("heir", ActivityCompleted(2, EMPTY)))]
    assert not prove(doubled, journal(1, 1, 2, 3, 4), "dead")[1].right


def test_a_step_without_a_result_is_wrong() -> None:
    assert not prove(STORY[:-1], journal(1, 1, 2, 3, 4), "dead")[3].right
