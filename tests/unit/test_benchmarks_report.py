"""The pure parts of the benchmarks: numbers to medians, targets, tables and charts."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.campaign import MOST_BYTES, rows_like
from benchmarks.chart import Bar, bars, charts
from benchmarks.measure import Sample, percentile
from benchmarks.plan import SCALES
from benchmarks.report import render, table
from benchmarks.results import Measured, as_json, find, from_json, number
from benchmarks.scenarios import scenarios
from benchmarks.targets import Verdict, at_least, at_most, ratio, verdicts


def sample(operations: int = 100, seconds: float = 1.0, **values: Any) -> Sample:
    return Sample(operations=operations, seconds=seconds, **values)


def measured(scenario: str, setting: str, subject: str, *samples: Sample) -> Measured:
    return Measured(scenario, setting, subject, list(samples))


def judged(name: str, *found: Measured) -> Verdict:
    [verdict] = [verdict for verdict in verdicts(found) if name in verdict.name]
    return verdict


def busy(subject: str, rate: int, **values: Any) -> Measured:
    return measured("sequential", "50 in flight", subject, sample(rate, **values))


def test_a_rate_is_the_median_of_the_rounds_and_the_spread_is_a_share_of_it() -> None:
    three = measured("s", "x", "Perdure", sample(100), sample(300), sample(200))
    assert three.rate == 200
    assert three.spread == 1.0


def test_cpu_is_per_thousand_operations_and_postgres_stands_apart() -> None:
    both = measured("s", "x", "Perdure", sample(500, cpu={"client": 1.0, "worker 1": 2.0, "postgres": 0.5}))
    assert both.cpu_ours == 6.0
    assert both.cpu_postgres == 1.0
    assert both.cpu("client") == 2.0
    assert both.processes == ["client", "worker 1"]


def test_cpu_that_was_not_read_is_not_zero() -> None:
    assert measured("s", "x", "Perdure", sample(cpu={"client": 1.0})).cpu_postgres is None


def test_commits_and_wal_are_per_operation() -> None:
    found = measured("s", "x", "Perdure", sample(100, commits=5, wal=40_000))
    assert (found.commits, found.wal) == (0.05, 400)


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([], 0.5, None), ([3.0], 0.99, 3.0), ([1.0, 2.0, 3.0], 0.5, 2.0), (list(map(float, range(101))), 0.99, 99.0)],
)
def test_percentiles(values: list[float], share: float, expected: float | None) -> None:
    assert percentile(values, share) == expected


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0"),
        (12_345.6, "12,346"),
        (12.34, "12.3"),
        (0.123, "0.12"),
        (0.0021, "0.0021"),
        (-5.0, "-5.00"),
    ],
)
def test_numbers_have_as_many_digits_as_they_are_worth(value: float | None, text: str) -> None:
    assert number(value) == text


def test_samples_survive_json() -> None:
    found = [measured("s", "x", "Perdure", sample(p50=1.0, cpu={"postgres": 1.0}, extra={"rows": 3}))]
    assert from_json(as_json(found)) == found
    assert Sample.from_json(found[0].samples[0].to_json()) == found[0].samples[0]


def test_what_was_planned_but_not_measured_is_not_found() -> None:
    assert find([measured("s", "x", "Perdure")], "s", "x", "Perdure") is None


@pytest.mark.parametrize(("value", "met"), [(59.9, False), (60.0, True), (None, None)])
def test_a_target_from_below(value: float | None, met: bool | None) -> None:
    assert at_least("t", 60, value).met is met


@pytest.mark.parametrize(("value", "met"), [(0.051, False), (0.05, True), (None, None)])
def test_a_target_from_above(value: float | None, met: bool | None) -> None:
    assert at_most("t", 0.05, value).met is met


def test_a_ratio_to_nothing_is_unknown() -> None:
    assert ratio(1.0, 0.0) is None
    assert ratio(None, 2.0) is None
    assert ratio(3.0, 2.0) == 1.5


def test_throughput_is_judged_against_dbos_and_the_core_of_the_same_run() -> None:
    found = [busy("Perdure", 12_000), busy("DBOS", 200), busy("bare core", 30_000)]
    [dbos] = [verdict for verdict in verdicts(found) if verdict.name == "sequential, 50 in flight: times DBOS"]
    assert (dbos.measured, dbos.met) == ("60.0", True)
    core = judged("share of the bare core", *found)
    assert (core.measured, core.met) == ("0.40", False)


def test_four_workers_are_judged_with_their_client_on_one_machine_and_without_it_on_cores_of_their_own() -> None:
    spent = {"client": 1.0, "postgres": 3.0} | {f"worker {number}": 1.0 for number in (1, 2, 3, 4)}
    found = measured("processes", "4 workers", "Perdure", sample(1_000, cpu=spent))
    together = judged("as a multiple of ours", found)
    assert (together.measured, together.met) == ("0.60", False)
    apart = judged("use a core each", found)
    assert (apart.measured, apart.met) == ("3.00 cores", True)


def test_nothing_is_met_where_nothing_was_measured() -> None:
    assert {verdict.met for verdict in verdicts([])} == {None}
    assert {verdict.measured for verdict in verdicts([])} == {"not measured"}


def test_latency_is_judged_in_one_process_and_in_two() -> None:
    def single(setting: str, subject: str, p50: float) -> Measured:
        return measured("single", setting, subject, sample(p50=p50))

    found = [
        single("one process", "DBOS", 8.0),
        single("one process", "Perdure", 2.0),
        single("client and worker in two", "Perdure", 4.1),
    ]
    assert judged("single, one process", *found).met is True
    assert judged("in two", *found).met is False


def extra(scenario: str, setting: str, **values: float) -> Measured:
    return measured(scenario, setting, "Perdure", sample(extra=values))


COSTS: list[tuple[str, Callable[[float], Measured], float, float]] = [
    ("WAL", lambda value: busy("Perdure", 100, wal=round(100 * value)), 400, 401),
    ("commits", lambda value: busy("Perdure", 100, commits=round(100 * value)), 0.05, 0.06),
    ("cold replay", lambda value: extra("cold replay", "1,000 activities", us_per_event=value), 10, 11),
    (
        "idle worker",
        lambda value: measured("idle", "nothing to do", "Perdure", sample(round(100 * value), 100)),
        1,
        1.1,
    ),
    ("start", lambda value: measured("start", "500 at a time", "Perdure", sample(round(value))), 5_000, 4_999),
    ("idle worker process", lambda value: extra("memory", "one worker process", idle_mb=value), 80, 81),
    ("1,000 active", lambda value: extra("memory", "one worker process", active_adds_mb=value), 30, 31),
    ("for a message", lambda value: extra("memory", "one worker process", parked_run_adds_kb=value), 0.1, 1),
    ("for a timer", lambda value: extra("memory", "one worker process", sleeping_run_adds_kb=value), 0.1, 1),
    (
        "long run",
        lambda value: extra("long run", "10,000 activities", events=1.0, tenth_1_us=100, tenth_10_us=100 * value),
        1.2,
        1.3,
    ),
    (
        "4 worker processes: PostgreSQL's CPU",
        lambda value: measured("processes", "4 workers", "Perdure", sample(cpu={"worker 1": 1.0, "postgres": value})),
        1.0,
        0.9,
    ),
]


@pytest.mark.parametrize(("name", "make", "good", "bad"), COSTS, ids=[name for name, *_ in COSTS])
def test_each_cost_is_met_at_its_target_and_missed_beyond_it(
    name: str, make: Callable[[float], Measured], good: float, bad: float
) -> None:
    def met(value: float) -> bool | None:
        [answer] = [v.met for v in verdicts([make(value)]) if name in v.name and v.met is not None]
        return answer

    assert met(good) is True
    assert met(bad) is False


def test_claims_from_a_long_queue_are_judged_by_those_from_a_short_one() -> None:
    def claims(setting: str, p50: float) -> Measured:
        return measured("backlog", setting, "Perdure", sample(p50=p50))

    assert judged("claims", claims("1,000 ready", 2.0), claims("1,000,000 ready", 2.4)).met is True
    assert judged("claims", claims("1,000 ready", 2.0), claims("1,000,000 ready", 4.0)).met is False


@pytest.mark.parametrize("scale", SCALES.values(), ids=SCALES)
def test_every_judged_setting_is_in_the_plan(scale: Any) -> None:
    planned = {
        (scenario.name, step.setting, step.subject.name) for scenario in scenarios(scale) for step in scenario.steps
    }
    assert {
        ("sequential", "50 in flight", "Perdure"),
        ("sequential", "50 in flight", "DBOS"),
        ("sequential", "50 in flight", "bare core"),
        ("sequential", "50 in flight", "bare core, uvloop"),
        ("fan-out", "1,000 at once", "DBOS"),
        ("start", "500 at a time", "Perdure"),
        ("single", "client and worker in two", "Perdure"),
        ("idle", "nothing to do", "Perdure"),
        ("processes", "4 workers", "Perdure"),
        ("memory", "one worker process", "Perdure"),
    } <= planned


def test_a_floor_writes_the_rows_that_were_recorded_in_batches_as_large() -> None:
    written = rows_like(sample(1_000, extra={"rows": 1_400, "bytes": 280_000, "flushes": 28}))
    assert (written["size"], written["batch"]) == (200, 50)
    assert written["rows"] % 1_400 == 0
    assert written["operations"] == written["rows"] // 1_400 * 1_000


def test_a_floor_of_large_rows_writes_them_once() -> None:
    written = rows_like(sample(50, extra={"rows": 100, "bytes": 2 * MOST_BYTES, "flushes": 50}))
    assert (written["rows"], written["operations"]) == (100, 50)


def test_a_chart_is_well_formed_and_a_bar_ten_times_as_long_is_one_step_longer() -> None:
    picture = bars("Title & more", "a second", [("group", [Bar("Perdure", 1_000), Bar("DBOS", 100), Bar("x", 10)])])
    root = ET.fromstring(picture)
    widths = [float(element.attrib["width"]) for element in root if element.tag.endswith("rect")][1:]
    assert widths[0] - widths[1] == pytest.approx(widths[1] - widths[2], abs=0.2)
    assert widths[2] > 0


def test_nothing_is_drawn_where_nothing_was_measured() -> None:
    assert charts([]) == {}


def test_both_charts_are_drawn_from_what_was_measured() -> None:
    found = [busy("Perdure", 100), measured("single", "one process", "Perdure", sample(p50=2.0))]
    assert set(charts(found)) == {"throughput.svg", "latency.svg"}


def test_the_report_says_what_was_missed_and_shows_each_scenario_that_was_measured() -> None:
    found = [busy("Perdure", 100, wal=100_000), busy("DBOS", 50)]
    text = render({"machine": "a machine", "load": "0.1"}, scenarios(SCALES["default"]), found)
    assert "| sequential, 50 in flight: times DBOS | ≥ 60 | 2.00 | **missed** |" in text
    assert "- **machine**: a machine" in text
    assert "Load of the machine: 0.1." in text
    assert "## Sequential" in text
    assert "## Payloads" not in text


def test_a_table_has_a_line_for_each_row() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n|---|---|\n| 1 | 2 |"
