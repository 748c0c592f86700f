"""The query by which KEDA scales a pool, as the chart renders it, on a real database: it counts the work cheaply."""

import asyncio
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml

from perdure import Client, Worker
from perdure.store.postgres.migrate import migrate
from perdure.workflow import Workflow
from tests.chart.golden import objects
from tests.operator import workflows
from tests.support.helm import CHART, Helm

NAMESPACE = "prod"


@pytest.fixture
def query(helm: Helm, tmp_path: Path) -> str:
    pool = {"modules": ["x"], "queues": ["default", "it's"], "autoscaling": {"kind": "keda"}}
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"postgresql": {"mode": "demo"}, "workers": {"pool": pool}}))
    rendered = helm.out("template", "x", str(CHART), "--namespace", NAMESPACE, "--values", str(values))
    (scaled,) = (each for each in objects(rendered) if each["kind"] == "ScaledObject")
    found: str = scaled["spec"]["triggers"][0]["metadata"]["query"]
    return found


def answer(url: str, query: str) -> Any:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def test_it_counts_what_waits_for_workers_and_what_they_work_on(
    database: str, query: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PERDURE_SAMPLES", str(tmp_path))
    migrate(database)
    assert answer(database, query) == 0
    asyncio.run(waves(database, query, tmp_path))


async def waves(database: str, query: str, gates: Path) -> None:
    async def until(number: int) -> None:
        deadline = asyncio.get_running_loop().time() + 60
        while (seen := await asyncio.to_thread(answer, database, query)) != number:
            assert asyncio.get_running_loop().time() < deadline, f"waited for {number}, it is {seen}"
            await asyncio.sleep(0.05)

    everything: tuple[Workflow[..., Any], ...] = (workflows.gated, workflows.approval)
    async with (
        Client.connect(database, namespace="other") as stranger,
        Client.connect(database, namespace=NAMESPACE) as client,
    ):
        await stranger.start("gated", "of another namespace")
        await client.start("gated", "of another queue", queue="elsewhere")
        busy = [await client.start(workflows.gated, "gate", queue="it's") for _ in range(3)]
        idle = await client.start(workflows.approval)
        await until(4)  # ready
        async with Worker(
            client, workflows=everything, activities=[workflows.pass_gate, workflows.note], queues=["default", "it's"]
        ):
            await until(3)  # worked on; one sleeps until somebody approves, and needs no pod for that
            (gates / "gate").touch()
            for handle in busy:
                await handle.result()
            await until(0)
        await idle.signal("approve", "yes")
        await until(1)  # awake again


def test_it_reads_no_table_from_end_to_end_however_many_runs_have_ended(database: str, query: str) -> None:
    migrate(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(
            "INSERT INTO perdure.run (id, namespace, instance, workflow, queue, state, closed_at)"
            " SELECT n, 'prod', n::text, 'w', 'default', 10, now() FROM generate_series(1, 20000) n"
        )
        connection.execute("ANALYZE perdure.run")
        plan = "\n".join(row[0] for row in connection.execute(f"EXPLAIN {query}".encode()))
    assert "run_ready" in plan
    assert "Seq Scan on run" not in plan
