"""Workers come and go: what the objects say meanwhile, and that everything is done in the end."""

from tests.operator.stage import Stage
from tests.support.cli import eventually


def test_with_no_worker_an_object_says_that_it_waits_for_one(stage: Stage) -> None:
    stage.apply("early", "greet", {"name": "Ada"})
    stage.apply("pinned", "greet", {"name": "Bob"}, buildId="v2")
    stage.apply("elsewhere", "greet", {"name": "Cleo"}, taskQueue="gpu")
    assert stage.until_phase("early", "Pending")["waitingFor"] == "Workers"
    assert stage.until_phase("pinned", "Pending")["waitingFor"] == "Workers of build v2"
    with stage.worker("--build-id", "v2") as worker:
        worker.until_it_serves()
        for name in ("early", "pinned"):
            assert "waitingFor" not in stage.until_phase(name, "Succeeded")
        assert stage.until_phase("elsewhere", "Pending")["waitingFor"] == "Workers"


def test_a_run_whose_last_worker_has_gone_says_so_and_goes_on_with_the_next(stage: Stage) -> None:
    stage.operators[-1].stop()
    # The comparison of everything would find out as well, only much later.
    with stage.operator(PERDURE_OPERATOR_RESYNC_SECONDS="600") as operator:
        operator.until_it_leads()
        with stage.worker("--lease", "2") as worker:
            worker.until_it_serves()
            stage.apply("left", "gated", {"gate": "north"})
            stage.until("left", lambda status: status["phase"] == "Running" and "waitingFor" not in status)
            worker.process.kill()
            worker.process.wait()
        status = stage.until("left", lambda status: status.get("waitingFor") == "Workers")
        assert status["phase"] == "Running"
        with stage.worker() as other:
            other.until_it_serves()
            stage.until("left", lambda status: "waitingFor" not in status)
            stage.cli.open_gate("north")
            stage.until_phase("left", "Succeeded")


def test_a_backlog_from_before_the_workers_is_shared_and_nothing_is_lost_or_done_twice(stage: Stage) -> None:
    names = [f"order-{number}" for number in range(30)]
    for name in names:
        stage.apply(name, "greet", {"name": name})
    eventually(lambda: len(stage.runs()) == len(names), "a run of each object")
    with stage.worker("--name", "a") as one, stage.worker("--name", "b") as two:
        one.until_it_serves()
        two.until_it_serves()
        for name in names:
            stage.until_phase(name, "Succeeded")
    assert sorted(stage.cli.lines("journal")) == sorted(names)
