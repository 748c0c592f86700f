"""What `kubectl describe` tells about an object beyond its status, and how little that is."""

from typing import Any

from tests.operator.stage import Stage
from tests.support.cli import eventually


def events(stage: Stage, name: str) -> list[dict[str, Any]]:
    path = f"/apis/events.k8s.io/v1/namespaces/{stage.namespace}/events"
    found: list[dict[str, Any]] = stage.plane.request("GET", path).body["items"]
    return [event for event in found if event["regarding"]["name"] == name]


def reasons(stage: Stage, name: str) -> list[str]:
    return sorted(event["reason"] for event in events(stage, name))


def test_a_failure_and_a_standstill_are_told_once_and_success_is_not(stage: Stage) -> None:
    stage.apply("unknown", "mystery")
    with stage.worker() as worker:
        worker.until_it_serves()
        for name, workflow, spec in (("fine", "greet", {"input": {"name": "Ada"}}), ("failed", "broken", {})):
            stage.instances.create_order(name, workflow=workflow, **spec)
        stage.until_phase("fine", "Succeeded")
        stage.until_phase("failed", "Failed")
        stage.until_phase("unknown", "Stalled")
        eventually(lambda: reasons(stage, "failed"), "an event of the failure")
        eventually(lambda: reasons(stage, "unknown"), "an event of the standstill")
        stage.restart_operator()
        # What was told is not told again by the next operator, which has reported something else since.
        stage.apply("witness", "broken")
        eventually(lambda: reasons(stage, "witness"), "an event of the new operator")
    assert reasons(stage, "failed") == ["WorkflowFailed"]
    assert reasons(stage, "unknown") == ["UnknownWorkflow"]
    assert reasons(stage, "fine") == []
    described, _ = stage.instances.kubectl("describe", "wfi", "failed")
    assert "WorkflowFailed" in described.partition("Events:")[2]
    assert "the card was refused" in described.partition("Events:")[2]
    (event,) = events(stage, "failed")
    assert event["regarding"]["uid"] == stage.instances.read("failed")["metadata"]["uid"]
    assert (event["type"], event["reportingController"]) == ("Warning", "perdure.dev/operator")


def test_a_run_whose_worker_pod_vanished_says_that_another_goes_on(stage: Stage) -> None:
    stage.create_pod("worker-a")
    with stage.worker("--name", "worker-a", "--lease", "600") as victim:
        victim.until_it_serves()
        stage.apply("moved", "gated", {"gate": "late"})
        stage.until_phase("moved", "Running")
        victim.process.kill()
        victim.process.wait()
        stage.delete_pod("worker-a")
        eventually(lambda: reasons(stage, "moved") == ["WorkerVanished"], "an event of the takeover")
        assert "worker-a" in events(stage, "moved")[0]["note"]


def test_without_the_right_to_post_events_everything_else_goes_on(stage: Stage) -> None:
    with stage.without_right("events"), stage.worker() as worker:
        worker.until_it_serves()
        for name in ("one", "two"):
            stage.apply(name, "broken")
            stage.until_phase(name, "Failed")
        stage.operators[-1].until("an event is dropped: .*forbidden")
        stage.apply("fine", "greet", {"name": "Ada"})
        stage.until_phase("fine", "Succeeded")
    assert reasons(stage, "one") == []
