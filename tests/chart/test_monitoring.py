"""Alerts and dashboard read the metrics that the chart's README lists, and each of those is read."""

import json
import re

import pytest
import yaml

from tests.chart.golden import README
from tests.integration.test_metrics_of_workers import TYPES
from tests.operator.test_operator_metrics import OF_A_TERM, OWN
from tests.support.helm import CHART

METRIC = re.compile(r"\bperdure_[a-z_]+")
PAGE = (CHART.parents[1] / "docs" / "operations" / "monitoring.md").read_text()
ROW = re.compile(r"^\| `(perdure_\w+)` \| (\w+) \|([^|]*)\| [^|]+ \|$", re.MULTILINE)
ALERTS = yaml.safe_load((CHART / "files" / "alerts.yaml").read_text())
DASHBOARD = json.loads((CHART / "files" / "dashboard.json").read_text())


def listed(page: str) -> dict[str, tuple[str, set[str]]]:
    """Return type and labels of every metric in the table of a page."""
    return {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in ROW.findall(page)}


LISTED = listed(README.read_text())


def expressions() -> list[str]:
    """Return every query of alerts and dashboard."""
    alerts = [rule["expr"] for group in ALERTS["groups"] for rule in group["rules"]]
    return alerts + [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def name_of(metric: str) -> str:
    """Return the metric that a series belongs to."""
    return metric.removesuffix("_bucket")


def test_what_is_listed_is_what_the_programs_show() -> None:
    assert {name: kind for name, (kind, _) in LISTED.items()}.items() <= (TYPES | OWN | OF_A_TERM).items()


def test_the_list_gives_the_labels_of_the_page_on_monitoring() -> None:
    of_the_page = listed(PAGE)
    assert {name: of_the_page[name] for name in LISTED} == LISTED


def test_what_is_read_is_what_is_listed() -> None:
    assert {name_of(metric) for each in expressions() for metric in METRIC.findall(each)} == set(LISTED)


def test_the_dashboard_shows_what_the_page_on_monitoring_says_to_look_at_first() -> None:
    first = PAGE.partition("## What to look at first")[2].partition("\n## ")[0]
    shown = {
        name_of(metric)
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
        for metric in METRIC.findall(target["expr"])
    }
    wanted = {name_of(metric) for metric in METRIC.findall(first)}
    assert wanted
    assert wanted <= shown


@pytest.mark.parametrize("expression", expressions())
def test_a_query_reads_a_metric_as_what_it_is(expression: str) -> None:
    for metric in METRIC.findall(expression):
        kind, _ = LISTED[name_of(metric)]
        rated = re.search(rf"(rate|increase)\({metric}\{{", expression) is not None
        assert rated == (kind != "gauge"), f"{metric} is a {kind}"
        assert metric.endswith("_bucket") == (kind == "histogram")
        # Releases in other namespaces have the same metrics.
        assert re.search(rf'{metric}\{{namespace="(NAMESPACE|\$namespace)"', expression)


@pytest.mark.parametrize("expression", expressions())
def test_a_query_names_labels_that_its_metrics_have(expression: str) -> None:
    own = {label for metric in METRIC.findall(expression) for label in LISTED[name_of(metric)][1]}
    for labels in re.findall(r"by \(([^)]+)\)", expression):
        assert set(re.findall(r"\w+", labels)) <= own | {"pod", "le"}
    assert expression.count("(") == expression.count(")")
    assert expression.count("{") == expression.count("}")


def test_every_alert_says_what_is_the_matter_and_where_to_look() -> None:
    rules = [rule for group in ALERTS["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + across, place["y"] + down) for across in range(place["w"]) for down in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
