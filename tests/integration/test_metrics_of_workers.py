"""What a worker says about itself: metrics that move as runs go through a real PostgreSQL, probes while it is away."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from perdure.store.postgres.migrate import migrate
from tests.support.cli import Cli, WorkerProgram, eventually
from tests.support.metrics import Page, scrape
from tests.support.postgres import EmbeddedServer

TYPES = {
    "perdure_worker_ready": "gauge",
    "perdure_worker_runs_owned": "gauge",
    "perdure_worker_claims_total": "counter",
    "perdure_worker_recovered_total": "counter",
    "perdure_worker_turns_total": "counter",
    "perdure_worker_flush_seconds": "histogram",
    "perdure_worker_runs_closed_total": "counter",
    "perdure_worker_runs_held_total": "counter",
    "perdure_worker_activities_running": "gauge",
    "perdure_worker_activities_waiting": "gauge",
    "perdure_worker_activity_places": "gauge",
    "perdure_worker_activity_attempts_total": "counter",
    "perdure_worker_activity_attempt_seconds": "histogram",
    "perdure_worker_lease_lost_total": "counter",
    "perdure_worker_store_errors_total": "counter",
}
HEALTH = ("--health-port", "127.0.0.1:0")


@pytest.fixture
def server() -> Iterator[EmbeddedServer]:
    """A server that a test may stop."""
    server = EmbeddedServer()
    yield server
    server.stop()


def metrics(worker: WorkerProgram) -> Page:
    return scrape(worker.until(r"health endpoints: (http://\S+)/livez")[0])


def test_every_metric_of_a_worker_is_there_from_the_start_by_the_rules(cli: Cli) -> None:
    with cli.worker(*HEALTH, "--build-id", "v7") as worker:
        eventually(lambda: metrics(worker).value("perdure_worker_ready", build="v7") == 1, "a worker that is ready")
        page = metrics(worker)
    assert page.types() == TYPES
    assert page.complaints() == []
    assert page.value("perdure_worker_activity_places", kind="async") == 100
    assert page.value("perdure_worker_activity_places", kind="thread") == 16
    zero = {name for name in TYPES if page.has(name)} - {"perdure_worker_ready", "perdure_worker_activity_places"}
    assert {name for name in zero if page.value(name)} == set()
    assert page.has("perdure_worker_runs_closed_total")
    assert page.has("perdure_worker_activity_attempts_total")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_counters_move_as_runs_go_through(cli: Cli, processes: str) -> None:
    with cli.worker(*HEALTH, "--processes", processes) as worker:
        worker.until_it_serves(int(processes))
        cli.out("start", "greet", "Ada", "--wait")
        cli.out("start", "greet", "Bob", "--wait")
        assert cli.run("start", "failing", "--wait").returncode == 1
        cli.out("start", "guarded", "gate-1", "--id", "guarded-1")
        eventually(lambda: "gate-1" in cli.lines("notes"), "the attempt at the gate")

        def all_counted() -> bool:
            page = metrics(worker)
            ended = page.value("perdure_worker_runs_closed_total", workflow="failing", outcome="failed")
            ended += page.value("perdure_worker_runs_closed_total", workflow="greet", outcome="completed")
            return ended == 3 and page.value("perdure_worker_activities_running", kind="async") == 1

        eventually(all_counted, "all runs in the metrics")  # a child reports once a second, each at its own moment
        page = metrics(worker)
        assert page.value("perdure_worker_runs_closed_total", workflow="greet", outcome="completed") == 2
        assert page.value("perdure_worker_runs_closed_total", workflow="failing", outcome="failed") == 1
        attempts = "perdure_worker_activity_attempts_total"
        assert page.value(attempts, activity="note", outcome="completed") == 3
        assert page.value(attempts, activity="stubborn", outcome="failed") == 3
        assert page.value("perdure_worker_activity_attempt_seconds_count", activity="stubborn") == 3
        assert page.value("perdure_worker_claims_total") == 4
        assert page.value("perdure_worker_runs_owned") == 1
        turns = page.value("perdure_worker_turns_total")
        assert turns >= 8
        assert 1 <= page.value("perdure_worker_flush_seconds_count") <= turns + 4
        assert page.complaints() == []
        cli.out("cancel", "guarded-1")
        eventually(
            lambda: metrics(worker).value(attempts, activity="gate", outcome="cancelled") == 1, "a cancelled attempt"
        )
        eventually(lambda: metrics(worker).value("perdure_worker_runs_owned") == 0, "a run that is gone")


def test_what_a_dead_process_has_counted_stays_counted(cli: Cli) -> None:
    with cli.worker(*HEALTH, "--processes", "2", "--lease", "1") as worker:
        worker.until_it_serves(2)
        cli.out("start", "greet", "--wait")
        closed = "perdure_worker_runs_closed_total"
        eventually(lambda: metrics(worker).value(closed, workflow="greet") == 1, "the run in the metrics")
        pids = [int(pid) for pid in re.findall(r"perdure\.worker\[(\d+)\]: worker .* serves ", worker.text())]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        worker.until("was killed by SIGKILL", 2)
        assert metrics(worker).value(closed, workflow="greet") == 1
        assert metrics(worker).value("perdure_worker_ready") == 0
        worker.until_it_serves(4)
        eventually(lambda: metrics(worker).value("perdure_worker_ready") == 2, "both again")
        assert metrics(worker).value(closed, workflow="greet") == 1


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_worker_lives_while_its_database_is_away_and_says_that_it_takes_no_work(
    server: EmbeddedServer, tmp_path: Path, processes: str
) -> None:
    url = server.create_database()
    migrate(url)
    cli = Cli(url, tmp_path)
    with cli.worker(*HEALTH, "--lease", "1", "--processes", processes) as worker:
        eventually(lambda: worker.probe("/readyz") == (200, {"ready": True}), "a worker that is ready")
        server.halt()
        eventually(lambda: worker.probe("/readyz")[0] == 503, "a worker that is not ready")
        assert worker.probe("/livez") == (200, {"live": True})
        # The outage outlasts the lease, and with it everything that a worker has from its database.
        eventually(lambda: metrics(worker).value("perdure_worker_lease_lost_total") >= 1, "a lost lease")
        assert worker.probe("/livez") == (200, {"live": True})
        assert worker.probe("/readyz")[0] == 503
        eventually(lambda: metrics(worker).value("perdure_worker_store_errors_total") >= 1, "an error that is counted")
        assert metrics(worker).value("perdure_worker_ready") == 0
        server.launch()
        eventually(lambda: worker.probe("/readyz") == (200, {"ready": True}), "a worker that is ready again")
        cli.out("start", "greet", "--wait")


def test_a_worker_whose_statements_fail_is_not_ready(cli: Cli) -> None:
    with cli.worker(*HEALTH) as worker:
        eventually(lambda: worker.probe("/readyz")[0] == 200, "a worker that is ready")
        with psycopg.connect(cli.url, autocommit=True) as connection:
            connection.execute("ALTER TABLE perdure.run RENAME COLUMN claims TO other")
            eventually(lambda: worker.probe("/readyz")[0] == 503, "a worker that is not ready")
            assert worker.probe("/livez")[0] == 200
            connection.execute("ALTER TABLE perdure.run RENAME COLUMN other TO claims")
        eventually(lambda: worker.probe("/readyz")[0] == 200, "a worker that is ready again")
