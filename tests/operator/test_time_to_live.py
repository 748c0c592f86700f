"""Objects that are deleted some time after their run has ended, and what stays."""

import asyncio

import pytest

from perdure_operator.cluster import Cluster
from tests.operator.stage import Stage
from tests.support.cli import eventually
from tests.support.instances import Instances
from tests.support.kubernetes import ControlPlane


def names(stage: Stage) -> list[str]:
    return stage.instances.kubectl("get", "wfi", "-o", "name")[0].split()


def until_gone(stage: Stage, name: str) -> None:
    eventually(lambda: f"workflowinstance.perdure.dev/{name}" not in names(stage), f"the end of {name}")


def test_an_object_goes_after_its_time_and_its_run_stays_as_it_was(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("brief", "greet", {"name": "Ada"}, ttlSecondsAfterFinished=0)
        stage.apply("kept", "greet", {"name": "Bob"})
        stage.apply("long", "greet", {"name": "Cleo"}, ttlSecondsAfterFinished=3600)
        until_gone(stage, "brief")
        run = stage.until_run("brief", "Succeeded")
        assert run["result"] == "hello Ada"
        stage.until_phase("kept", "Succeeded")
        stage.until_phase("long", "Succeeded")
        assert not stage.cli.describe("brief")["cancelRequested"]
        assert sorted(stage.cli.lines("journal")) == ["Ada", "Bob", "Cleo"]


def test_failures_have_a_time_of_their_own(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("failed-kept", "broken", ttlSecondsAfterFinished=0, ttlSecondsAfterFailure=3600)
        stage.apply("failed-gone", "broken", ttlSecondsAfterFailure=0)
        stage.apply("failed-too", "broken", ttlSecondsAfterFinished=0)
        stage.apply("good-kept", "greet", {"name": "Ada"}, ttlSecondsAfterFailure=0)
        until_gone(stage, "failed-gone")
        until_gone(stage, "failed-too")
        stage.until_phase("failed-kept", "Failed")
        stage.until_phase("good-kept", "Succeeded")


def test_the_time_may_be_set_after_the_end_and_with_an_operator_that_came_later(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        for name in ("one", "two"):
            stage.apply(name, "greet", {"name": name})
            stage.until_phase(name, "Succeeded")
        stage.instances.patch_spec({"ttlSecondsAfterFinished": 0}, "one")
        until_gone(stage, "one")
        stage.operators[-1].kill()
        stage.instances.patch_spec({"ttlSecondsAfterFinished": 0}, "two")
        stage.restart_operator()
        until_gone(stage, "two")


def test_a_new_object_of_the_same_name_survives_the_end_of_the_old_one(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        for name in ("again", "witness"):
            stage.apply(name, "greet", {"name": name}, ttlSecondsAfterFinished=2)
            stage.until_phase(name, "Succeeded")
        stage.delete("again")
        successor = stage.apply("again", "approval")
        until_gone(stage, "witness")
        stage.until_phase("again", "Running")
        assert stage.instances.read("again")["metadata"]["uid"] == successor["metadata"]["uid"]


def test_a_deletion_that_comes_late_hits_neither_a_successor_nor_an_edited_object(
    control_plane: ControlPlane, instances: Instances, kube_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
    old = instances.create_order()["metadata"]
    edited = instances.patch_spec({"ttlSecondsAfterFinished": 9}).body["metadata"]

    async def delete(metadata: dict[str, str]) -> bool:
        async with Cluster(1) as cluster:
            version = int(metadata["resourceVersion"])
            return await cluster.delete(kube_namespace, "order-1", metadata["uid"], version)

    assert not asyncio.run(delete(old)), "it was edited since"
    assert asyncio.run(delete(edited))
    successor = instances.create_order()["metadata"]
    assert not asyncio.run(delete({**successor, "uid": old["uid"]})), "it is another one"
    assert instances.read()["metadata"]["uid"] == successor["uid"]


def test_an_object_whose_status_was_forged_is_not_deleted_before_its_run_has_ended(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("forged", "approval", ttlSecondsAfterFinished=0)
        status = stage.until_phase("forged", "Running")
        conditions = [{**each, "status": "True"} for each in status["conditions"]]
        lie = {"completionTime": "2026-01-02T03:04:05Z", "phase": "Succeeded", "conditions": conditions}
        assert stage.instances.patch_status(lie, "forged").status == 200
        stage.until_phase("forged", "Running")
        stage.cli.out("signal", "forged", "approve", '"yes"')
        until_gone(stage, "forged")
        stage.until_run("forged", "Succeeded")


def test_an_object_that_may_not_be_deleted_keeps_no_other_one(stage: Stage) -> None:
    path = f"/apis/perdure.dev/v1/namespaces/{stage.namespace}/workflowinstances/kept?dryRun=All"

    def until_it_is_answered(code: int) -> None:
        eventually(lambda: stage.plane.request("DELETE", path).status == code, "a policy that has come or gone")

    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("kept", "greet", {"name": "Ada"})
        stage.until_phase("kept", "Succeeded")
        with stage.policy("DELETE", "workflowinstances", "oldObject.metadata.name != 'kept'"):
            until_it_is_answered(403)
            stage.instances.patch_spec({"ttlSecondsAfterFinished": 0}, "kept")
            stage.operators[-1].until("cannot be deleted yet")
            stage.apply("gone", "greet", {"name": "Bob"}, ttlSecondsAfterFinished=0)
            until_gone(stage, "gone")
            assert stage.status("kept")["phase"] == "Succeeded"
        until_it_is_answered(200)
