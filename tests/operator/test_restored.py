"""Restored databases and restored clusters: real dumps, a real second cluster, and what the page about them says."""

import re
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest

from perdure.store.postgres.migrate import migrate
from perdure_operator.restored import REASONS
from tests.operator.conftest import DEFINITIONS, settle
from tests.operator.stage import Stage, condition
from tests.support.backup import dump, restore
from tests.support.cli import ROOT
from tests.support.kubernetes import ControlPlane
from tests.support.postgres import Server

PAGE = (ROOT / "docs" / "operations" / "backup-and-restore.md").read_text()


@pytest.fixture
def stage(control_plane: ControlPlane, kube_namespace: str, database: str, tmp_path: Path) -> Stage:
    migrate(database)
    return Stage(control_plane, kube_namespace, database, tmp_path)


@pytest.fixture
def another_cluster() -> Iterator[ControlPlane]:
    """A cluster that knows the kinds of `crds/` and nothing else."""
    with ControlPlane() as plane:
        plane.kubectl("apply", "-f", str(DEFINITIONS))
        plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(DEFINITIONS))
        settle(plane)
        yield plane


def accepted(stage: Stage, name: str, reason: str) -> dict[str, str]:
    """Wait until an object is refused for this reason, and return its status."""
    return stage.until(name, lambda status: condition(status, "Accepted").get("reason") == reason)


def documented(command: str) -> str:
    """Return a command that the page has."""
    assert command in PAGE
    return command


def test_a_database_from_an_older_backup_starts_nothing_twice(
    stage: Stage, postgres_server: Server, tmp_path: Path
) -> None:
    with stage.worker() as worker, stage.operator() as operator:
        worker.until_it_serves()
        operator.until_it_leads()
        stage.apply("before", "greet", {"name": "before"})
        stage.until_phase("before", "Succeeded")
        stage.apply("across", "noted", {"gate": "north"})
        stage.apply("open", "noted", {"gate": "south"})
        stage.until_phase("across", "Running")
        stage.until_phase("open", "Running")
        dump(stage.url, tmp_path / "backup")
        stage.cli.open_gate("north")
        stage.until_phase("across", "Succeeded")
        stage.apply("after", "greet", {"name": "after"})
        stage.until_phase("after", "Succeeded")
        stage.apply("lost", "noted", {"gate": "east"})
        lost = stage.until_phase("lost", "Running")
    before = {name: stage.status(name) for name in ("before", "across", "after")}

    restored = postgres_server.create_database()
    try:
        restore(tmp_path / "backup", restored)
        [statement] = re.findall(r"```sql\n(.*?)```", PAGE, re.DOTALL)
        with psycopg.connect(restored, autocommit=True) as connection:
            connection.execute(statement.encode())
        again = stage.on(restored)
        with again.operator() as operator:
            operator.until(r"across is closed: it has ended already")
            status = accepted(again, "lost", "RunLost")
            assert (status["phase"], status["runId"]) == ("Stalled", lost["runId"])
            assert "perdure.dev/restored=false" in condition(status, "Accepted")["message"]
            with again.worker() as worker:
                worker.until_it_serves()
                stage.cli.open_gate("south")
                again.until_phase("open", "Succeeded")
                assert {name: again.status(name) for name in before} == before
                phases = {run["id"]: run["phase"] for run in again.runs()}
                assert phases == {"before": "Succeeded", "across": "Terminated", "open": "Succeeded"}
                again.instances.kubectl("annotate", "wfi", "lost", documented("perdure.dev/restored=false"))
                stage.cli.open_gate("east")
                status = again.until_phase("lost", "Succeeded")
                # Keys are made of the installation, which was restored, and the id: no two runs may have the same.
                assert int(status["runId"]) > int(lost["runId"])
        notes = stage.cli.lines("journal")
        assert sorted(notes) == sorted(["before", "north", "after", "south", "east"])
    finally:
        postgres_server.drop_database(restored)


def test_objects_restored_to_another_cluster_get_their_runs_back_and_nothing_runs_twice(
    stage: Stage, another_cluster: ControlPlane, tmp_path: Path
) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        with stage.operator() as operator:
            operator.until_it_leads()
            stage.apply("done", "greet", {"name": "done"})
            stage.apply("open", "noted", {"gate": "north"})
            stage.apply("name", "greet", {"name": "old"})
            done = stage.until_phase("done", "Succeeded")
            stage.until_phase("name", "Succeeded")
            run = stage.until_phase("open", "Running")["runId"]
            backup, _ = stage.instances.kubectl(*documented("get wfi -o yaml").split())

        another_cluster.kubectl("create", "namespace", stage.namespace)
        there = Stage(another_cluster, stage.namespace, stage.url, tmp_path)
        with there.operator() as operator:
            operator.until("1 open runs have no object")
            assert there.cli.describe("open")["phase"] == "Running"
            stripped = subprocess.run(
                ["sh", "-c", documented("grep -vE '^    (uid|resourceVersion): '")],
                input=backup, check=True, capture_output=True, text=True,
            )  # fmt: skip
            there.instances.kubectl("create", "-f", "-", stdin=stripped.stdout)
            for name in ("done", "open", "name"):
                status = accepted(there, name, "EarlierRunExists")
                assert (status["phase"], "runId" in status) == ("Stalled", False)
            assert len(there.runs()) == 3
            there.instances.kubectl(*documented("annotate wfi --all perdure.dev/restored=true").split())
            assert there.until_phase("done", "Succeeded")["result"] == done["result"]
            assert there.until_phase("open", "Running")["runId"] == run
            there.apply("new", "greet", {"name": "new"})
            there.until_phase("new", "Succeeded")
            there.cli.open_gate("north")
            there.until_phase("open", "Succeeded")
            assert len(there.runs()) == 4

            there.delete("name")
            there.apply("name", "greet", {"name": "again"})
            accepted(there, "name", "EarlierRunExists")
            there.instances.kubectl("annotate", "wfi", "name", "perdure.dev/restored=false")
            there.until_phase("name", "Succeeded")
        assert sorted(there.cli.lines("journal")) == sorted(["done", "old", "north", "new", "again"])


def test_a_restored_object_whose_run_the_database_does_not_have_is_not_started(stage: Stage) -> None:
    with stage.operator() as operator:
        operator.until_it_leads()
        stage.instances.create("nowhere", {"workflow": "greet"}, metadata=restored("nowhere"))
        status = accepted(stage, "nowhere", "RunLost")
        assert status["phase"] == "Stalled"
        assert stage.runs() == []


def test_runs_of_objects_that_a_restored_cluster_has_forgotten_go_on(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        with stage.operator() as operator:
            operator.until_it_leads()
            stage.apply("forgotten", "approval")
            stage.until_phase("forgotten", "Running")
            operator.kill()
        # As an etcd of an hour ago: the object is not there yet, and the Lease was renewed an hour ago.
        stage.delete("forgotten")
        forget_the_last_hours(stage)
        with stage.operator() as operator:
            operator.until("1 open runs have no object")
            stage.until_the_lease_says("perdure.dev/abandoned-runs")
            stage.restart_operator()
            # An orphan of this cluster shows that runs without objects have been looked for since.
            stage.apply("deleted", "approval")
            stage.until_phase("deleted", "Running")
            operator.kill()
            stage.delete("deleted")
        with stage.operator():
            stage.until_run("deleted", "Cancelled")
            assert stage.cli.describe("forgotten")["phase"] == "Running"


def test_an_operator_that_lives_through_the_restore_of_its_cluster_cancels_nothing(
    another_cluster: ControlPlane, database: str, tmp_path: Path
) -> None:
    migrate(database)
    stage = Stage(another_cluster, "default", database, tmp_path)
    with stage.worker() as worker:
        worker.until_it_serves()
        with stage.operator(POD_NAME="operator-1") as operator:
            operator.until_it_leads()
            stage.apply("known", "approval")
            stage.until_phase("known", "Running")
            another_cluster.back_up(tmp_path / "etcd")
            stage.apply("forgotten", "approval")
            stage.until_phase("forgotten", "Running")
            another_cluster.restore(tmp_path / "etcd")
            operator.until("1 open runs have no object")
        assert not stage.cli.describe("forgotten")["cancelRequested"]


def test_a_database_whose_clock_is_behind_makes_no_run_one_of_another_cluster(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        with stage.operator() as operator:
            operator.until_it_leads()
        stage.apply("again", "greet", {"name": "first"})
        forget_the_last_hours(stage)
        with stage.operator():
            stage.until_phase("again", "Succeeded")
            with psycopg.connect(stage.url) as connection:
                connection.execute("UPDATE perdure.run SET created_at = created_at - interval '2 s'")
            stage.delete("again")
            stage.apply("again", "greet", {"name": "second"})
            status = stage.until("again", lambda status: status["phase"] in {"Succeeded", "Stalled"})
            assert status.get("result") == '"hello second"', status


def forget_the_last_hours(stage: Stage) -> None:
    """Let the Lease look as if it was renewed a year ago."""
    lease = stage.lease()
    past = datetime.now(UTC).replace(year=datetime.now(UTC).year - 1)
    lease["spec"]["renewTime"] = past.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    path = f"/apis/coordination.k8s.io/v1/namespaces/{stage.namespace}/leases/perdure-operator"
    assert stage.plane.request("PUT", path, lease).status == 200


def restored(name: str) -> dict[str, object]:
    return {"name": name, "annotations": {"perdure.dev/restored": "true"}}


def test_the_page_is_about_the_reasons_that_there_are() -> None:
    assert all(f"`{reason}`" in PAGE for reason in REASONS)
