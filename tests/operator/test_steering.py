"""What a person may change while a run goes on, as they would with kubectl: suspend, cancel, terminate."""

from tests.operator.stage import Stage, condition
from tests.support.cli import eventually


def patch(stage: Stage, name: str, spec: str) -> None:
    stage.instances.kubectl("patch", "wfi", name, "--type", "merge", "-p", f'{{"spec": {spec}}}')


def test_a_suspended_run_is_given_up_at_its_next_rest_and_goes_on_when_it_is_resumed(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("paused", "two_gates")
        stage.cli.until("paused", lambda run: run["worker"])
        patch(stage, "paused", '{"suspend": true}')
        status = stage.until_phase("paused", "Suspended")
        suspended = condition(status, "Suspended")
        assert (suspended["status"], suspended["reason"], suspended["observedGeneration"]) == ("True", "Suspended", 2)
        assert status["waitingFor"] == "spec.suspend to be false"
        stage.instances.kubectl("wait", "--for=condition=Suspended", "wfi/paused", "--timeout=10s")
        stage.cli.open_gate("one")
        stage.cli.until("paused", lambda run: run["worker"] is None)
        assert stage.cli.types("paused").count("ActivityCompleted") == 1, "what was under way is kept"
        stage.cli.open_gate("two")
        patch(stage, "paused", '{"suspend": false}')
        status = stage.until_phase("paused", "Succeeded")
        assert status["result"] == '"onetwo"'
        assert (condition(status, "Suspended")["status"], condition(status, "Suspended")["reason"]) == (
            "False",
            "Resumed",
        )


def test_an_object_may_be_suspended_from_the_beginning(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("later", "greet", {"name": "Ada"}, suspend=True)
        stage.apply("now", "greet", {"name": "Bob"})
        status = stage.until_phase("later", "Suspended")
        assert condition(status, "Accepted")["status"] == "True"
        assert "startTime" not in status
        stage.until_phase("now", "Succeeded")
        assert stage.cli.describe("later")["startedAt"] is None
        patch(stage, "later", '{"suspend": false}')
        stage.until_phase("later", "Succeeded")


def test_when_suspend_goes_to_and_fro_quickly_the_last_word_counts(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        for name, last in (("on", "true"), ("off", "false")):
            stage.apply(name, "approval")
            stage.until_phase(name, "Running")
            for _ in range(5):
                for value in ("true", "false", last):
                    stage.instances.patch_spec({"suspend": value == "true"}, name)
        for name, phase in (("on", "Suspended"), ("off", "Running")):
            generation = stage.instances.read(name)["metadata"]["generation"]
            status = stage.until(name, lambda status, g=generation: status["observedGeneration"] == g)  # type: ignore[misc]  # bound now
            assert status["phase"] == phase
            stage.cli.out("signal", name, "approve", '"yes"')
        stage.until_phase("off", "Succeeded")
        assert stage.status("on")["phase"] == "Suspended"
        patch(stage, "on", '{"suspend": false}')
        assert stage.until_phase("on", "Succeeded")["result"] == '"yes"'


def test_what_a_suspended_run_is_told_and_waits_for_is_kept_over_a_restart_of_the_operator(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("told", "approval", suspend=True)
        stage.until_phase("told", "Suspended")
        stage.cli.out("signal", "told", "approve", '"yes"')
        stage.restart_operator()
        patch(stage, "told", '{"suspend": false}')
        assert stage.until_phase("told", "Succeeded")["result"] == '"yes"'


def test_a_suspended_run_can_be_cancelled_and_deleted(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        for name in ("cancelled", "deleted"):
            stage.apply(name, "approval")
            stage.until_phase(name, "Running")
            patch(stage, name, '{"suspend": true}')
            stage.until_phase(name, "Suspended")
        patch(stage, "cancelled", '{"cancel": {}}')
        stage.delete("deleted")
        stage.until_phase("cancelled", "Cancelled")
        stage.until_run("deleted", "Cancelled")
        assert stage.cli.lines("journal") == ["cleaned up"] * 2


def test_the_command_line_sends_people_to_the_object_that_decides(stage: Stage) -> None:
    stage.apply("order", "greet", {"name": "Ada"})
    stage.until_phase("order", "Pending")
    refused = stage.cli.run("suspend", "order")
    assert refused.returncode == 2
    command = f'kubectl -n {stage.namespace} patch wfi order --type merge -p \'{{"spec": {{"suspend": true}}}}\''
    assert command in " ".join(refused.stderr.split())


def test_terminate_ends_a_run_that_does_not_listen_and_gives_the_reason(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("stubborn", "reluctant", {"gate": "never"})
        stage.until_phase("stubborn", "Running")
        patch(stage, "stubborn", '{"cancel": {"reason": "please"}}')
        asked = stage.until("stubborn", lambda status: condition(status, "Succeeded")["reason"] == "Cancelling")
        assert asked["phase"] == "Running"
        patch(stage, "stubborn", '{"cancel": {"mode": "Terminate", "reason": "it did not listen"}}')
        status = stage.until_phase("stubborn", "Terminated")
        succeeded = condition(status, "Succeeded")
        assert (succeeded["reason"], succeeded["message"]) == ("Terminated", "it did not listen")
        assert condition(status, "Finished")["status"] == "True"
        eventually(lambda: stage.cli.describe("stubborn")["worker"] is None, "the owner let go")


def test_an_object_that_is_terminated_from_the_beginning_never_runs(stage: Stage) -> None:
    with stage.worker() as worker:
        stage.apply("unborn", "greet", {"name": "Ada"}, cancel={"mode": "Terminate", "reason": "a mistake"})
        assert stage.until_phase("unborn", "Terminated")["message"] == "a mistake"
        worker.until_it_serves()
        stage.apply("other", "greet", {"name": "Bob"})
        stage.until_phase("other", "Succeeded")
        assert stage.cli.lines("journal") == ["Bob"]


def test_a_run_for_one_build_waits_for_it_and_says_so(stage: Stage) -> None:
    with stage.worker("--build-id", "v1") as other:
        other.until_it_serves()
        stage.apply("pinned", "greet", {"name": "Ada"}, buildId="v2")
        status = stage.until_phase("pinned", "Stalled")
        assert status["waitingFor"] == "Workers of build v2"
        assert condition(status, "Stalled")["reason"] == condition(status, "Accepted")["reason"] == "NoWorkerOfBuild"
        assert "no worker of build v2 serves queue default" in condition(status, "Stalled")["message"]
        with stage.worker("--build-id", "v2"):
            status = stage.until_phase("pinned", "Succeeded")
        assert "waitingFor" not in status
