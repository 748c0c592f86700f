"""The verdict on a chaos finds what it is there for: each check is shown what it must not let pass."""

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import psycopg
import pytest

from perdure.model.events import (
    NULL,
    ActivityAttemptFailed,
    ActivityCompleted,
    ActivityScheduled,
    Failure,
    SignalReceived,
    TimerStarted,
    WorkflowExecutionCompleted,
)
from perdure.model.runs import HistoryEvent
from perdure.store.postgres.migrate import migrate
from tests.chaos.faults import Fault, Frozen, Silence
from tests.chaos.verdict import (
    Attempts,
    by_run,
    check_history,
    check_leftovers,
    check_silences,
    longest_wait,
    mark_company,
    measure_recovery,
    quantile,
)

RUN = 7
FAILURE = Failure("ConnectionError", "try again")
CALL = ActivityScheduled(1, "step", NULL)
RETRY = ActivityAttemptFailed(1, 1, FAILURE, 0)
DONE = ActivityCompleted(1, NULL, 2)
END = WorkflowExecutionCompleted(NULL)
RIGHT = (CALL, RETRY, DONE, END)
BEGUN = ((10.5, 1, 100), (11.5, 2, 100))


CLOSED = """
INSERT INTO perdure.run (id, namespace, instance, workflow, queue, state, closed_at)
VALUES (%s, 'n', 'i', 'w', 'q', 10, to_timestamp(%s))
"""
TASK = """
INSERT INTO perdure.task (run_id, seq, namespace, queue, name, input, options, attempt, available_at)
VALUES (1, 1, 'n', 'q', 'a', '', '', 1, now())
"""


def history(events: Sequence[object] = RIGHT) -> list[HistoryEvent]:
    """Return a history with one event a second, from second 10 on, each in a turn of its own."""
    return [
        HistoryEvent(
            id=place + 1,
            time=datetime.fromtimestamp(10 + place, UTC),
            type=type(event).__name__,
            turn=place,
            worker="one",
            event=event,
        )
        for place, event in enumerate(events)
    ]


def attempts(*begun: tuple[float, int, int]) -> Attempts:
    return Attempts({f"{RUN}/1": list(begun)})


def complaints(events: Sequence[object] = RIGHT, begun: Sequence[tuple[float, int, int]] = BEGUN) -> list[str]:
    return check_history(RUN, history(events), attempts(*begun))


def test_a_history_that_is_right_passes() -> None:
    assert complaints() == []


@pytest.mark.parametrize(
    ("events", "complaint"),
    [
        ((CALL, RETRY, DONE, DONE, END), "recorded more than once: [('ended', 1)]"),
        ((CALL, RETRY, RETRY, DONE, END), "recorded more than once: [('failed', 1, 1)]"),
        ((CALL, CALL, RETRY, DONE, END), "recorded more than once: [('begun', 1)]"),
        ((SignalReceived("go", NULL, "m1"), SignalReceived("go", NULL, "m1"), END), "recorded more than once"),
        ((CALL, END), "asked for and never ended"),
        ((TimerStarted(1, 0), END), "asked for and never ended"),
        ((CALL, RETRY, DONE), "it ends with ActivityCompleted"),
    ],
)
def test_steps_that_are_missing_or_doubled_are_complained_of(events: Sequence[object], complaint: str) -> None:
    assert any(complaint in found for found in complaints(events))


def test_events_that_do_not_count_up_are_complained_of() -> None:
    events = history()
    del events[1]
    assert any("do not count up" in found for found in check_history(RUN, events, attempts(*BEGUN)))


def test_time_that_goes_back_is_complained_of() -> None:
    events = history()
    events[0] = msgspec.structs.replace(events[0], time=datetime.now(UTC))
    assert any("go back" in found for found in check_history(RUN, events, attempts(*BEGUN)))


@pytest.mark.parametrize(
    ("again", "complaint"),
    [
        ((13.0, 2, 200), "attempt 2 of activity 1 began in process 200 1.000 s after ActivityCompleted"),
        ((13.0, 3, 200), "attempt 3 of activity 1 began in process 200 1.000 s after ActivityCompleted"),
        ((11.4, 1, 200), "attempt 1 of activity 1 began in process 200 0.400 s after ActivityAttemptFailed"),
    ],
)
def test_an_attempt_that_begins_after_its_end_was_recorded_is_complained_of(
    again: tuple[float, int, int], complaint: str
) -> None:
    assert any(complaint in found for found in complaints(begun=(*BEGUN, again)))


def test_an_attempt_of_two_workers_before_anything_was_recorded_is_none_of_its_business() -> None:
    assert complaints(begun=(*BEGUN, (10.9, 1, 200))) == []


def test_the_first_attempt_noted_after_a_thaw_may_have_begun_before_the_frost(tmp_path: Path) -> None:
    """Between the look at the lease and the note a process may lose its processor for longer than the lease."""
    journal = tmp_path / "journal"
    journal.write_text(
        "10.0 200 200 7/1 1\n"
        "20.01 200 200 7/2 1\n"
        "20.01 200 201 7/3 1\n"
        "20.02 200 200 7/4 1\n"
        "20.02 300 300 7/5 1\n"
        "20.30 200 202 7/6 1\n"
    )
    begun = Attempts.read(journal, 100.0, [Frozen(200, 115.0, 120.0)]).begun
    assert {key: moment for key, [(moment, _, _)] in begun.items()} == {
        "7/1": 110.0,
        "7/2": 115.0,
        "7/3": 115.0,
        "7/4": 120.02,
        "7/5": 120.02,
        "7/6": 120.3,
    }


def test_a_result_that_nothing_has_made_is_complained_of() -> None:
    assert any("is recorded and never ran" in found for found in complaints(begun=BEGUN[:1]))


def test_a_turn_of_a_worker_without_a_lease_is_complained_of() -> None:
    assert check_silences(RUN, history(), [Silence("one", 10.5, 11.5)]) == [
        "run 7: one recorded turn 1 0.500 s after the end of its lease"
    ]
    assert check_silences(RUN, history(), [Silence("two", 10.5, 11.5), Silence("one", 11.1, 11.9)]) == []


def test_recovery_is_the_time_until_a_run_with_something_to_do_went_on() -> None:
    waiting = Fault("kill", began=10.2, over=10.3, ended=10.4, affected=frozenset({RUN}))
    idle = Fault("kill", began=12.5, over=12.6, ended=12.7, affected=frozenset({RUN}))
    measure_recovery(history(), by_run([waiting, idle])[RUN])
    assert waiting.recovered == [pytest.approx(0.7)]
    assert idle.recovered == []


def test_a_fault_is_alone_when_no_other_was_on_before_everything_had_recovered() -> None:
    first = Fault("kill", began=1, over=1, ended=2, recovered=[3.5])
    second = Fault("cut", began=4, over=5, ended=5)
    mark_company([first, second])
    assert (first.alone, second.alone) == (False, True)
    first = dataclasses.replace(first, recovered=[2.5])
    mark_company([first, second])
    assert (first.alone, second.alone) == (True, True)


def test_quantiles_are_those_of_the_values() -> None:
    assert [quantile(list(range(101)), share) for share in (0.5, 0.99)] == [50, 99]
    assert (quantile([], 0.5), quantile([3.0], 0.99)) == (0.0, 3.0)


@pytest.mark.parametrize(
    ("statement", "complaint"),
    [
        ("UPDATE perdure.run SET state = 1", "1 open runs: [1]"),
        ("INSERT INTO perdure.inbox (run_id, number, body) VALUES (1, 1, '')", "1 messages of closed runs: [1]"),
        (TASK, "1 tasks of closed runs: [1]"),
        ("INSERT INTO perdure.heartbeat VALUES (1, 1, '7')", "1 heartbeats of closed runs"),
        (
            "INSERT INTO perdure.inbox (run_id, number, body) VALUES (2, 1, '')",
            "1 messages, tasks and heartbeats without a run",
        ),
        ("INSERT INTO perdure.payload VALUES (1, 5, 1, '')", "1 payloads without a turn: [1]"),
        ("INSERT INTO perdure.history VALUES (2, 0, '')", "1 histories without a run: [2]"),
        ("INSERT INTO perdure.history VALUES (1, 2, '')", "1 histories with a gap: [1]"),
        (CLOSED % (2, 2), "1 instances with two runs: [1]"),
    ],
)
def test_what_is_left_over_is_complained_of(database: str, statement: str, complaint: str) -> None:
    migrate(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute((CLOSED % (1, 1)).encode())
        connection.execute("INSERT INTO perdure.history VALUES (1, 0, '')")
        assert check_leftovers(database) == []
        connection.execute(statement.encode())
    assert any(found.startswith(complaint) for found in check_leftovers(database))


def test_the_longest_wait_is_one_in_which_there_was_something_to_do() -> None:
    events = history((CALL, RETRY, DONE, END))
    events[3] = msgspec.structs.replace(events[3], time=datetime.fromtimestamp(100, UTC))
    events[2] = msgspec.structs.replace(events[2], time=datetime.fromtimestamp(15, UTC))
    assert longest_wait(RUN, events)[:2] == (4, RUN)
