"""What a process says about itself: sums of what several have counted, pages in both formats, records with ids."""

import json
import logging
from dataclasses import dataclass

import pytest

from perdure.activity import ActivityInfo, context
from perdure.model.runs import UNBORN, RunId, RunInfo
from perdure.store.base import Census, Queue
from perdure.telemetry.logs import JsonFormatter, TextFormatter, _add_ids, about
from perdure.telemetry.prometheus import page, worker_metrics
from perdure.telemetry.tally import AttemptCounts, Now, Slots, Tally, total
from perdure_operator.metrics import MOST_QUEUES, OTHERS, Standing, operator_metrics
from tests.support.metrics import Page

RUN = RunInfo(id="order-1", run_id=RunId(7), namespace="shop", workflow="order", queue="default")


def counted(activity: str, seconds: float) -> Tally:
    tally = Tally(
        turns=2,
        attempts={activity: AttemptCounts(completed=1)},
        closed={"order": {"completed": 1}},
        now=Now({"v1": 1}, 3, {"async": Slots(100, 1, 0)}),
    )
    tally.attempts[activity].seconds.observe(seconds)
    tally.flush.observe(seconds)
    return tally


def read(tally: Tally) -> Page:
    return Page(page(worker_metrics(tally))[1].decode())


def test_several_processes_are_shown_as_one() -> None:
    found = read(total([counted("pack", 0.002), counted("pack", 0.2), counted("ship", 2)]))
    assert found.complaints() == []
    assert found.value("perdure_worker_turns_total") == 6
    assert found.value("perdure_worker_ready", build="v1") == 3
    assert found.value("perdure_worker_activity_attempts_total", activity="pack") == 2
    assert found.value("perdure_worker_activity_attempts_total", activity="ship", outcome="completed") == 1
    assert found.value("perdure_worker_activity_places", kind="async") == 300
    assert found.value("perdure_worker_flush_seconds_count") == 3
    assert found.value("perdure_worker_flush_seconds_sum") == pytest.approx(2.202)


def test_a_duration_is_in_every_bucket_that_is_not_below_it() -> None:
    found = read(counted("pack", 0.25))
    buckets = {"0.1": 0, "0.25": 1, "0.5": 1, "600.0": 1, "+Inf": 1}
    for bound, count in buckets.items():
        assert found.value("perdure_worker_activity_attempt_seconds_bucket", activity="pack", le=bound) == count


def test_of_a_process_that_has_ended_the_counters_stay() -> None:
    found = read(total([counted("pack", 0.1).past()]))
    assert found.value("perdure_worker_turns_total") == 2
    assert not found.has("perdure_worker_ready")
    assert found.value("perdure_worker_runs_owned") == 0


def test_a_copy_does_not_change_with_the_original() -> None:
    tally = counted("pack", 0.1)
    copy = tally.copy()
    tally.attempts["pack"].completed += 1
    assert copy.attempts["pack"].completed == 1


def test_who_asks_for_the_newer_format_gets_it() -> None:
    content_type, content = page(worker_metrics(Tally()), "application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert content.endswith(b"# EOF\n")


def test_queues_that_somebody_makes_up_do_not_flood_the_metrics() -> None:
    queues = {
        ("shop", f"queue-{number}"): Queue(runs=number, oldest=float(number)) for number in range(MOST_QUEUES + 50)
    }
    standing = Standing(
        leading=True,
        terms=1,
        status_writes={},
        reconcile_errors=0,
        api_errors={},
        store_errors=0,
        census=Census(open=1, held={}, queues=queues),
    )
    found = Page(page(operator_metrics(standing))[1].decode())
    assert found.complaints() == []
    assert found.value("perdure_backlog_runs") == sum(range(MOST_QUEUES + 50))
    assert found.value("perdure_backlog_runs", run_namespace=OTHERS, queue=OTHERS) == sum(range(51))
    assert found.value("perdure_backlog_oldest_seconds", queue=OTHERS) == 50
    assert found.value("perdure_runs_held", reason="PoisonRun") == 0


def record(text: str = "hello", **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("shop", logging.INFO, __file__, 1, text, None, None)
    made.__dict__.update(extra)
    return made


@dataclass
class Begun:
    """An attempt, as far as a record wants to know."""

    info: ActivityInfo
    cancelled: bool = False

    def beat(self, details: object) -> None:
        raise AssertionError(details)


def test_a_record_of_an_attempt_has_its_ids_whatever_logger_writes_it() -> None:
    info = ActivityInfo(name="pack", attempt=2, queue="q", workflow_id="order-1", run_id=7, seq=1, installation="here")
    token = context.set(Begun(info))
    try:
        found = record()
        assert _add_ids(found)
    finally:
        context.reset(token)
    parsed = json.loads(JsonFormatter().format(found))
    assert {name: parsed[name] for name in ("workflow_id", "run_id", "activity", "attempt")} == {
        "workflow_id": "order-1",
        "run_id": 7,
        "activity": "pack",
        "attempt": 2,
    }
    assert "[order-1 pack] hello" in TextFormatter().format(found)


def test_the_text_of_workflow_code_is_without_its_id_where_the_id_has_a_field() -> None:
    parsed = json.loads(JsonFormatter().format(record("[order-1] hello", **about(RUN))))
    assert (parsed["message"], parsed["workflow_id"], parsed["workflow"]) == ("hello", "order-1", "order")
    assert (parsed["namespace"], parsed["run_id"]) == ("shop", 7)


def test_a_run_whose_start_is_not_recorded_has_no_id_yet() -> None:
    unborn = RunInfo(id="order-1", run_id=UNBORN, namespace="shop", workflow="order", queue="default")
    assert "run_id" not in about(unborn)


def test_an_error_is_one_field_of_one_line() -> None:
    try:
        raise ValueError("two\nlines\u2028of text")
    except ValueError as error:
        made = logging.LogRecord("shop", logging.ERROR, __file__, 1, "failed", None, (type(error), error, None))
    line = JsonFormatter().format(made)
    assert len(line.splitlines()) == 1
    assert json.loads(line)["exception"].endswith("ValueError: two\nlines\u2028of text")
