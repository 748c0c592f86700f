"""What an operator says about itself and about the database: metrics, probes and records, on real parts."""

import asyncio
import json
from pathlib import Path

import pytest

from perdure.store.postgres.migrate import migrate
from perdure_operator import metrics
from perdure_operator.database import Database
from perdure_operator.metrics import Backlog
from tests.operator.stage import OperatorProgram, Stage
from tests.support.cli import eventually
from tests.support.kubernetes import ControlPlane
from tests.support.postgres import EmbeddedServer
from tests.support.world import run_async

OWN = {
    "perdure_operator_is_leader": "gauge",
    "perdure_operator_terms_total": "counter",
    "perdure_operator_objects": "gauge",
    "perdure_operator_queue_depth": "gauge",
    "perdure_operator_statuses_waiting": "gauge",
    "perdure_operator_status_writes_total": "counter",
    "perdure_operator_reconcile_errors_total": "counter",
    "perdure_operator_api_errors_total": "counter",
    "perdure_operator_store_errors_total": "counter",
}
OF_A_TERM = {
    "perdure_operator_watch_alive_timestamp_seconds": "gauge",
    "perdure_operator_comparison_timestamp_seconds": "gauge",
    "perdure_runs_open": "gauge",
    "perdure_runs_held": "gauge",
    "perdure_backlog_runs": "gauge",
    "perdure_backlog_activities": "gauge",
    "perdure_backlog_oldest_seconds": "gauge",
    "perdure_backlog_workers": "gauge",
}


@pytest.fixture
def stage(control_plane: ControlPlane, kube_namespace: str, database: str, tmp_path: Path) -> Stage:
    migrate(database)
    return Stage(control_plane, kube_namespace, database, tmp_path)


def until(operator: OperatorProgram, name: str, value: float, **labels: str) -> None:
    def look() -> bool:
        return operator.metrics().has(name) and operator.metrics().value(name, **labels) == value

    eventually(look, f"{name}{labels} to be {value:g}:\n{operator.metrics().text}")


def test_the_leader_tells_of_itself_and_of_the_database_and_a_standby_of_itself(stage: Stage) -> None:
    with stage.worker() as worker, stage.operator() as leader:
        worker.until_it_serves()
        leader.until_it_leads()
        stage.apply("short", "greet", {"name": "Ada"})
        stage.apply("waiting", "greet", {"name": "Bob"}, taskQueue="nobody")
        stage.apply("unknown", "no-such-workflow")
        stage.until_phase("short", "Succeeded")
        stage.until_phase("unknown", "Stalled")
        until(leader, "perdure_runs_held", 1, reason="UnknownWorkflow")
        page = leader.metrics()
        assert page.complaints() == []
        assert page.types() == OWN | OF_A_TERM
        assert page.value("perdure_operator_is_leader") == page.value("perdure_operator_terms_total") == 1
        assert page.value("perdure_runs_open") == 2
        assert page.value("perdure_backlog_runs", queue="nobody") == 1
        assert page.value("perdure_backlog_oldest_seconds", queue="nobody") > 0
        assert page.value("perdure_backlog_workers", queue="nobody") == 0
        assert page.value("perdure_backlog_runs", queue="default") == 0
        assert page.value("perdure_backlog_workers", run_namespace=stage.namespace, queue="default") == 1
        assert page.value("perdure_operator_objects") == 3
        assert page.value("perdure_operator_queue_depth") == 0
        assert page.value("perdure_operator_status_writes_total", outcome="written") >= 3
        with stage.operator() as standby:
            eventually(lambda: standby.probe("/readyz")[0] == 200, "a standby that is ready")
            page = standby.metrics()
            assert page.complaints() == []
            assert page.types() == OWN
            assert page.value("perdure_operator_is_leader") == 0


def test_what_goes_wrong_is_counted(stage: Stage) -> None:
    with stage.operator() as operator:
        operator.until_it_leads()
        with stage.without_right("workflowinstances/status"):
            stage.apply("unseen", "greet", {"name": "Ada"})
            eventually(
                lambda: operator.metrics().value("perdure_operator_status_writes_total", outcome="error") >= 2,
                "writes that failed",
            )
            assert operator.metrics().value("perdure_operator_api_errors_total", code="403") >= 2
            assert operator.metrics().value("perdure_operator_statuses_waiting") == 1
        until(operator, "perdure_operator_statuses_waiting", 0)


def test_an_operator_lives_while_its_database_is_away(
    control_plane: ControlPlane, kube_namespace: str, tmp_path: Path
) -> None:
    server = EmbeddedServer()
    try:
        url = server.create_database()
        migrate(url)
        stage = Stage(control_plane, kube_namespace, url, tmp_path)
        with stage.operator() as operator:
            eventually(lambda: operator.probe("/readyz")[0] == 200, "an operator that is ready")
            eventually(lambda: operator.metrics().has("perdure_runs_open"), "a census")
            server.halt()
            eventually(lambda: operator.probe("/readyz")[0] == 503, "an operator that is not ready")
            assert "database" in operator.probe("/readyz")[1]["wrong"]
            assert operator.probe("/livez")[0] == operator.probe("/healthz")[0] == 200
            stage.apply("early", "greet", {"name": "Ada"})
            eventually(
                lambda: operator.metrics().value("perdure_operator_reconcile_errors_total") >= 1, "a failed attempt"
            )
            assert operator.metrics().value("perdure_operator_store_errors_total") >= 1
            eventually(lambda: not operator.metrics().has("perdure_runs_open"), "a census that is withdrawn")
            assert operator.probe("/livez")[0] == 200
            server.launch()
            eventually(lambda: operator.probe("/readyz")[0] == 200, "an operator that is ready again")
            stage.until(("early"), lambda status: "runId" in status)
            assert operator.process.poll() is None
    finally:
        server.stop()


def test_records_for_machines_are_json_and_name_the_object_and_the_run(stage: Stage) -> None:
    with stage.operator("--log-format", "json") as operator:
        operator.until_it_leads()
        stage.apply("early", "greet", {"name": "Ada"})
        run = stage.until("early", lambda status: "runId" in status)["runId"]
        records = [json.loads(line) for line in operator.text().splitlines()]
    assert all({"time", "level", "logger", "process", "message"} <= record.keys() for record in records)
    [started] = [record for record in records if "started as run" in record["message"]]
    assert (started["namespace"], started["workflow_id"], started["run_id"], started["workflow"]) == (
        stage.namespace,
        "early",
        int(run),
        "greet",
    )


def test_a_census_is_withdrawn_when_the_database_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "INTERVAL", 0.05)
    server = EmbeddedServer()
    try:
        url = server.create_database()
        migrate(url)

        async def main() -> None:
            database = Database(url)
            backlog = Backlog(database, None)
            counting = asyncio.create_task(backlog.run())

            def taken() -> bool:
                return backlog.census is not None

            while not taken():  # noqa: ASYNC110  # what is awaited is another process
                await asyncio.sleep(0.02)
            await asyncio.to_thread(server.halt)
            while taken():  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.02)
            assert database.errors == 1
            counting.cancel()
            await asyncio.gather(counting, return_exceptions=True)
            await database.close()

        run_async(main)()
    finally:
        server.stop()
