"""Values: a wrong one is refused by its name before anything happens, and each one there is does something."""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.chart.golden import CASES, WHOLE, leaves
from tests.support.helm import CHART, Helm

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
POOL = {"workers": {"default": {"modules": ["shop.orders"]}}}
DATABASE = {"postgresql": {"external": {"existingSecret": "database"}}}


def render(helm: Helm, *values: dict[str, Any]) -> tuple[int, str]:
    """Return the exit code of `helm template` with these values and what it said or rendered."""
    arguments: list[str] = []
    for number, each in enumerate(values):
        file = Path(helm.folder) / f"values-{number}.yaml"
        file.write_text(yaml.safe_dump(each))
        arguments += ["--values", str(file)]
    answer = helm.run("template", "x", str(CHART), *arguments)
    return answer.returncode, answer.stdout if answer.returncode == 0 else answer.stderr


def nested(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """Return `value` below these names."""
    for name in reversed(path):
        value = {name: value}
    found: dict[str, Any] = value
    return found


def mappings(values: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every mapping that the chart itself defines."""
    yield before
    for name, value in values.items():
        if isinstance(value, dict) and value and (*before, name) not in WHOLE:
            yield from mappings(value, (*before, name))


PLACES = [*mappings(VALUES), ("workers", "default"), ("workers", "default", "autoscaling", "keda")]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(place) or "the top")
def test_an_unknown_name_is_refused_wherever_it_stands(place: tuple[str, ...]) -> None:
    values = copy.deepcopy({**VALUES, **POOL})
    jsonschema.Draft202012Validator(SCHEMA).validate(values)
    target = values
    for name in place:
        target = target.setdefault(name, {})
    target["replcas"] = 1
    with pytest.raises(jsonschema.ValidationError, match="'replcas' was unexpected"):
        jsonschema.Draft202012Validator(SCHEMA).validate(values)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"operatr": {}}, "additional properties 'operatr' not allowed"),
        ({"operator": {"replcas": 2}}, "at '/operator': additional properties 'replcas' not allowed"),
        (
            {"workers": {"default": {"autoscaling": {"keda": {"polling": 5}}}}},
            "at '/workers/default/autoscaling/keda': additional properties 'polling' not allowed",
        ),
        ({"workers": {"Big Pool": {"modules": ["x"]}}}, "additional properties 'Big Pool' not allowed"),
        ({"workers": {"default": {"replicas": "3"}}}, "at '/workers/default/replicas': got string, want"),
        ({"postgresql": {"mode": "mysql"}}, "at '/postgresql/mode': value must be one of 'external', 'cnpg', 'demo'"),
        ({"operator": {"replicas": 3}}, "at '/operator/replicas': maximum: got 3, want 2"),
        ({"image": {"digest": "latest"}}, "at '/image/digest': 'latest' does not match pattern"),
        ({"workers": {"default": {"queues": []}}}, "at '/workers/default/queues': minItems: got 0, want 1"),
    ],
    ids=["top", "section", "deep in a pool", "name of a pool", "type", "choice", "number", "pattern", "empty list"],
)
def test_helm_names_the_value_that_is_wrong(helm: Helm, values: dict[str, Any], said: str) -> None:
    code, text = render(helm, DATABASE, values)
    assert code != 0
    assert said in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (POOL, "kubectl -n default create secret generic"),
        ({**DATABASE, "workers": {"big": {}}}, "workers.big.modules is empty"),
        (
            {**DATABASE, "workers": {"big": {"modules": ["x"], "image": {"repository": "shop"}}}},
            "workers.big.image names a repository, but neither tag nor digest",
        ),
        (
            {**DATABASE, "workers": {"big": {"modules": ["x"], "autoscaling": {"kind": "hpa", "minReplicas": 0}}}},
            "only keda can start the first pod",
        ),
    ],
    ids=["no database", "no modules", "no version", "an autoscaler that cannot start"],
)
def test_what_is_missing_is_said_with_what_to_do(helm: Helm, values: dict[str, Any], said: str) -> None:
    code, text = render(helm, values)
    assert code != 0
    assert said in text


def test_a_tag_that_yaml_takes_for_a_number_is_refused_in_words_that_can_be_looked_up(helm: Helm) -> None:
    # 1.10 would become 1.1, and the nodes would pull another image.
    code, text = render(helm, DATABASE, {"workers": {"shop": {"modules": ["x"], "image": {"tag": 1.1}}}})
    assert code != 0
    assert "at '/workers/shop/image/tag': got number, want string" in text
    assert "`got number, want string`" in (CHART.parents[1] / "docs/operations/troubleshooting.md").read_text()


def test_a_pool_may_take_back_what_the_defaults_say(helm: Helm) -> None:
    defaults = {"workerDefaults": {"replicas": 2, "queues": ["a", "b"], "spread": True, "processes": 4}}
    own = {"workers": {"big": {"modules": ["x"], "replicas": None, "queues": ["c"], "spread": False}}}
    code, text = render(helm, DATABASE, defaults, own)
    assert code == 0, text
    (pool,) = (
        each
        for each in yaml.safe_load_all(text)
        if each and each["kind"] == "Deployment" and each["metadata"]["name"] == "x-perdure-worker-big"
    )
    pod = pool["spec"]["template"]["spec"]
    assert "replicas" not in pool["spec"]
    assert "topologySpreadConstraints" not in pod
    arguments = pod["containers"][0]["args"]
    assert [arguments[place + 1] for place, word in enumerate(arguments) if word == "--queue"] == ["c"]
    assert arguments[arguments.index("--processes") + 1] == "4"


def properties(schema: dict[str, Any], before: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the path of every value that the schema knows."""
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    inner = schema.get("properties", {}) if schema.get("additionalProperties") is False else {}
    if not inner:
        yield before
    for name, each in inner.items():
        yield from properties(each, (*before, name))


def test_schema_and_values_know_the_same_names() -> None:
    known = set(properties(SCHEMA)) - {("global",)}
    assert known == {path for path, _ in leaves(VALUES)}


def test_every_value_is_used_by_a_template() -> None:
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*.*"))
    # What settings have in common is handed to helpers, so only the last name can be looked for.
    unused = {".".join(path) for path, _ in leaves(VALUES) if not re.search(rf"\.{path[-1]}\b", templates)}
    assert unused == set()


def test_the_case_everything_sets_every_value_but_those_of_other_databases() -> None:
    (case,) = (case for case in CASES if case.stem == "everything")
    values = yaml.safe_load(case.read_text())
    mentioned = {path[-1] for path, _ in leaves(values)} | {name for path, _ in leaves(values) for name in path}
    elsewhere = {"cnpg", "demo", "crds"}
    missing = {
        ".".join(path)
        for path, _ in leaves(VALUES)
        if path[-1] not in mentioned and not elsewhere & set(path) and path[-1] not in USUAL
    }
    assert missing == set()


# Other cases set them, or their defaults are what everybody has.
USUAL = {
    *("nameOverride", "fullnameOverride", "create", "aggregateRoles", "watchNamespaces", "apiServerPorts", "interval"),
    *("scaleDownSeconds", "cpuPercent", "pollingSeconds", "cooldownSeconds", "timeoutSeconds", "mode", "name"),
    *("podSecurityContext", "containerSecurityContext"),
}
