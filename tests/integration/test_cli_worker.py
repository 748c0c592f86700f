"""`perdure worker` as a process: what signals, crashes, several processes and an absent database do to it."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from perdure.store.postgres.migrate import migrate
from tests.support.cli import Cli, eventually
from tests.support.postgres import EmbeddedServer

LONG = "300"
"""A lease longer than any deadline of these tests: what is taken over was released."""


def has_ended(pid: int) -> bool:
    """Tell whether a process has ended, also where nobody collects the orphans of others."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_lets_attempts_end_and_releases_the_run_at_once(cli: Cli, number: signal.Signals) -> None:
    with cli.worker("--lease", LONG, "--name", "first") as first:
        first.until_it_serves()
        cli.out("start", "guarded", "gate-1", "--id", "guarded-1")
        eventually(lambda: "gate-1" in cli.lines("notes"), "the attempt at the gate")
        first.send(number)
        first.until("stopping")
        cli.open_gate("gate-1")
        assert first.exit_code() == 0
    assert cli.types("guarded-1")[-1] != "WorkflowExecutionCompleted"
    with cli.worker("--lease", LONG, "--name", "second"):
        cli.out("result", "guarded-1", "--timeout", "60")
    assert cli.lines("notes") == ["before gate-1", "gate-1", "after gate-1"]
    gate = next(event for event in cli.json("history", "guarded-1") if event.get("result") == "gate-1")
    assert gate["worker"] == "first"


def test_a_container_that_is_started_again_in_its_pod_frees_what_it_had_before(cli: Cli) -> None:
    cli.environment["POD_NAME"] = "pod-1"
    with cli.worker("--lease", LONG) as first:
        first.until_it_serves()
        cli.out("start", "guarded", "gate-1", "--id", "guarded-1")
        eventually(lambda: "gate-1" in cli.lines("notes"), "the attempt at the gate")
        first.send(signal.SIGKILL)
        first.exit_code()
    cli.open_gate("gate-1")
    with cli.worker("--lease", LONG) as again:
        cli.out("result", "guarded-1", "--timeout", "60")
        assert "pod-1 was here before" in again.text()


def test_workers_that_a_person_gave_one_name_leave_each_other_alone(cli: Cli) -> None:
    with cli.worker("--lease", LONG, "--name", "ada") as first:
        first.until_it_serves()
        cli.out("start", "guarded", "gate-1", "--id", "guarded-1")
        eventually(lambda: "gate-1" in cli.lines("notes"), "the attempt at the gate")
        with cli.worker("--lease", LONG, "--name", "ada") as second:
            second.until_it_serves()
            cli.open_gate("gate-1")
            cli.out("result", "guarded-1", "--timeout", "60")
    assert cli.lines("notes").count("gate-1") == 1


def test_a_second_signal_ends_the_worker_without_waiting(cli: Cli) -> None:
    with cli.worker("--drain", LONG) as worker:
        worker.until_it_serves()
        cli.out("start", "guarded", "gate-1", "--id", "guarded-1")
        eventually(lambda: "gate-1" in cli.lines("notes"), "the attempt at the gate")
        worker.send(signal.SIGTERM)
        worker.until("stopping")
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 128 + signal.SIGTERM


def test_an_attempt_that_outlives_the_drain_time_is_made_again_elsewhere(cli: Cli) -> None:
    with cli.worker("--lease", LONG, "--drain", "100ms") as first:
        first.until_it_serves()
        cli.out("start", "guarded", "gate-1", "--id", "guarded-1")
        eventually(lambda: "gate-1" in cli.lines("notes"), "the attempt at the gate")
        first.send(signal.SIGTERM)
        assert first.exit_code() == 0
    cli.open_gate("gate-1")
    with cli.worker("--lease", LONG):
        cli.out("result", "guarded-1", "--timeout", "60")
    assert cli.lines("notes") == ["before gate-1", "gate-1", "gate-1", "after gate-1"]


def test_a_killed_worker_is_replaced_and_no_recorded_step_runs_again(cli: Cli) -> None:
    with cli.worker("--lease", "1", "--name", "first") as first:
        first.until_it_serves()
        cli.out("start", "guarded", "gate-1", "--id", "guarded-1")
        eventually(lambda: "gate-1" in cli.lines("notes"), "the attempt at the gate")
        with cli.worker("--lease", "1", "--name", "second") as second:
            second.until_it_serves()
            first.send(signal.SIGKILL)
            cli.until("guarded-1", lambda run: run["worker"] == "second")
            cli.open_gate("gate-1")
            cli.out("result", "guarded-1", "--timeout", "60")
    assert cli.lines("notes") == ["before gate-1", "gate-1", "gate-1", "after gate-1"]
    results = [event["seq"] for event in cli.json("history", "guarded-1") if event["type"] == "ActivityCompleted"]
    assert results == [1, 2, 3]


def test_what_an_attempt_said_last_outlives_the_worker_that_is_killed(cli: Cli) -> None:
    with cli.worker("--lease", "1", "--name", "first") as first:
        first.until_it_serves()
        cli.out("start", "reading", "gate-1", "--id", "reading-1")
        with psycopg.connect(cli.url, autocommit=True) as database:
            said = "SELECT details FROM perdure.heartbeat"
            eventually(lambda: database.execute(said).fetchall() == [(b"3",)], "the details to be recorded")
            first.send(signal.SIGKILL)
            with cli.worker("--lease", "1", "--name", "second"):
                assert json.loads(cli.out("result", "reading-1", "--timeout", "60")) == 3
            assert database.execute(said).fetchall() == []
    assert cli.lines("notes") == ["gate-1"], "the second attempt had no need to wait"


def test_a_process_that_dies_is_started_again_and_a_signal_drains_them_all(cli: Cli) -> None:
    with cli.worker("--processes", "2", "--lease", "1", "--health-port", "0") as worker:
        worker.until_it_serves(2)
        pids = [int(pid) for pid in re.findall(r"perdure\.worker\[(\d+)\]: worker .* serves ", worker.text())]
        assert worker.process.pid not in pids
        eventually(lambda: worker.probe("/readyz") == (200, {"ready": True}), "both to be ready")
        os.kill(pids[0], signal.SIGKILL)
        worker.until_it_serves(3)
        worker.until(r"was killed by SIGKILL; starting it again")
        eventually(lambda: worker.probe("/readyz")[0] == 200, "both to be ready again")
        cli.out("start", "greet", "--wait")
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 0
        assert len(re.findall("has stopped and given everything back", worker.text())) == 2


def test_processes_die_with_the_one_that_started_them(cli: Cli) -> None:
    with cli.worker("--processes", "2") as worker:
        worker.until_it_serves(2)
        pids = [int(pid) for pid in re.findall(r"perdure\.worker\[(\d+)\]: worker .* serves ", worker.text())]
        worker.send(signal.SIGKILL)
        worker.exit_code()
        eventually(lambda: all(has_ended(pid) for pid in pids), "the end of the children")


STUCK = """
import asyncio, os, pathlib, time
from perdure import activity, workflow

def begin() -> None:
    pathlib.Path(os.environ["PERDURE_SAMPLES"], "began").touch()

@activity.define
def blocks() -> None:
    begin()
    time.sleep(3600)

@activity.define
async def waits_for_a_thread() -> None:
    begin()
    await asyncio.to_thread(time.sleep, 3600)

@activity.define
async def ignores() -> None:
    begin()
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass

@workflow.define
async def stuck(name: str) -> None:
    await workflow.execute_activity(name)
"""


@pytest.mark.parametrize(
    ("name", "processes", "named"),
    [
        ("blocks", "1", "activity stuck-1/1 blocks"),
        ("blocks", "2", "activity stuck-1/1 blocks"),
        ("waits_for_a_thread", "1", "threads that activities have begun"),
        ("ignores", "1", "activity stuck-1/1 ignores"),
    ],
)
def test_a_worker_ends_after_its_drain_time_and_names_what_it_cuts_off(
    cli: Cli, name: str, processes: str, named: str
) -> None:
    (cli.folder / "sticky.py").write_text(STUCK)
    with cli.worker("--drain", "0.1", "--processes", processes, modules=[str(cli.folder / "sticky.py")]) as worker:
        worker.until_it_serves(int(processes))
        cli.out("start", "stuck", json.dumps(name), "--id", "stuck-1")
        eventually((cli.folder / "began").exists, "the activity to begin")
        worker.send(signal.SIGTERM)
        assert worker.exit_code() == 0
        assert "has stopped and given everything back" in worker.text()
        assert f"cut off in the middle: {named}" in worker.text()


@pytest.mark.parametrize("processes", ["1", "2"])
@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        ("no_such_module", "there is no module no_such_module"),
        ("no/such/file.py", "there is no Python file no/such/file.py"),
        ("json", "json defines no workflow and no activity"),
        ("{folder}/broken.py", "NameError: name 'oops' is not defined"),
        ("{folder}/json.py", "another module is called json already"),
    ],
)
def test_a_module_that_cannot_be_served_ends_the_worker_with_2(
    cli: Cli, processes: str, module: str, complaint: str
) -> None:
    (cli.folder / "broken.py").write_text("import asyncio\n\noops\n")
    (cli.folder / "json.py").write_text("")
    with cli.worker("--processes", processes, modules=[module.format(folder=cli.folder)]) as worker:
        assert worker.exit_code() == 2
        assert complaint in worker.text()
        assert "perdure/cli" not in worker.text()


def test_modules_are_found_by_path_and_what_they_import_is_served(cli: Cli) -> None:
    (cli.folder / "helpers.py").write_text("GREETING = 'good morning'\n")
    (cli.folder / "morning.py").write_text(
        "from helpers import GREETING\n"
        "from tests.support.cli_samples import greet, note\n"
        "from perdure import workflow\n\n"
        "@workflow.define\nasync def morning() -> str:\n    return GREETING\n"
    )
    with cli.worker(modules=[str(cli.folder / "morning.py")]) as worker:
        assert worker.until(r"(workflows .*; activities .*)") == ["workflows greet, morning; activities note"]
        assert cli.out("start", "morning", "--wait") == '"good morning"\n'
        assert '"hello Ada"' in cli.out("start", "greet", "Ada", "--wait")


def test_a_worker_waits_for_its_database_and_its_health_says_so(tmp_path: Path) -> None:
    server = EmbeddedServer()
    try:
        url = server.create_database()
        migrate(url)
        cli = Cli(url, tmp_path)
        away = urlsplit(url)._replace(netloc="postgres@127.0.0.1:1", query="").geturl()
        with cli.worker("--health-port", "127.0.0.1:0", url=away) as early:
            early.until("cannot be reached.*trying again")
            assert early.probe("/livez") == (200, {"live": True})
            status, body = early.probe("/readyz")
            assert (status, body["ready"]) == (503, False)
            assert "has not reached its database yet" in body["reason"]
            early.send(signal.SIGTERM)
            assert early.exit_code() == 0
        with cli.worker("--health-port", "127.0.0.1:0", "--lease", "1") as worker:
            eventually(lambda: worker.probe("/readyz") == (200, {"ready": True}), "the worker to be ready")
            assert worker.probe("/anything")[0] == 404
            server.restart(crash=True)
            assert worker.probe("/livez") == (200, {"live": True})
            eventually(lambda: worker.probe("/readyz")[0] == 200, "the worker to be ready again")
            cli.out("start", "greet", "--wait")
    finally:
        server.stop()


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_schema_that_is_damaged_ends_the_worker_with_4(cli: Cli, processes: str) -> None:
    with psycopg.connect(cli.url, autocommit=True) as connection:
        connection.execute("DROP TABLE perdure.worker CASCADE")
    with cli.worker("--processes", processes) as worker:
        assert worker.exit_code() == 4
        assert "run `perdure migrate`" in worker.text()


def test_a_port_that_is_taken_is_named(cli: Cli) -> None:
    with cli.worker("--health-port", "127.0.0.1:0") as first:
        port = first.until(r"health endpoints: http://127\.0\.0\.1:(\d+)/")[0]
        with cli.worker("--health-port", f"127.0.0.1:{port}") as second:
            assert second.exit_code() == 2
            assert f"cannot listen on 127.0.0.1:{port}" in second.text()


def test_only_the_queues_that_were_named_are_served(cli: Cli) -> None:
    cli.out("start", "greet", "--id", "slow-1", "--queue", "slow")
    cli.out("start", "greet", "--id", "other-1", "--queue", "other")
    with cli.worker("--queue", "slow", "--queue", "fast"):
        cli.out("start", "greet", "--queue", "fast", "--wait")
        cli.out("result", "slow-1", "--timeout", "60")
    assert cli.describe("other-1")["phase"] == "Pending"


def test_log_records_for_machines_are_json_with_the_ids_of_the_run(cli: Cli) -> None:
    (cli.folder / "talkative.py").write_text(
        "import logging\n"
        "from perdure import RetryPolicy, activity, workflow\n\n"
        "@activity.define\ndef speak() -> None:\n    logging.getLogger('shop').warning('from an activity')\n\n"
        "@activity.define\nasync def shout() -> None:\n"
        "    try:\n        1 / 0\n    except ZeroDivisionError:\n        logging.exception('caught')\n\n"
        "@workflow.define\nasync def talk() -> None:\n"
        "    workflow.logger.info('from a workflow')\n    await speak()\n    await shout()\n"
        "    logging.getLogger('shop').info('from a library')\n"
        "    await workflow.signal('go').receive()\n    workflow.logger.info('once')\n    open('x')\n"
    )
    cli.environment["PERDURE_LOG_FORMAT"] = "json"
    with cli.worker(modules=[str(cli.folder / "talkative.py")]) as worker:
        cli.out("start", "talk", "--id", "talk-1")
        cli.until("talk-1", lambda run: run["waitingFor"] != "")
        cli.out("signal", "talk-1", "go")
        cli.until("talk-1", lambda run: run["phase"] == "Stalled")
        worker.until("is held")
        lines = [_parsed(line) for line in worker.text().splitlines()]
    assert all({"time", "level", "logger", "process", "message"} <= line.keys() for line in lines)
    ours = [line for line in lines if "workflow_id" in line]
    run_id = cli.describe("talk-1")["runId"]
    assert {(line["workflow_id"], line["run_id"]) for line in ours} == {("talk-1", run_id)}
    # The run was parked and replayed in between: what was said before is not said again.
    assert [(line["logger"], line["level"], line["message"]) for line in ours[:3]] == [
        ("perdure.workflow", "INFO", "from a workflow"),
        ("shop", "WARNING", "from an activity"),
        ("root", "ERROR", "caught"),
    ]
    assert [line["message"] for line in ours].count("from a workflow") == 1
    assert [line["message"] for line in ours].count("once") == 1
    assert (ours[1]["activity"], ours[1]["attempt"]) == ("speak", 1)
    assert str(ours[2]["exception"]).startswith("Traceback")
    assert str(ours[2]["exception"]).endswith("ZeroDivisionError: division by zero")
    assert next(line for line in ours if line["message"] == "from a library")["workflow"] == "talk"
    assert "is held" in str(ours[-1]["message"])
    assert ours[-1]["workflow"] == "talk"


def _parsed(line: str) -> dict[str, object]:
    parsed: dict[str, object] = json.loads(line)
    return parsed
