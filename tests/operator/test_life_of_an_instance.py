"""From `kubectl apply` to the end of a run, with everything real in between."""

import json

import yaml

from tests.operator.stage import Stage, condition
from tests.support.cli import eventually
from tests.support.instances import document


def test_a_short_run_has_its_result_on_the_object_after_a_single_write(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("short", "greet", {"name": "Ada"})
        status = stage.until_phase("short", "Succeeded")
        assert json.loads(status["result"]) == "hello Ada"
        truths = {each["type"]: each["status"] for each in status["conditions"]}
        assert truths == {"Accepted": "True", "Succeeded": "True", "Finished": "True"}
        assert status["observedGeneration"] == 1
        assert {each["observedGeneration"] for each in status["conditions"]} == {1}
        assert status["runId"] == str(stage.cli.describe("short")["runId"])
        assert stage.writes("short") == 1


def test_a_normal_run_takes_two_status_writes(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("normal", "gated", {"gate": "north"})
        status = stage.until_phase("normal", "Running")
        assert condition(status, "Accepted")["status"] == "True"
        assert condition(status, "Succeeded")["status"] == "Unknown"
        assert condition(status, "Finished")["status"] == "False"
        assert (status["progress"], status["message"]) == ("0/1", "waiting at north")
        began = condition(status, "Accepted")["lastTransitionTime"]
        stage.cli.open_gate("north")
        status = stage.until_phase("normal", "Succeeded")
        assert condition(status, "Accepted")["lastTransitionTime"] == began
        assert status["startTime"] <= status["completionTime"] == condition(status, "Finished")["lastTransitionTime"]
        assert stage.writes("normal") == 2
        # managedFields grow with the number of fields that somebody owns, not with what is in them or how often.
        assert len(json.dumps(stage.instances.read("normal")["metadata"]["managedFields"])) < 2_500


def test_kubectl_apply_and_wait_is_all_a_person_needs(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        manifests = [document("good", {"workflow": "greet", "input": {"name": "Ada"}})]
        manifests.append(document("bad", {"workflow": "broken"}))
        stage.instances.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(manifests))
        for name in ("good", "bad"):
            stage.instances.kubectl("wait", "--for=condition=Finished", f"wfi/{name}", "--timeout=60s")
        stage.instances.kubectl("wait", "--for=condition=Succeeded", "wfi/good", "--timeout=1s")
        stage.instances.kubectl("wait", "--for=condition=Succeeded=False", "wfi/bad", "--timeout=1s")
        table, _ = stage.instances.kubectl("get", "wfi", "--field-selector=status.phase=Failed")
        assert "bad" in table
        assert "good" not in table


def test_a_workflow_that_raises_shows_why_it_failed(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("bad", "broken")
        status = stage.until_phase("bad", "Failed")
        succeeded = condition(status, "Succeeded")
        assert (succeeded["status"], succeeded["reason"]) == ("False", "WorkflowFailed")
        assert succeeded["message"] == status["message"]
        assert status["message"].endswith("ValueError: the card was refused")
        assert condition(status, "Finished")["status"] == "True"


def test_an_input_that_does_not_fit_the_workflow_is_told_apart(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("misfit", "greet", {"nmae": "Ada"})
        status = stage.until_phase("misfit", "Failed")
        assert condition(status, "Succeeded")["reason"] == "InvalidInput"
        assert "name" in condition(status, "Succeeded")["message"]


def test_an_unknown_workflow_stalls_until_a_worker_brings_it(stage: Stage) -> None:
    with stage.worker(modules=("tests.support.cli_samples",)) as other:
        other.until_it_serves()
        stage.apply("early", "approval")
        status = stage.until_phase("early", "Stalled")
        for kind, truth in (("Accepted", "False"), ("Stalled", "True")):
            assert condition(status, kind)["status"] == truth
            assert condition(status, kind)["reason"] == "UnknownWorkflow"
            assert "approval" in condition(status, kind)["message"]
        assert condition(status, "Finished")["status"] == "False"
        with stage.worker() as worker:
            worker.until_it_serves()
            status = stage.until_phase("early", "Running")
            assert condition(status, "Stalled") == {}
            assert condition(status, "Accepted")["status"] == "True"
            stage.cli.out("signal", "early", "approve", '"yes"')
            stage.until_phase("early", "Succeeded")


def test_a_run_that_waits_says_for_what(stage: Stage) -> None:
    stage.apply("patient", "approval")
    status = stage.until("patient", lambda status: status.get("waitingFor") == "Workers")
    assert status["phase"] == "Pending"
    with stage.worker() as worker:
        worker.until_it_serves()
        status = stage.until("patient", lambda status: "approve" in status.get("waitingFor", ""))
        assert status["phase"] == "Running"
        stage.cli.out("signal", "patient", "approve", '"yes"')
        assert "waitingFor" not in stage.until_phase("patient", "Succeeded")


def test_cancel_in_the_spec_lets_the_run_clean_up(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("unwanted", "approval")
        stage.until_phase("unwanted", "Running")
        assert stage.instances.patch_spec({"cancel": {"reason": "changed my mind"}}, "unwanted").status == 200
        status = stage.until_phase("unwanted", "Cancelled")
        assert status["observedGeneration"] == 2
        succeeded = condition(status, "Succeeded")
        assert (succeeded["reason"], succeeded["message"]) == ("Cancelled", "changed my mind")
        assert stage.cli.lines("journal") == ["cleaned up"]


def test_an_edit_after_the_end_is_observed_so_that_nobody_waits_for_ever(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("over", "greet", {"name": "Ada"})
        stage.until_phase("over", "Succeeded")
        assert stage.instances.patch_spec({"cancel": {}}, "over").status == 200
        status = stage.until("over", lambda status: status["observedGeneration"] == 2)
        assert status["phase"] == "Succeeded"
        stage.instances.kubectl("wait", "--for=condition=Finished", "wfi/over", "--timeout=10s")


def test_deleting_the_object_cancels_the_run(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("gone", "approval")
        stage.until_phase("gone", "Running")
        stage.delete("gone")
        run = stage.until_run("gone", "Cancelled")
        assert "deleted" in json.dumps(run)
        assert stage.cli.lines("journal") == ["cleaned up"]


def test_a_deleted_run_that_no_worker_can_take_gives_its_name_back(stage: Stage) -> None:
    stage.apply("typo", "greet", {"name": "Ada"}, taskQueue="defualt")
    stage.until_phase("typo", "Pending")
    stage.delete("typo")
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("typo", "greet", {"name": "Ada"})
        stage.until_phase("typo", "Succeeded")
    assert sorted(run["phase"] for run in stage.runs()) == ["Succeeded", "Terminated"]


def test_a_new_object_of_the_same_name_waits_for_the_old_run_and_never_gets_its_status(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        old = stage.apply("again", "reluctant", {"gate": "first"})
        old_run = stage.until_phase("again", "Running")["runId"]
        stage.delete("again")
        new = stage.apply("again", "reluctant", {"gate": "second"})
        assert new["metadata"]["uid"] != old["metadata"]["uid"]
        status = stage.until("again", lambda status: condition(status, "Accepted").get("status") == "False")
        assert condition(status, "Accepted")["reason"] == "PreviousRunClosing"
        assert "runId" not in status
        stage.cli.open_gate("first")
        new_run = stage.until_phase("again", "Running")["runId"]
        assert int(new_run) > int(old_run)
        stage.cli.out("signal", "again", "approve", '"yes"')
        stage.cli.open_gate("second")
        status = stage.until_phase("again", "Succeeded")
        assert (json.loads(status["result"]), status["runId"]) == ("yes", new_run)


def test_an_abandoned_run_outlives_its_object_and_its_operator(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("orphan", "approval", deletionPolicy="Abandon")
        stage.until_phase("orphan", "Running")
        stage.delete("orphan")
        stage.until_the_lease_says("perdure.dev/abandoned-runs")
        stage.restart_operator()
        # Another orphan shows that runs without objects have been looked for since.
        stage.apply("other", "approval")
        stage.until_phase("other", "Running")
        stage.delete("other")
        stage.until_run("other", "Cancelled")
        assert stage.cli.describe("orphan")["phase"] == "Running"
        stage.cli.out("signal", "orphan", "approve", '"yes"')
        stage.until_run("orphan", "Succeeded")


def test_a_huge_result_leaves_a_small_status(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("huge", "huge", {"size": 200_000})
        status = stage.until_phase("huge", "Succeeded")
        assert status["result"].startswith('"<\\"é&<')
        assert status["result"].endswith("… (cut)")
        assert len(json.dumps(status, ensure_ascii=False).encode()) < 2_000
        whole = stage.cli.out("result", "huge")
        assert json.loads(whole) == '<"é&' * 200_000
        size = len(json.dumps(json.loads(whole), ensure_ascii=False).encode())
        assert status["resultRef"] == {"runId": status["runId"], "size": size}
        stage.instances.kubectl("wait", "--for=condition=Finished", "wfi/huge", "--timeout=10s")


def test_a_timeout_and_a_termination_have_reasons_of_their_own(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("slow", "approval", timeoutSeconds=1)
        stage.apply("stopped", "approval")
        stage.until_phase("stopped", "Running")
        stage.cli.out("terminate", "stopped", "--reason", "not needed")
        for name, phase in (("slow", "TimedOut"), ("stopped", "Terminated")):
            succeeded = condition(stage.until_phase(name, phase), "Succeeded")
            assert (succeeded["status"], succeeded["reason"]) == ("False", phase)
        assert condition(stage.status("stopped"), "Succeeded")["message"] == "not needed"


def test_runs_without_objects_are_left_alone(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.cli.out("start", "approval", "--id", "started-by-hand")
        manifest = yaml.safe_dump(document("applied-by-hand", {"workflow": "approval"}))
        stage.cli.out("apply", "-f", "-", stdin=manifest)
        stage.apply("object", "approval")
        stage.until_phase("object", "Running")
        stage.restart_operator()
        stage.delete("object")
        stage.until_run("object", "Cancelled")
        for name in ("started-by-hand", "applied-by-hand"):
            assert stage.cli.describe(name)["phase"] == "Running"


def test_a_status_that_somebody_else_changed_is_mended(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("forged", "approval")
        stage.until_phase("forged", "Running")
        stage.instances.patch_status({"phase": "Failed", "message": "nonsense"}, "forged")
        stage.until_phase("forged", "Running")
        assert "message" not in stage.status("forged")


def test_the_runs_of_a_worker_whose_pod_vanishes_are_taken_over_at_once(stage: Stage) -> None:
    stage.create_pod("worker-a")
    # By itself the lease would last longer than the whole test.
    with stage.worker("--name", "worker-a", "--lease", "600") as victim:
        victim.until_it_serves()
        stage.apply("moved", "gated", {"gate": "late"})
        stage.cli.until("moved", lambda run: run.get("worker") == "worker-a")
        victim.process.kill()
        victim.process.wait()
    with stage.worker("--name", "worker-b") as other:
        other.until_it_serves()
        stage.delete_pod("worker-a")
        eventually(lambda: stage.cli.describe("moved").get("worker") == "worker-b", "a takeover")
        stage.cli.open_gate("late")
        stage.until_phase("moved", "Succeeded")
