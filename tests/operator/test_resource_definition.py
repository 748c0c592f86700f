"""What the WorkflowInstance definition promises to people with kubectl, asked of a real API server."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.operator.definition import DEFINITION, FILE, SCHEMA, VERSION, refusal
from tests.support.instances import Instances, condition, document
from tests.support.kubernetes import ControlPlane

SECRET = {"name": "payment", "key": "token"}
FULL_SPEC: dict[str, Any] = {
    "workflow": "order",
    "taskQueue": "fast",
    "input": {"card": "4242", "items": ["tea", "cups"], "address": {"city": "Lisbon", "lines": ["1", "2"]}},
    "inputFrom": [
        {"name": "rules", "configMapKeyRef": {"name": "order-rules", "key": "rules.json"}, "format": "JSON"},
        {"name": "api_key", "secretKeyRef": {"name": "payment", "key": "token"}, "format": "Text"},
    ],
    "buildId": "v7",
    "timeoutSeconds": 60,
    "priority": 7,
}
DEFAULTS = {"suspend": False, "deletionPolicy": "Cancel"}


def fields_of(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from fields_of(field, f"{path}.{name}")
    if "items" in schema:
        yield from fields_of(schema["items"], f"{path}[]")


# The definition and what people read about it


def test_the_definition_is_accepted_without_complaint(control_plane: ControlPlane) -> None:
    name = DEFINITION["metadata"]["name"]
    found = control_plane.request("GET", f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}")
    conditions = {each["type"]: each["status"] for each in found.body["status"]["conditions"]}
    assert conditions == {"NamesAccepted": "True", "Established": "True"}


def test_the_definition_is_small_enough_for_every_way_to_apply_it() -> None:
    assert FILE.stat().st_size < 64 * 1024


def test_every_field_and_every_column_is_described() -> None:
    # The API server allows no description of metadata here and adds its own.
    fields = [(path, field) for path, field in fields_of(SCHEMA) if path != ".metadata"]
    silent = [path for path, field in fields if not field.get("description", "").endswith(".")]
    silent += [column["name"] for column in VERSION["additionalPrinterColumns"] if not column.get("description")]
    assert silent == []


@pytest.mark.parametrize("path", ["", ".spec", ".spec.cancel", ".spec.inputFrom", ".status", ".status.conditions"])
def test_kubectl_explain_tells_what_every_field_is_for(control_plane: ControlPlane, path: str) -> None:
    text = " ".join(control_plane.kubectl("explain", f"wfi{path}").stdout.split())
    schema = dict(fields_of(SCHEMA))[path]
    fields = schema.get("items", schema)["properties"]
    assert " ".join(schema["description"].split()) in text
    # kubectl describes these three itself.
    standard = {"apiVersion", "kind", "metadata"} if path == "" else set()
    for name, field in fields.items():
        assert f" {name} <" in text
        assert name in standard or " ".join(field["description"].split()) in text


def test_every_immutable_field_says_so_where_people_read_about_it() -> None:
    for path, field in fields_of(SCHEMA["properties"]["spec"]):
        rules = [rule["rule"] for rule in field.get("x-kubernetes-validations", ())]
        assert ("self == oldSelf" in rules) == field["description"].endswith("Immutable."), path


# The spec


def test_a_workflow_is_all_that_must_be_given(instances: Instances) -> None:
    spec = instances.create_order()["spec"]
    assert spec == {
        "workflow": "order",
        "taskQueue": "default",
        "suspend": False,
        "deletionPolicy": "Cancel",
        "priority": 0,
    }


def test_an_input_of_any_shape_is_stored_as_it_was_given(instances: Instances) -> None:
    value: dict[str, Any] = {
        "none": None,
        "list": [1, 2.5, "three", {"deep": [None]}],
        "empty": {},
        "text": "žluť",
        "flag": False,
    }
    instances.create_order(input=value)
    assert instances.read()["spec"]["input"] == value


def test_a_large_input_does_not_blow_up_the_bookkeeping_of_its_fields(instances: Instances) -> None:
    created = instances.create_order(input={f"key-{number}": number for number in range(5_000)})
    assert len(json.dumps(created["metadata"]["managedFields"])) < 1024


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"workflow": None}, "spec.workflow"),
        ({"workflow": ""}, "spec.workflow"),
        ({"workflow": "w" * 254}, "spec.workflow"),
        ({"workflow": "or\0der"}, "spec.workflow"),
        ({"taskQueue": ""}, "spec.taskQueue"),
        ({"taskQueue": "fast\n"}, "spec.taskQueue"),
        ({"input": ["4242"]}, "spec.input"),
        ({"input": "4242"}, "spec.input"),
        ({"timeoutSeconds": 0}, "spec.timeoutSeconds"),
        ({"timeoutSeconds": 1.5}, "spec.timeoutSeconds"),
        ({"timeoutSeconds": 2**63 - 1}, "spec.timeoutSeconds"),
        ({"priority": -1}, "spec.priority"),
        ({"priority": 1001}, "spec.priority"),
        ({"deletionPolicy": "Keep"}, "spec.deletionPolicy"),
        ({"cancel": True}, "spec.cancel"),
        ({"cancel": {"mode": "Stop"}}, "spec.cancel.mode"),
        ({"cancel": {"reason": "r" * 1025}}, "spec.cancel.reason"),
        ({"cancel": {"reason": "\0"}}, "spec.cancel.reason"),
        ({"suspend": "yes"}, "spec.suspend"),
        ({"buildId": ""}, "spec.buildId"),
        ({"buildId": "v\x7f"}, "spec.buildId"),
        ({"ttlSecondsAfterFinished": -1}, "spec.ttlSecondsAfterFinished"),
        ({"ttlSecondsAfterFailure": -1}, "spec.ttlSecondsAfterFailure"),
        ({"inputFrom": []}, "spec.inputFrom"),
        ({"inputFrom": [{"name": "a"}]}, "spec.inputFrom[0]"),
        ({"inputFrom": [{"name": "a", "secretKeyRef": SECRET, "configMapKeyRef": SECRET}]}, "spec.inputFrom[0]"),
        ({"inputFrom": [{"name": "a", "secretKeyRef": SECRET, "format": "JSON"}]}, "spec.inputFrom[0].format"),
        ({"inputFrom": [{"name": "a-b", "secretKeyRef": SECRET}]}, "spec.inputFrom[0].name"),
        ({"inputFrom": [{"name": "a", "secretKeyRef": {"name": ".."}}]}, "spec.inputFrom[0].secretKeyRef.key"),
        (
            {"inputFrom": [{"name": "a", "configMapKeyRef": {**SECRET, "name": "../../other/configmaps/texts"}}]},
            "spec.inputFrom[0].configMapKeyRef.name",
        ),
        (
            {"inputFrom": [{"name": "a", "configMapKeyRef": {**SECRET, "key": "a/b"}}]},
            "spec.inputFrom[0].configMapKeyRef.key",
        ),
        (
            {"inputFrom": [{"name": "a", "secretKeyRef": {**SECRET, "name": ".."}}]},
            "spec.inputFrom[0].secretKeyRef.name",
        ),
        (
            {"inputFrom": [{"name": "a", "secretKeyRef": {**SECRET, "key": "a/b"}}]},
            "spec.inputFrom[0].secretKeyRef.key",
        ),
        ({"inputFrom": [{"name": "a", "secretKeyRef": SECRET}] * 2}, "spec.inputFrom"),
    ],
)
def test_a_wrong_value_is_refused_and_the_field_is_named(
    instances: Instances, changes: dict[str, Any], field: str
) -> None:
    refusal(instances.create("order-1", {"workflow": "order", **changes}), field)


def test_a_wrong_deletion_policy_is_answered_with_the_right_ones(instances: Instances) -> None:
    answer = instances.create("order-1", {"workflow": "order", "deletionPolicy": "Keep"})
    assert '"Cancel", "Abandon"' in refusal(answer, "spec.deletionPolicy")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("workflow", "refund"),
        ("taskQueue", "slow"),
        ("taskQueue", None),
        ("input", {"card": "1111"}),
        ("input", {"tip": 3}),
        ("input", {"card": None}),
        ("input", {"address": {"city": "Porto"}}),
        ("timeoutSeconds", 61),
        ("priority", 8),
        ("priority", None),
        ("buildId", "v8"),
        ("inputFrom", [{"name": "other", "secretKeyRef": {"name": "payment", "key": "token"}}]),
    ],
)
def test_what_a_run_began_with_cannot_be_changed(instances: Instances, field: str, value: Any) -> None:
    instances.create_order(**FULL_SPEC)
    message = refusal(instances.patch_spec({field: value}), f"spec.{field}")
    assert f"spec.{field} cannot be changed after creation: " in message
    assert "create a new WorkflowInstance" in message
    assert instances.read()["spec"] == FULL_SPEC | DEFAULTS


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input", {"card": "4242"}),
        ("timeoutSeconds", 60),
        ("buildId", "v7"),
        ("inputFrom", [{"name": "api_key", "secretKeyRef": {"name": "payment", "key": "token"}}]),
    ],
)
def test_what_a_run_began_without_cannot_be_added_or_removed(instances: Instances, field: str, value: Any) -> None:
    instances.create_order("without")
    instances.create_order("with", **{field: value})
    for name, change in (("without", value), ("with", None)):
        message = refusal(instances.patch_spec({field: change}, name), f"spec.{field}")
        assert f"spec.{field} cannot be added or removed after creation: " in message
        assert "create a new WorkflowInstance" in message


def test_kubectl_apply_shows_why_a_changed_manifest_is_refused(instances: Instances) -> None:
    instances.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(document("order-1", FULL_SPEC)))
    changed = yaml.safe_dump(document("order-1", FULL_SPEC | {"workflow": "refund"}))
    _, error = instances.kubectl("apply", "-f", "-", stdin=changed, check=False)
    assert 'The WorkflowInstance "order-1" is invalid: spec.workflow: Forbidden: spec.workflow cannot be' in error
    assert "create a new WorkflowInstance to run another workflow" in error


def test_applying_the_same_manifest_twice_changes_nothing(instances: Instances) -> None:
    manifest = yaml.safe_dump(document("order-1", FULL_SPEC))
    assert "created" in instances.kubectl("apply", "-f", "-", stdin=manifest)[0]
    assert "unchanged" in instances.kubectl("apply", "-f", "-", stdin=manifest)[0]


def test_kubectl_refuses_a_field_that_does_not_exist_and_names_it(instances: Instances) -> None:
    manifest = yaml.safe_dump(document("order-1", {"workflow": "order", "taskQeue": "fast"}))
    _, error = instances.kubectl("apply", "-f", "-", stdin=manifest, check=False)
    assert 'unknown field "spec.taskQeue"' in error
    assert instances.kubectl("get", "wfi", "-o", "name")[0] == ""


def test_a_request_to_cancel_cannot_be_taken_back(instances: Instances) -> None:
    instances.create_order()
    assert instances.patch_spec({"cancel": {"reason": "sold out"}}).body["metadata"]["generation"] == 2
    assert "spec.cancel cannot be removed" in refusal(instances.patch_spec({"cancel": None}), "spec.cancel")
    reworded = refusal(instances.patch_spec({"cancel": {"reason": "no tea"}}), "spec.cancel.reason")
    assert "spec.cancel.reason cannot be changed" in reworded
    assert instances.read()["spec"]["cancel"] == {"mode": "Cancel", "reason": "sold out"}


def test_a_request_to_cancel_may_become_a_termination_and_not_the_other_way_round(instances: Instances) -> None:
    instances.create_order(cancel={})
    changed = instances.patch_spec({"cancel": {"mode": "Terminate", "reason": "it hangs"}})
    assert changed.body["spec"]["cancel"] == {"mode": "Terminate", "reason": "it hangs"}
    message = refusal(instances.patch_spec({"cancel": {"mode": "Cancel"}}), "spec.cancel.mode")
    assert "spec.cancel.mode cannot go back to Cancel" in message


def test_what_steers_a_run_may_change_at_any_time(instances: Instances) -> None:
    instances.create_order()
    for changes in ({"suspend": True}, {"suspend": False}, {"ttlSecondsAfterFinished": 0, "ttlSecondsAfterFailure": 9}):
        written = instances.patch_spec(changes)
        assert written.body["spec"].items() >= changes.items()


def test_the_deletion_policy_may_change_at_any_time(instances: Instances) -> None:
    instances.create_order()
    for policy in ("Abandon", "Cancel"):
        assert instances.patch_spec({"deletionPolicy": policy}).body["spec"]["deletionPolicy"] == policy


# Lists


def shown(instances: Instances, *arguments: str) -> list[str]:
    return instances.kubectl("get", *arguments)[0].splitlines()


def test_instances_are_found_by_what_they_run_where_they_run_and_how_it_goes(instances: Instances) -> None:
    instances.create_order("a", suspend=True)
    instances.create_order("b", taskQueue="gpu")
    instances.create_order("c", workflow="refund", buildId="v7")
    for name, phase, run in (("a", "Failed", "7"), ("b", "Running", "8"), ("c", "Failed", "9")):
        instances.patch_status({"phase": phase, "runId": run}, name)

    def names(selector: str) -> list[str]:
        return shown(
            instances, "wfi", "-o", "custom-columns=:.metadata.name", "--no-headers", "--field-selector", selector
        )

    assert names("status.phase=Failed") == ["a", "c"]
    assert names("status.phase!=Failed") == ["b"]
    assert names("spec.workflow=order") == ["a", "b"]
    assert names("spec.workflow=order,status.phase=Failed") == ["a"]
    assert names("spec.taskQueue=gpu") == ["b"]
    assert names("spec.buildId=v7") == ["c"]
    assert names("spec.suspend=true") == ["a"]
    assert names("status.runId=9") == ["c"]


def test_kubectl_get_shows_the_state_of_each_run_in_a_line(instances: Instances) -> None:
    instances.create_order("fresh")
    instances.create_order("order-1")
    finished = [condition("Finished", "True", "Completed"), condition("Succeeded", "True", "AllStepsDone")]
    instances.patch_status({"phase": "Succeeded", "progress": "7/7", "conditions": finished})
    header, fresh, done = shown(instances, "wfi")
    assert header.split() == ["NAME", "WORKFLOW", "STATUS", "REASON", "PROGRESS", "AGE"]
    assert fresh.split()[:2] == ["fresh", "order"]
    assert done.split()[:5] == ["order-1", "order", "Succeeded", "AllStepsDone", "7/7"]
    assert done.split()[5].endswith("s")


def test_kubectl_get_wide_shows_what_a_run_waits_for_and_why(instances: Instances) -> None:
    instances.create_order()
    instances.patch_status(
        {
            "phase": "Running",
            "runId": "run-7",
            "waitingFor": "signal:approve",
            "startTime": "2026-01-02T03:04:05Z",
            "completionTime": "2026-01-02T03:05:05Z",
            "message": "a person has to approve",
        }
    )
    header, line = shown(instances, "wfi", "-o", "wide")
    titles = ["NAME", "WORKFLOW", "STATUS", "REASON", "PROGRESS", "AGE"]
    titles += ["WAITING FOR", "RUN", "STARTED", "FINISHED", "MESSAGE"]
    places = [header.index(title) for title in titles]
    assert places == sorted(places)
    cells = dict(
        zip(titles, (line[a:b].strip() for a, b in zip(places, [*places[1:], None], strict=True)), strict=True)
    )
    assert (cells["WAITING FOR"], cells["RUN"]) == ("signal:approve", "run-7")
    assert cells["STARTED"]
    assert cells["FINISHED"]
    assert cells["MESSAGE"] == "a person has to approve"


def test_the_kind_is_found_by_its_short_name_and_its_category(instances: Instances) -> None:
    instances.create_order()
    expected = "workflowinstance.perdure.dev/order-1"
    for kind in ("wfi", "workflowinstance", "workflowinstances", "workflows"):
        assert shown(instances, kind, "-o", "name") == [expected]
