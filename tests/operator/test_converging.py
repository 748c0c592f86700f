"""Gaps in what the operator sees, a full etcd, and a definition newer than the operator: everything converges."""

import copy
import json
import signal

import pytest

from tests.operator.definition import DEFINITION
from tests.operator.stage import Stage, condition
from tests.support.cli import eventually
from tests.support.kubernetes import ControlPlane


def test_a_deletion_inside_a_gap_of_the_watch_is_noticed(stage: Stage) -> None:
    """The API server has forgotten what happened meanwhile, and kopf's new list tells nobody of what is not in it."""
    stage.operators[-1].stop()
    with stage.worker() as worker, stage.operator(PERDURE_OPERATOR_LEASE_SECONDS="300") as operator:
        worker.until_it_serves()
        operator.until_it_leads()
        for name in ("gone", "kept"):
            stage.apply(name, "approval")
            stage.until_phase(name, "Running")
        operator.process.send_signal(signal.SIGSTOP)
        for _ in range(2):  # the first time cuts the watch, the second one forgets the deletion
            stage.plane.stop_api_server()
            stage.plane.start_api_server()
            if stage.instances.kubectl("get", "wfi", "gone", "-o", "name", check=False)[0]:
                stage.delete("gone")
        operator.process.send_signal(signal.SIGCONT)
        stage.until_run("gone", "Cancelled")
        assert len(operator.until(" leads ")) == 1, "it is the same term, so nothing was listed at its beginning"
        assert stage.cli.describe("kept")["phase"] == "Running"
        stage.cli.out("signal", "kept", "approve", '"yes"')
        stage.until_phase("kept", "Succeeded")


def test_while_etcd_has_no_space_runs_go_on_and_statuses_come_when_it_has(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("one", "gated", {"gate": "north"})
        stage.until_phase("one", "Running")
        with stage.plane.full_disk():
            stage.cli.open_gate("north")
            stage.until_run("one", "Succeeded")
            operator = stage.operators[-1]
            eventually(lambda: operator.probe("/readyz")[0] == 503, "an operator that is not ready")
            assert operator.probe("/healthz")[0] == 200
            assert stage.status("one")["phase"] == "Running"
        stage.until_phase("one", "Succeeded")
        assert stage.operators[-1].process.poll() is None


def test_a_definition_with_a_new_field_disturbs_neither_runs_nor_this_operator(
    control_plane: ControlPlane, stage: Stage
) -> None:
    newer = copy.deepcopy(DEFINITION)
    spec = newer["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    spec["properties"]["tomorrow"] = {"type": "string", "default": "a field of a later release"}
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("before", "gated", {"gate": "north"})
        stage.until_phase("before", "Running")
        control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(newer))
        try:
            eventually(lambda: "tomorrow" in stage.instances.read("before")["spec"], "the new field of an old object")
            stage.apply("after", "greet", {"name": "Ada"})
            stage.until_phase("after", "Succeeded")
            stage.instances.patch_spec({"suspend": True}, "before")
            stage.until_phase("before", "Suspended")
            stage.instances.patch_spec({"suspend": False}, "before")
            stage.restart_operator()
            stage.cli.open_gate("north")
            status = stage.until_phase("before", "Succeeded")
            assert condition(status, "Accepted")["status"] == "True"
            assert stage.operators[-1].process.poll() is None
        finally:
            control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(DEFINITION))


@pytest.mark.parametrize("kilobytes", [300, 1_000])
def test_an_input_that_etcd_takes_and_a_run_does_not_is_refused_with_its_size(stage: Stage, kilobytes: int) -> None:
    stage.apply("fat", "greet", {"name": "x" * kilobytes * 1_000})
    status = stage.until_phase("fat", "Stalled")
    for kind, truth in (("Accepted", "False"), ("Stalled", "True")):
        assert (condition(status, kind)["status"], condition(status, kind)["reason"]) == (truth, "InvalidSpec")
        assert f"spec.input: {kilobytes * 1_000 + 11} bytes" in condition(status, kind)["message"]
    stage.apply("thin", "greet", {"name": "Ada"})
    stage.until("thin", lambda status: "runId" in status)
    assert [run["id"] for run in stage.runs()] == ["thin"]


def test_an_input_that_etcd_does_not_take_is_refused_when_it_is_applied(stage: Stage) -> None:
    answer = stage.instances.create("vast", {"workflow": "greet", "input": {"name": "x" * 1_600_000}})
    assert answer.status >= 400
    assert "too large" in answer.body["message"]
