"""Arguments from ConfigMaps and Secrets: where they come from, and where the value of a Secret never is."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
import pytest

from tests.operator.stage import Stage, condition
from tests.support.cli import WorkerProgram, eventually

TOKEN = "a-value-that-nobody-may-see"
SOURCES = [
    {"name": "greeting", "configMapKeyRef": {"name": "texts", "key": "greeting"}},
    {"name": "rules", "configMapKeyRef": {"name": "texts", "key": "rules.json"}, "format": "JSON"},
    {"name": "token", "secretKeyRef": {"name": "payment", "key": "token"}},
]


@pytest.fixture
def mounted(stage: Stage) -> Path:
    """The Secret as the workers have it mounted."""
    folder = stage.folder / "secrets" / "payment"
    folder.mkdir(parents=True)
    (folder / "token").write_text(TOKEN)
    stage.cli.environment["PERDURE_SECRETS"] = str(folder.parent)
    return folder / "token"


@contextmanager
def configured(stage: Stage) -> Iterator[WorkerProgram]:
    """Run an instance with all kinds of sources, and lend its worker."""
    create_texts(stage)
    stage.instances.kubectl("create", "secret", "generic", "payment", f"--from-literal=token={TOKEN}")
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply("configured", "configured", inputFrom=SOURCES)
        yield worker


def create_texts(stage: Stage, rules: str = '{"most": 3}') -> None:
    literals = ("--from-literal=greeting=hello", f"--from-literal=rules.json={rules}")
    stage.instances.kubectl("create", "configmap", "texts", *literals)


@pytest.mark.usefixtures("mounted")
def test_arguments_come_from_config_maps_and_secrets(stage: Stage) -> None:
    with configured(stage):
        status = stage.until_phase("configured", "Succeeded")
    assert json.loads(status["result"]) == ["hello", {"most": 3}, "payment", len(TOKEN)]
    started = stage.cli.json("history", "configured")[0]
    assert json.dumps({"name": "payment", "key": "token"}) in json.dumps(started)


@pytest.mark.usefixtures("mounted")
def test_the_value_of_a_secret_is_in_no_table_and_no_log_and_the_operator_never_asks_for_it(stage: Stage) -> None:
    with configured(stage) as worker:
        stage.until_phase("configured", "Succeeded")
        log = worker.text() + stage.operators[-1].text()
    with psycopg.connect(stage.url) as connection:
        tables = [
            str(name)
            for (name,) in connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'perdure'").fetchall()
        ]
        rows = [
            row for table in tables for (row,) in connection.execute(f"SELECT t::text FROM perdure.{table} t".encode())
        ]
    assert any(b"hello".hex() in row for row in rows), "what is there can be found"
    assert not any(TOKEN in row or TOKEN.encode().hex() in row for row in rows)
    assert TOKEN not in log
    assert TOKEN not in json.dumps(stage.instances.read("configured"))


def test_an_instance_waits_for_its_config_map_and_says_which(stage: Stage) -> None:
    with stage.worker() as worker:
        worker.until_it_serves()
        stage.apply(
            "waiting", "greet", inputFrom=[{"name": "name", "configMapKeyRef": {"name": "texts", "key": "who"}}]
        )
        status = stage.until("waiting", lambda status: condition(status, "Accepted").get("reason") == "InputMissing")
        assert status["phase"] == "Pending"
        assert "there is no ConfigMap texts" in condition(status, "Accepted")["message"]
        create_texts(stage)
        stage.until("waiting", lambda status: "has no key who" in condition(status, "Accepted")["message"])
        assert stage.runs() == []
        stage.instances.kubectl("patch", "configmap", "texts", "--type", "merge", "-p", '{"data": {"who": "Ada"}}')
        assert json.loads(stage.until_phase("waiting", "Succeeded")["result"]) == "hello Ada"


def test_an_object_that_is_deleted_while_it_waits_for_its_input_never_starts(stage: Stage) -> None:
    source = [{"name": "name", "configMapKeyRef": {"name": "texts", "key": "greeting"}}]
    for name in ("gone", "witness"):
        stage.apply(name, "greet", inputFrom=source)
        stage.until(name, lambda status: condition(status, "Accepted").get("reason") == "InputMissing")
    stage.delete("gone")
    create_texts(stage)
    stage.until("witness", lambda status: "runId" in status)
    assert [run["id"] for run in stage.runs()] == ["witness"]


def test_an_operator_that_may_not_read_config_maps_says_so_on_the_object(stage: Stage) -> None:
    with stage.without_right("configmaps"):
        stage.apply("denied", "greet", inputFrom=[{"name": "name", "configMapKeyRef": {"name": "texts", "key": "who"}}])
        status = stage.until("denied", lambda status: condition(status, "Accepted").get("reason") == "InputMissing")
        assert "forbidden" in condition(status, "Accepted")["message"]
        stage.apply("other", "greet", {"name": "Ada"})
        eventually(lambda: "runId" in stage.status("other"), "a run of another object")


def test_an_argument_that_is_given_twice_is_refused(stage: Stage) -> None:
    stage.apply(
        "twice", "greet", {"name": "Ada"}, inputFrom=[{"name": "name", "secretKeyRef": {"name": "a", "key": "b"}}]
    )
    status = stage.until_phase("twice", "Stalled")
    assert condition(status, "Accepted")["reason"] == "InvalidSpec"
    assert "spec.inputFrom[0].name: the argument name is given twice" in status["message"]
