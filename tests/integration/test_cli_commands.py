"""The commands of `perdure` on a real database: what they print and with which code they exit."""

from __future__ import annotations

import json
import os
import pty
import subprocess
from pathlib import Path

import pytest

from tests.support.cli import PROGRAM, ROOT, Cli, WorkerProgram


@pytest.mark.usefixtures("worker")
def test_an_instance_is_started_looked_at_told_something_and_gives_its_result(cli: Cli) -> None:
    assert cli.out("start", "conversation", "Ada", "--id", "talk-1") == "talk-1\n"
    cli.until("talk-1", lambda run: run["waitingFor"] == "signal answer")

    listed = cli.out("list").splitlines()
    assert listed[0].split() == ["ID", "WORKFLOW", "PHASE", "AGE", "ABOUT"]
    assert listed[1].split()[:3] == ["talk-1", "conversation", "Running"]
    assert listed[1].endswith("1/2, talking, waits for signal answer")

    described = cli.out("describe", "talk-1")
    assert 'workflow    conversation("Ada")' in described
    assert "waits for   signal answer" in described

    cli.out("signal", "talk-1", "answer", "forty two")
    assert json.loads(cli.out("result", "talk-1", "--timeout", "30s")) == "Ada said forty two"
    assert cli.types("talk-1") == [
        "WorkflowExecutionStarted",
        "ActivityScheduled",
        "ActivityCompleted",
        "SignalReceived",
        "WorkflowExecutionCompleted",
    ]
    assert 'result      "Ada said forty two"' in cli.out("describe", "talk-1")


@pytest.mark.usefixtures("worker")
def test_history_has_one_event_a_line_with_number_time_type_details_and_worker(cli: Cli) -> None:
    cli.out("start", "greet", '"Ada"', "2", "--id", "greet-1", "--wait")
    lines = cli.out("history", "greet-1").splitlines()
    assert [line.split()[0] for line in lines] == ["1", "2", "3", "4"]
    assert [line.split()[2] for line in lines] == cli.types("greet-1")
    assert 'greet("Ada", 2)' in lines[0]
    assert '#1 note("Ada")' in lines[1]
    assert "#1 note returned 1" in lines[2]
    worker = cli.json("history", "greet-1")[1]["worker"]
    assert lines[1].endswith(f"({worker})")


@pytest.mark.usefixtures("worker")
def test_history_follows_a_run_to_its_end(cli: Cli) -> None:
    cli.out("start", "conversation", "Ada", "--id", "talk-1")
    following = subprocess.Popen(
        [PROGRAM, "history", "talk-1", "--follow"], cwd=ROOT, env=cli.environment, stdout=subprocess.PIPE, text=True
    )
    assert following.stdout is not None
    with following, following.stdout as lines:
        assert "WorkflowExecutionStarted" in lines.readline()
        cli.out("signal", "talk-1", "answer", "yes")
        assert "WorkflowExecutionCompleted" in lines.read().splitlines()[-1]
    assert following.returncode == 0


@pytest.mark.usefixtures("worker")
def test_arguments_are_json_where_they_can_be_and_strings_where_not(cli: Cli) -> None:
    assert json.loads(cli.out("start", "greet", "12:30 {", "2", "--wait"))["text"] == "hello 12:30 {hello 12:30 {"
    assert (
        json.loads(cli.out("start", "greet", "--input", '{"times": 2}', "--wait"))["text"] == "hello worldhello world"
    )


def test_start_is_idempotent_while_the_instance_is_open(cli: Cli) -> None:
    cli.out("start", "greet", "--id", "greet-1")
    again = cli.run("start", "greet", "--id", "greet-1")
    assert (again.returncode, again.stdout) == (0, "greet-1\n")
    assert "nothing was started" in again.stderr
    assert len(cli.json("list")) == 1


def test_start_refuses_an_id_that_runs_another_workflow(cli: Cli) -> None:
    cli.out("start", "greet", "--id", "greet-1")
    refused = cli.run("start", "failing", "--id", "greet-1")
    assert refused.returncode == 2
    assert "is open and runs workflow greet" in refused.stderr


@pytest.mark.usefixtures("worker")
def test_result_tells_why_a_run_failed_with_the_traceback_of_its_code(cli: Cli) -> None:
    cli.out("start", "failing", "--id", "failing-1")
    failed = cli.run("result", "failing-1", "--timeout", "30")
    assert (failed.returncode, failed.stdout) == (1, "")
    assert failed.stderr.startswith("error: failing-1 failed: ActivityError: activity stubborn failed after 3 attempts")
    assert "ConnectionError: nobody answers" in failed.stderr
    assert 'raise ConnectionError("nobody answers")' in failed.stderr
    assert "worker/perdure/" not in failed.stderr


@pytest.mark.parametrize("how", ["cancel", "terminate"])
def test_a_run_that_was_ended_from_outside_has_no_result(cli: Cli, worker: WorkerProgram, how: str) -> None:
    cli.out("start", "conversation", "Ada", "--id", "talk-1")
    cli.until("talk-1", lambda run: run["phase"] == "Running")
    cli.out(how, "talk-1", "--reason", "changed my mind")
    ended = cli.run("result", "talk-1", "--timeout", "30")
    assert ended.returncode == 1
    assert "changed my mind" in ended.stderr
    assert worker.process.poll() is None


def test_waiting_for_a_result_ends_with_124_and_the_run_goes_on(cli: Cli) -> None:
    cli.out("start", "greet", "--id", "greet-1")
    waited = cli.run("result", "greet-1", "--timeout", "100ms")
    assert (waited.returncode, waited.stdout) == (124, "")
    assert "it is Pending" in waited.stderr


@pytest.mark.parametrize(
    "command",
    [["result"], ["describe"], ["history"], ["signal", "answer"], ["cancel"], ["terminate"], ["suspend"], ["resume"]],
)
def test_an_unknown_id_ends_with_3(cli: Cli, command: list[str]) -> None:
    missing = cli.run(command[0], "nobody-1", *command[1:])
    assert (missing.returncode, missing.stdout) == (3, "")
    assert missing.stderr == "error: there is no workflow instance nobody-1 in namespace default\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["start", "greet", "--input", "[1]"], "--input takes a JSON object"),
        (["start", "greet", "--input", "{"], "--input is not JSON"),
        (["start", "greet", "Ada", "--input", "{}"], "not both"),
        (["start", "greet", "--timeout", "soon"], "no length of time"),
        (["start", "greet", "--id", "a\nb"], "printable characters"),
        (["list", "--phase", "Sleeping"], "the phases are Pending, Running"),
        (["worker", "tests.support.cli_samples", "--health-port", "everywhere"], "--health-port takes PORT"),
        (["result"], "Missing argument"),
        (["dance"], "No such command"),
    ],
)
def test_bad_input_ends_with_2_and_says_what_is_wrong(cli: Cli, arguments: list[str], complaint: str) -> None:
    refused = cli.run(*arguments)
    assert refused.returncode == 2
    assert complaint in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.usefixtures("worker")
def test_a_closed_instance_takes_no_signal(cli: Cli) -> None:
    cli.out("start", "greet", "--id", "greet-1", "--wait")
    refused = cli.run("signal", "greet-1", "answer")
    assert refused.returncode == 2
    assert "is closed (Succeeded)" in refused.stderr


def test_a_database_that_does_not_answer_ends_with_4_and_names_the_host_without_the_password(cli: Cli) -> None:
    away = cli.run("list", url="postgresql://ada:secret@127.0.0.1:1/orders")
    assert away.returncode == 4
    assert "127.0.0.1:1" in away.stderr
    assert "secret" not in away.stderr


def test_a_command_without_a_database_says_how_to_name_one(cli: Cli) -> None:
    nameless = cli.run("list", url="")
    assert nameless.returncode == 2
    assert "pass --url or set PERDURE_URL" in nameless.stderr


def test_the_command_line_refuses_a_store_that_other_processes_cannot_reach(cli: Cli) -> None:
    refused = cli.run("list", "--url", "memory://")
    assert refused.returncode == 2
    assert "works on PostgreSQL, not on memory://" in refused.stderr


def test_url_and_namespace_may_stand_before_or_after_the_command_and_beat_the_environment(cli: Cli) -> None:
    cli.out("start", "greet", "--id", "here", "-n", "shop")
    url = cli.url
    cli.environment |= {"PERDURE_URL": "postgresql://nobody@127.0.0.1:1/x", "PERDURE_NAMESPACE": "elsewhere"}
    assert [run["id"] for run in cli.json("--url", url, "-n", "shop", "list")] == ["here"]
    assert [run["id"] for run in cli.json("list", "--url", url, "--namespace", "shop")] == ["here"]


def test_an_empty_database_is_migrated_once_and_every_command_says_so_before(database: str, tmp_path: Path) -> None:
    cli = Cli(database, tmp_path)
    unready = cli.run("list")
    assert unready.returncode == 4
    assert "perdure migrate" in unready.stderr
    with cli.worker() as worker:
        assert worker.exit_code() == 4
        assert "perdure migrate" in worker.text()
    assert cli.out("migrate").startswith("migrated from version 0 to ")
    assert "already" in cli.out("migrate")
    assert cli.run("list").returncode == 0


def test_listing_filters_by_workflow_and_phase(cli: Cli) -> None:
    for name in ("greet", "failing"):
        cli.out("start", name, "--id", f"{name}-1")
    cli.out("terminate", "failing-1")
    assert [run["id"] for run in cli.json("list")] == ["failing-1", "greet-1"]
    assert [run["id"] for run in cli.json("list", "--workflow", "greet")] == ["greet-1"]
    assert [run["id"] for run in cli.json("list", "--phase", "Terminated")] == ["failing-1"]
    assert [run["id"] for run in cli.json("list", "--phase", "Pending", "--phase", "Failed")] == ["greet-1"]
    assert [run["id"] for run in cli.json("list", "--limit", "1")] == ["failing-1"]


def test_a_list_says_how_long_a_long_result_is_and_result_prints_it(cli: Cli) -> None:
    with cli.worker(modules=("tests.support.bad_input_samples",)):
        cli.out("start", "repeats", "--id", "short", "10")
        cli.out("start", "repeats", "--id", "long", "100000")
        assert len(cli.out("result", "long").strip()) == 100_002
    long, short = cli.json("list")
    assert (long["id"], long["resultSize"], "result" in long) == ("long", 100_002, False)
    assert (short["result"], "resultSize" in short) == (10 * "x", False)
    assert len(cli.describe("long")["result"]) == 100_000


@pytest.mark.usefixtures("worker")
def test_describe_says_why_a_run_is_held_and_what_to_do_and_resume_frees_it(cli: Cli) -> None:
    cli.out("start", "missing", "--id", "missing-1")
    cli.until("missing-1", lambda run: run["phase"] == "Stalled")
    described = cli.out("describe", "missing-1")
    assert "held        UnknownWorkflow" in described
    assert "start a worker whose modules define workflow missing" in described
    cli.out("resume", "missing-1")
    assert cli.types("missing-1") == ["WorkflowExecutionStarted"]


def test_resume_refuses_a_run_that_is_not_held(cli: Cli) -> None:
    cli.out("start", "greet", "--id", "greet-1")
    refused = cli.run("resume", "greet-1")
    assert refused.returncode == 2
    assert "is neither suspended nor held, it is Pending" in refused.stderr


def test_describe_says_that_there_is_no_worker(cli: Cli) -> None:
    cli.out("start", "greet", "--id", "greet-1")
    assert "start a worker: perdure worker" in cli.out("describe", "greet-1")


@pytest.mark.usefixtures("worker")
def test_describe_shows_an_activity_that_waits_for_its_next_attempt(cli: Cli) -> None:
    cli.out("start", "patient", "--id", "patient-1")
    cli.until("patient-1", lambda run: run["events"] == 3)
    assert "#1 slow_to_retry(), attempt 2 at " in cli.out("describe", "patient-1")
    assert "after ConnectionError: come back tomorrow" in cli.out("describe", "patient-1")


def test_a_reader_that_goes_away_is_no_error(cli: Cli) -> None:
    cli.out("start", "greet", "--id", "greet-1")
    listing = subprocess.Popen(
        [PROGRAM, "history", "greet-1", "--follow"],
        cwd=ROOT,
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert listing.stdout is not None
    listing.stdout.readline()
    listing.stdout.close()
    cli.out("terminate", "greet-1")
    assert listing.stderr is not None
    with listing.stderr as errors:
        assert errors.read() == ""
    assert listing.wait() != 0


def test_on_a_terminal_there_are_colours_and_lines_that_fit(cli: Cli) -> None:
    cli.out("start", "greet", "x" * 400, "--id", "greet-1")
    assert "\x1b[" not in cli.out("list")
    assert len(max(cli.out("history", "greet-1").splitlines(), key=len)) > 120
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        environment = cli.environment | {"TERM": "xterm-256color", "COLUMNS": "60"}
        shown = subprocess.run([PROGRAM, "history", "greet-1"], cwd=ROOT, env=environment, check=True, stdout=theirs)
        os.close(theirs)
        text = terminal.read(100_000).decode()
    assert shown.returncode == 0
    assert "\x1b[" in text
    assert "…" in text
    assert len(text.splitlines()) == 1


def test_version_names_the_release_and_the_python(cli: Cli) -> None:
    assert cli.out("version").startswith("perdure 0.")


def test_help_documents_the_exit_codes(cli: Cli) -> None:
    text = cli.out("--help")
    for code in (0, 1, 2, 3, 4, 124):
        assert f"{code}: " in text
