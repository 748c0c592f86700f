"""Operators that die, freeze and compete, an API server that stops, a database that cannot be reached."""

import shutil
import signal
import time
from pathlib import Path

import pytest

from perdure.store.postgres.migrate import migrate
from tests.operator.stage import RULES, Stage, WireInThread, condition
from tests.support.cli import eventually
from tests.support.instances import Instances
from tests.support.kubernetes import ControlPlane
from tests.support.postgres import Server


@pytest.fixture
def stage(control_plane: ControlPlane, kube_namespace: str, database: str, tmp_path: Path) -> Stage:
    migrate(database)
    return Stage(control_plane, kube_namespace, database, tmp_path)


def test_an_object_from_before_the_operator_is_started_once(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("early", "greet", {"name": "Ada"})
        with stage.operator():
            stage.until_phase("early", "Succeeded")
        assert len(stage.runs()) == 1
        assert stage.cli.lines("journal") == ["Ada"]


def test_an_operator_for_all_namespaces_serves_them_all(stage: Stage) -> None:
    with stage.worker() as worker, stage.operator(everywhere=True) as operator:
        worker.until_it_serves()
        operator.until_it_leads()
        stage.apply("here", "greet", {"name": "Ada"})
        stage.until_phase("here", "Succeeded")
        elsewhere = Instances(stage.plane, "default")
        assert elsewhere.create("there", {"workflow": "greet"}).status == 201
        try:
            eventually(lambda: "status" in elsewhere.read("there"), "a status in another namespace")
            assert elsewhere.read("there")["status"]["phase"] == "Pending"
        finally:
            elsewhere.kubectl("delete", "wfi", "there")


def test_an_object_deleted_without_an_operator_has_its_run_cancelled_by_the_next(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        with stage.operator() as operator:
            operator.until_it_leads()
            stage.apply("gone", "approval")
            stage.until_phase("gone", "Running")
        stage.delete("gone")
        with stage.operator():
            stage.until_run("gone", "Cancelled")
        assert stage.cli.lines("journal") == ["cleaned up"]


def test_an_operator_killed_between_start_and_status_loses_and_doubles_nothing(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        with stage.operator() as operator:
            operator.until_it_leads()
            stage.apply("cut", "gated", {"gate": "north"})
            # The first status of a run that goes on is held back for a second: it is not written yet.
            operator.until("cut started as run")
            operator.kill()
        assert stage.status("cut") == {}
        stage.cli.open_gate("north")
        stage.until_run("cut", "Succeeded")
        assert stage.status("cut") == {}
        with stage.operator():
            stage.until_phase("cut", "Succeeded")
        assert len(stage.runs()) == 1
        assert stage.writes("cut") == 1


def test_of_two_operators_one_leads_and_the_other_takes_over_when_it_is_killed(stage: Stage) -> None:
    with stage.worker() as worker, stage.operator() as first:
        worker.until_it_serves()
        first.until_it_leads()
        with stage.operator() as second:
            eventually(lambda: second.probe("/readyz")[0] == 200, "a standby that is ready")
            assert second.probe("/readyz")[1]["role"] == "standby"
            assert first.probe("/readyz")[1]["role"] == "leader"
            stage.apply("one", "gated", {"gate": "north"})
            stage.until_phase("one", "Running")
            assert " leads " not in second.text()
            first.kill()
            stage.cli.open_gate("north")
            stage.apply("two", "greet", {"name": "Ada"})
            stage.until_phase("one", "Succeeded")
            stage.until_phase("two", "Succeeded")
            assert " leads " in second.text()
        assert len(stage.runs()) == 2
        assert stage.writes("one") == 2


def test_an_operator_that_stops_in_order_hands_over_and_exits_with_0(stage: Stage) -> None:
    with stage.operator() as first:
        first.until_it_leads()
        with stage.operator() as second:
            second.until("probes are answered")
            assert first.stop() == 0
            second.until_it_leads()
        lease = stage.lease()
        assert lease["spec"]["holderIdentity"] == second.identity()
        assert lease["spec"]["leaseTransitions"] == 1


def test_an_operator_that_is_started_again_in_its_pod_does_not_wait_for_its_own_lease(stage: Stage) -> None:
    with stage.operator(POD_NAME="operator-1", PERDURE_OPERATOR_LEASE_SECONDS="600") as first:
        first.until_it_leads()
        first.restart()
        first.until_it_leads()
        first.kill()
        with stage.operator(POD_NAME="operator-2", PERDURE_OPERATOR_LEASE_SECONDS="600") as other:
            eventually(lambda: other.probe("/readyz")[0] == 200, "a standby that is ready")
            assert other.probe("/readyz")[1]["role"] == "standby"


def test_a_frozen_leader_writes_nothing_when_it_wakes_and_stands_by(stage: Stage) -> None:
    with stage.worker() as worker, stage.operator() as first, stage.operator() as second:
        worker.until_it_serves()
        leader, standby = (first, second) if stage.leads(first) else (second, first)
        stage.apply("run", "gated", {"gate": "north"})
        stage.until_phase("run", "Running")
        leader.process.send_signal(signal.SIGSTOP)
        standby.until_it_leads()
        stage.cli.open_gate("north")
        stage.until_phase("run", "Succeeded")
        writes = stage.writes("run")
        leader.process.send_signal(signal.SIGCONT)
        leader.until("does not lead any more")
        eventually(lambda: leader.probe("/readyz")[1]["role"] == "standby", "a leader that stands by")
        assert stage.writes("run") == writes
        assert stage.status("run")["phase"] == "Succeeded"


def test_runs_go_on_without_the_api_server_and_statuses_catch_up(stage: Stage) -> None:
    with stage.worker() as worker, stage.operator() as operator:
        worker.until_it_serves()
        operator.until_it_leads()
        for name in ("one", "two"):
            stage.apply(name, "gated", {"gate": name})
            stage.until_phase(name, "Running")
        stage.plane.stop_api_server()
        try:
            stage.cli.open_gate("one")
            stage.until_run("one", "Succeeded")
            operator.until("does not lead any more")
            assert operator.probe("/healthz")[0] == 200
            eventually(lambda: "api server" in operator.probe("/readyz")[1]["wrong"], "an operator that is not ready")
            assert operator.probe("/readyz")[0] == 503
        finally:
            stage.plane.start_api_server()
        stage.until_phase("one", "Succeeded")
        stage.cli.open_gate("two")
        stage.until_phase("two", "Succeeded")
        assert operator.process.poll() is None
        assert (stage.writes("one"), stage.writes("two")) == (2, 2)


def test_an_object_applied_without_the_database_is_started_when_it_is_back(stage: Stage) -> None:
    with WireInThread(stage.url) as wire, stage.worker() as worker, stage.operator(url=wire.dsn()) as operator:
        worker.until_it_serves()
        operator.until_it_leads()
        stage.apply("before", "gated", {"gate": "north"})
        stage.until_phase("before", "Running")
        wire.go_down()
        stage.apply("during", "greet", {"name": "Ada"})
        status = stage.until("during", lambda status: condition(status, "Accepted").get("status") == "False")
        assert condition(status, "Accepted")["reason"] == "StoreUnavailable"
        assert condition(status, "Stalled") == {}
        assert operator.probe("/healthz")[0] == 200
        eventually(lambda: "database" in operator.probe("/readyz")[1]["wrong"], "an operator that is not ready")
        assert operator.probe("/readyz")[0] == 503
        # What is known of a run stays on its object.
        assert condition(stage.status("before"), "Accepted")["status"] == "True"
        stage.cli.open_gate("north")
        wire.come_up()
        stage.until_phase("during", "Succeeded")
        stage.until_phase("before", "Succeeded")
        assert operator.process.poll() is None
        eventually(lambda: operator.probe("/readyz")[0] == 200, "an operator that is ready again")
    assert len(stage.runs()) == 2


def test_an_operator_waits_for_a_database_that_is_not_there_yet(stage: Stage) -> None:
    with WireInThread(stage.url) as wire, stage.worker() as worker:
        worker.until_it_serves()
        wire.go_down()
        with stage.operator(url=wire.dsn()) as operator:
            operator.until_it_leads()
            stage.apply("first", "greet", {"name": "Ada"})
            stage.until("first", lambda status: condition(status, "Accepted").get("reason") == "StoreUnavailable")
            wire.come_up()
            stage.until_phase("first", "Succeeded")


def test_a_database_without_the_schema_is_named_on_the_object(stage: Stage, postgres_server: Server) -> None:
    empty = postgres_server.create_database()
    try:
        with stage.operator(url=empty) as operator:
            operator.until_it_leads()
            stage.apply("first", "greet", {"name": "Ada"})
            status = stage.until("first", lambda status: bool(condition(status, "Accepted")))
            assert "perdure migrate" in condition(status, "Accepted")["message"]
            migrate(empty)
            eventually(lambda: operator.probe("/readyz")[0] == 200, "an operator that is ready")
    finally:
        postgres_server.drop_database(empty)


def test_an_operator_that_may_not_write_statuses_is_not_ready_and_does_not_end(stage: Stage) -> None:
    with stage.worker() as worker, stage.operator() as operator:
        worker.until_it_serves()
        operator.until_it_leads()
        with stage.without_right("workflowinstances/status"):
            stage.apply("mute", "greet", {"name": "Ada"})
            eventually(lambda: "status" in operator.probe("/readyz")[1]["wrong"], "an operator that is not ready")
            assert "403" in operator.probe("/readyz")[1]["wrong"]["status"]
        stage.until_phase("mute", "Succeeded")
        eventually(lambda: operator.probe("/readyz")[0] == 200, "an operator that is ready again")


def test_an_operator_is_ready_although_the_status_of_one_object_is_refused(stage: Stage) -> None:
    with stage.worker() as worker, stage.operator() as operator:
        worker.until_it_serves()
        operator.until_it_leads()
        stage.apply("refused", "approval")
        stage.until_phase("refused", "Running")
        with stage.policy("UPDATE", "workflowinstances/status", "object.metadata.name != 'refused'"):
            eventually(
                lambda: stage.instances.patch_status({"progress": str(time.monotonic())}, "refused").status == 403,
                "a policy that is in force",
            )
            stage.cli.out("signal", "refused", "approve", '"yes"')
            operator.until("could not be written")
            stage.apply("other", "greet", {"name": "Ada"})
            stage.until_phase("other", "Succeeded")
            tried = operator.metrics().value("perdure_operator_status_writes_total", outcome="error")
            eventually(
                lambda: operator.metrics().value("perdure_operator_status_writes_total", outcome="error") > tried,
                "another try",
            )
            assert operator.probe("/readyz")[0] == 200
        stage.until_phase("refused", "Succeeded")


def test_a_namespace_that_was_deleted_with_the_role_in_it_stops_nothing_in_the_others(stage: Stage) -> None:
    other = Instances(stage.plane, f"{stage.namespace}-b")
    role = {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": {"name": "operator"},
        "rules": RULES,
    }
    stage.plane.kubectl("create", "namespace", other.namespace)
    path = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{other.namespace}/roles"
    subject = f"--serviceaccount={stage.namespace}:operator"
    binding = ("-n", other.namespace, "create", "rolebinding", "operator", "--role=operator", subject)
    stage.plane.kubectl(*binding)
    assert stage.plane.request("POST", path, role).status == 201
    with stage.worker() as worker, stage.operator("--namespace", other.namespace) as operator:
        worker.until_it_serves()
        operator.until_it_leads()
        assert other.create("there", {"workflow": "greet"}).status == 201
        eventually(lambda: "status" in other.read("there"), "a status in the other namespace")
        assert stage.plane.request("DELETE", f"{path}/operator").status == 200
        operator.until(f"namespace {other.namespace} is not served")
        stage.apply("here", "greet", {"name": "Ada"})
        stage.until_phase("here", "Succeeded")
        operator.restart()
        operator.until(f"namespace {other.namespace} is not served")
        stage.apply("still", "greet", {"name": "Bob"})
        stage.until_phase("still", "Succeeded")
        assert stage.plane.request("POST", path, role).status == 201
        assert other.create("again", {"workflow": "greet"}).status == 201
        eventually(lambda: "status" in other.read("again"), "a status in the namespace that is back")
        other.kubectl("delete", "wfi", "--all")


def test_a_process_whose_watch_dies_ends_with_an_error_instead_of_going_on_deaf(stage: Stage, tmp_path: Path) -> None:
    with stage.operator() as first:
        first.until_it_leads()
        stage.kubeconfig = Path(shutil.copy(stage.kubeconfig, tmp_path / "kubeconfig"))
        with stage.operator() as second:
            eventually(lambda: second.probe("/readyz")[0] == 200, "a standby that is ready")
            # Whoever watches logs in for itself, and finds nothing to log in with.
            stage.kubeconfig.unlink()
            first.kill()
            assert second.process.wait(60) == 1
            assert "error: the watch of the objects failed" in second.text()


def test_a_program_that_finds_no_cluster_says_what_to_set(stage: Stage) -> None:
    stage.cli.environment["KUBECONFIG"] = str(stage.folder / "none")
    ended = stage.cli.run("operator", "--namespace", "default")
    assert ended.returncode == 2
    assert "set KUBECONFIG" in ended.stderr
