"""What the WorkflowInstance definition says about statuses, asked of a real API server."""

import pytest

from tests.operator.definition import SCHEMA, refusal
from tests.support.instances import Instances, condition


def test_a_status_write_is_not_a_new_generation(instances: Instances) -> None:
    created = instances.create_order()
    written = instances.patch_status({"phase": "Running", "observedGeneration": 1})
    assert written.body["status"] == {"phase": "Running", "observedGeneration": 1}
    assert written.body["metadata"]["generation"] == created["metadata"]["generation"] == 1
    assert written.body["metadata"]["resourceVersion"] != created["metadata"]["resourceVersion"]


def test_a_status_cannot_be_written_through_the_object_itself(instances: Instances) -> None:
    forged = {"phase": "Succeeded"}
    created = instances.create("order-1", {"workflow": "order"}, status=forged)
    assert created.status == 201
    assert "status" not in created.body
    replaced = instances.replace({**created.body, "status": forged})
    assert replaced.status == 200
    assert "status" not in replaced.body


def test_a_spec_cannot_be_written_through_the_status(instances: Instances) -> None:
    instances.create_order()
    written = instances.patch_status({"phase": "Running"}, spec={"suspend": True})
    assert written.body["status"]["phase"] == "Running"
    assert written.body["spec"]["suspend"] is False


def test_a_full_status_is_stored_as_it_was_written(instances: Instances) -> None:
    status = {
        "observedGeneration": 1,
        "phase": "Running",
        "runId": "0198c0de-0000-7000-8000-000000000000",
        "startTime": "2026-01-02T03:04:05Z",
        "completionTime": "2026-01-02T03:05:05Z",
        "progress": "3/7",
        "waitingFor": "signal approve",
        "result": '{"payment":"p-1"}',
        "resultRef": {"runId": "7", "size": 17},
        "message": "charge failed twice",
        "conditions": [condition("Accepted", "True", "Recorded"), condition(), condition("Finished")],
    }
    instances.create_order()
    assert instances.patch_status(status).body["status"] == status
    assert set(status) == set(SCHEMA["properties"]["status"]["properties"])


def test_a_phase_of_a_later_release_is_accepted(instances: Instances) -> None:
    instances.create_order()
    assert instances.patch_status({"phase": "Hibernating"}).status == 200


@pytest.mark.parametrize("field", ["type", "status", "reason", "message", "lastTransitionTime"])
def test_a_condition_is_complete(instances: Instances, field: str) -> None:
    instances.create_order()
    incomplete = {name: value for name, value in condition().items() if name != field}
    refusal(instances.patch_status({"conditions": [incomplete]}), f"status.conditions[0].{field}")


@pytest.mark.parametrize("reason", ["", "it broke", "lowerCase", "Has_Underscore"])
def test_the_reason_of_a_condition_is_a_camel_case_word(instances: Instances, reason: str) -> None:
    instances.create_order()
    answer = instances.patch_status({"conditions": [condition(reason=reason)]})
    refusal(answer, "status.conditions[0].reason")


def test_the_status_of_a_condition_is_one_of_three(instances: Instances) -> None:
    instances.create_order()
    answer = instances.patch_status({"conditions": [condition(status="Maybe")]})
    assert '"True", "False", "Unknown"' in refusal(answer, "status.conditions[0].status")


def test_two_conditions_of_one_type_are_refused(instances: Instances) -> None:
    instances.create_order()
    answer = instances.patch_status({"conditions": [condition(), condition(status="True", reason="Completed")]})
    refusal(answer, "status.conditions[1]")


def test_kubectl_wait_returns_when_the_run_has_finished(instances: Instances) -> None:
    instances.create_order()
    instances.patch_status({"conditions": [condition("Finished", "True", "Failed")]})
    text, _ = instances.kubectl("wait", "--for=condition=Finished", "wfi/order-1", "--timeout=30s")
    assert "condition met" in text
