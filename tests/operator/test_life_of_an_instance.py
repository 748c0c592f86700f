"""From `kubectl apply` to the end of a run, with everything real in between."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.store.postgres.migrate import migrate
from tests.operator.stage import Stage, condition
from tests.support.kubernetes import ControlPlane


@pytest.fixture
def stage(control_plane: ControlPlane, kube_namespace: str, database: str, tmp_path: Path) -> Iterator[Stage]:
    migrate(database)
    yield Stage(control_plane, kube_namespace, database, tmp_path)


def test_a_short_run_has_its_result_on_the_object_after_a_single_write(stage: Stage) -> None:
    with stage.operator() as operator, stage.worker() as worker:
        operator.until_it_leads()
        worker.until_it_serves()
        stage.apply("short", "greet", {"name": "Ada"})
        status = stage.until_phase("short", "Succeeded")
        assert json.loads(status["result"]) == "hello Ada"
        assert condition(status, "Accepted")["status"] == "True"
        assert condition(status, "Succeeded")["status"] == "True"
        assert condition(status, "Finished")["status"] == "True"
        assert condition(status, "Stalled") == {}
        assert status["observedGeneration"] == 1
        assert {each["observedGeneration"] for each in status["conditions"]} == {1}
        assert status["runId"] == str(stage.cli.describe("short")["run_id"])
        assert stage.writes("short") == 1
