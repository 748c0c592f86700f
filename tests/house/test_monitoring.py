"""The page about monitoring lists the metrics that there are, as they describe themselves."""

import re
from pathlib import Path

import psycopg
import pytest

from perdure.store.base import Census, Queue
from perdure.store.postgres.migrate import migrate
from perdure.telemetry.prometheus import worker_metrics
from perdure.telemetry.tally import AttemptCounts, Now, Slots, Tally
from perdure_operator.metrics import Standing, operator_metrics

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations" / "monitoring.md").read_text()
ROW = re.compile(r"^\| `(perdure_\w+)` \| (\w+) \|([^|]*)\| ([^|]+) \|$", re.MULTILINE)

TALLY = Tally(
    attempts={"pack": AttemptCounts()},
    closed={"order": {"completed": 0}},
    held={"NonDeterminism": 0},
    now=Now({"v1": 1}, 0, {"async": Slots()}),
)
STANDING = Standing(
    leading=True,
    terms=1,
    status_writes={"written": 1},
    reconcile_errors=0,
    api_errors={"403": 1},
    store_errors=0,
    watched_at=1.0,
    compared_at=1.0,
    census=Census(open=0, held={}, queues={("default", "default"): Queue()}),
)


def test_the_page_has_every_metric_with_its_type_its_labels_and_its_meaning() -> None:
    listed = {
        name: (kind, set(re.findall(r"`(\w+)`", labels)), meaning) for name, kind, labels, meaning in ROW.findall(PAGE)
    }
    there = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name: (
            metric.type,
            {label for sample in metric.samples for label in sample.labels} - {"le"},
            metric.documentation,
        )
        for metric in [*worker_metrics(TALLY), *operator_metrics(STANDING)]
    }
    assert listed == there


def test_the_queries_of_the_page_ask_for_what_there_is() -> None:
    listed = {name for name, *_ in ROW.findall(PAGE)}
    asked = {name.removesuffix("_bucket") for name in re.findall(r"perdure_\w+", PAGE)}
    assert asked <= listed


def test_the_statement_of_the_page_runs(database: str) -> None:
    migrate(database)
    [statement] = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
    with psycopg.connect(database) as connection:
        assert connection.execute(statement.encode()).fetchall() == []


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/metrics"])
def test_the_page_names_every_path(path: str) -> None:
    assert f"`{path}`" in PAGE
