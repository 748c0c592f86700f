"""`perdure suspend` and `perdure resume` with a real worker."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.cli import Cli, WorkerProgram


def test_a_worker_finishes_what_is_under_way_lets_go_and_begins_nothing_new(cli: Cli, worker: WorkerProgram) -> None:
    cli.out("start", "guarded", "north", "--id", "slow-1")
    cli.until("slow-1", lambda _: "north" in cli.lines("notes"))
    told = cli.run("suspend", "slow-1")
    assert told.returncode == 0
    assert "slow-1 is suspended; perdure resume slow-1 lets it go on" in told.stderr
    cli.open_gate("north")
    cli.until("slow-1", lambda run: run["worker"] is None)
    assert (cli.describe("slow-1")["phase"], cli.lines("notes")) == ("Suspended", ["before north", "north"])
    assert "no worker goes on with it; perdure resume slow-1" in cli.out("describe", "slow-1")
    assert [run["id"] for run in cli.json("list", "--phase", "Suspended")] == ["slow-1"]
    cli.out("resume", "slow-1")
    assert json.loads(cli.out("result", "slow-1", "--timeout", "30")) == ["north", "after 1"]
    assert cli.lines("notes") == ["before north", "north", "after north"]
    assert worker.process.poll() is None


@pytest.mark.usefixtures("worker")
def test_a_sleeping_run_is_suspended_and_keeps_what_it_is_told(cli: Cli) -> None:
    cli.out("start", "conversation", "Ada", "--id", "talk-1")
    cli.until("talk-1", lambda run: run["waitingFor"] == "signal answer")
    cli.out("suspend", "talk-1")
    cli.out("signal", "talk-1", "answer", "yes")
    cli.out("start", "greet", "--id", "greet-1", "--wait")
    assert cli.describe("talk-1")["phase"] == "Suspended"
    cli.out("resume", "talk-1")
    assert json.loads(cli.out("result", "talk-1", "--timeout", "30")) == "Ada said yes"


def test_a_run_for_one_build_is_left_to_that_build(cli: Cli) -> None:
    cli.out("start", "greet", "--id", "greet-1", "--build-id", "v2")
    with cli.worker("--build-id", "v1") as other:
        other.until_it_serves()
        assert "no worker of build v2" in cli.until("greet-1", lambda run: run["phase"] == "Stalled")["holdMessage"]
        assert "perdure worker MODULE --queue default --build-id v2" in cli.out("describe", "greet-1")
        with cli.worker("--build-id", "v2"):
            cli.until("greet-1", lambda run: run["phase"] == "Succeeded")


def test_what_cannot_be_suspended_says_why(cli: Cli) -> None:
    cli.out("start", "greet", "--id", "greet-1")
    cli.out("cancel", "greet-1")
    cancelling = cli.run("suspend", "greet-1")
    assert (cancelling.returncode, "is asked to cancel" in cancelling.stderr) == (2, True)
    cli.out("terminate", "greet-1")
    closed = cli.run("suspend", "greet-1")
    assert (closed.returncode, "is closed (Terminated)" in closed.stderr) == (2, True)


def test_a_document_suspends_and_resumes_its_run(cli: Cli, tmp_path: Path) -> None:
    document = tmp_path / "greet.yaml"
    text = "apiVersion: perdure.dev/v1\nkind: WorkflowInstance\nmetadata: {{name: greet-1}}\n"
    text += "spec: {{workflow: greet, suspend: {}}}\n"
    for suspend, word in (("true", "created"), ("false", "resumed"), ("true", "suspended"), ("true", "unchanged")):
        document.write_text(text.format(suspend))
        assert cli.out("apply", "-f", str(document)) == f"workflowinstance/greet-1 {word}\n"
        assert cli.describe("greet-1")["suspended"] == (suspend == "true")
