"""Objects that nobody writes but somebody may: refused with a reason, and no harm to others."""

import asyncio
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from perdure_operator.cluster import Cluster
from tests.operator.stage import Stage, condition
from tests.support.cli import eventually
from tests.support.kubernetes import ControlPlane


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"inner": value}
    return value


@pytest.fixture
def deep_json() -> Iterator[None]:
    """Let the test itself write and read deep objects."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(12_000)
    yield
    sys.setrecursionlimit(before)


@pytest.mark.usefixtures("deep_json")
@pytest.mark.parametrize("depth", [101, 1_000, 9_900])
def test_a_deep_input_is_refused_and_the_operator_goes_on_and_can_be_started_again(stage: Stage, depth: int) -> None:
    stage.apply("deep", "greet", {"name": nested(depth)})
    status = stage.until_phase("deep", "Stalled")
    assert condition(status, "Accepted")["reason"] == "InvalidSpec"
    assert "spec.input: an argument is nested more than 100 deep" in status["message"]
    stage.restart_operator()
    stage.apply("other", "greet", {"name": "Ada"})
    stage.until("other", lambda status: "runId" in status)


def test_many_large_inputs_are_not_in_the_memory_of_the_operator_at_once(stage: Stage) -> None:
    stage.operators[-1].kill()
    for number in range(500):
        stage.apply(f"large-{number}", "greet", {"name": "x" * 250 * 1024})
    stage.restart_operator()
    operator = stage.operators[-1]
    eventually(lambda: operator.metrics().has("perdure_operator_comparison_timestamp_seconds"), "a comparison")
    status = Path(f"/proc/{operator.process.pid}/status").read_text()
    [peak] = re.findall(r"VmHWM:\s*(\d+) kB", status)
    assert int(peak) < 250 * 1024


def test_the_name_of_a_config_map_leads_to_no_other_namespace(
    control_plane: ControlPlane, kube_namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    control_plane.kubectl("-n", "default", "create", "configmap", kube_namespace, "--from-literal=key=private")
    monkeypatch.setenv("KUBECONFIG", str(control_plane.kubeconfig))

    async def read(namespace: str, name: str) -> object:
        async with Cluster(1) as cluster:
            return await cluster.config_map(namespace, name)

    assert asyncio.run(read("default", kube_namespace)) == {"key": "private"}
    assert asyncio.run(read(kube_namespace, f"../../default/configmaps/{kube_namespace}")) is None
