"""Finding out that a run has closed, in the process of its worker and in another one."""

import asyncio

import pytest

from perdure import Worker, activity, watcher, workflow
from perdure.errors import WorkflowFailedError, WorkflowTerminatedError
from tests.support.world import QUICK, World, eventually, run_async


@activity.define
async def step(number: int) -> int:
    return number + 1


@workflow.define
async def once(number: int) -> int:
    return await step(number)


@workflow.define
async def patient() -> str:
    return await workflow.signal("go", str).receive()


@pytest.fixture
def _never_looking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a watcher look only when it is told to."""
    monkeypatch.setattr(watcher, "SHORTEST", 3600.0)


@pytest.mark.usefixtures("_never_looking")
@run_async
async def test_another_process_hears_that_a_run_has_closed(world: World) -> None:
    here, elsewhere = await world.client(), await world.client()
    async with Worker(elsewhere, workflows=[patient], activities=[step], limits=QUICK):
        handle = await here.start(patient, id="patient-1")
        result = asyncio.create_task(handle.result())

        async def heard() -> bool:
            # The first hints may come before this process listens: each one is a run that closes elsewhere.
            await (await elsewhere.start(patient)).signal("go", "other")
            return result.done()

        await handle.signal("go", "now")
        await eventually(heard)
        assert await result == "now"
    await world.close()


@run_async
async def test_a_result_in_the_process_of_the_worker_costs_no_statement(migrated: str) -> None:
    world = World(migrated)
    client = await world.client()
    async with Worker(client, workflows=[once], activities=[step], limits=QUICK) as worker:
        await eventually(lambda: asyncio.sleep(0, worker.ready))
        for number in range(20):
            assert await (await client.start(once, number)).result() == number + 1
        statements = client.store.statements  # type: ignore[attr-defined]  # the PostgreSQL store counts
        assert statements["ended"] == statements["ended_one"] == 0
    await world.close()


@run_async
async def test_a_run_that_is_closed_from_outside_is_found_though_its_worker_is_near(world: World) -> None:
    client, other = await world.client(), await world.client()
    async with Worker(client, workflows=[patient], activities=[step], limits=QUICK):
        handle = await client.start(patient, id="patient-1")
        result = asyncio.create_task(handle.result())
        await asyncio.sleep(0)
        await other.handle("patient-1").terminate("enough")
        with pytest.raises(WorkflowTerminatedError, match="enough"):
            await result
    await world.close()


@pytest.mark.parametrize("steps", [0, 1])
@run_async
async def test_a_run_that_fails_says_so_in_the_log_of_its_worker(
    world: World, caplog: pytest.LogCaptureFixture, steps: int
) -> None:
    @workflow.define
    async def failing(steps: int) -> None:
        for number in range(steps):
            await step(number)
        raise LookupError("no such tea")

    client = await world.client()
    async with Worker(client, workflows=[failing], activities=[step], limits=QUICK):
        handle = await client.start(failing, steps, id="failing-1")
        with pytest.raises(WorkflowFailedError):
            await handle.result()
    [said] = [record for record in caplog.records if "failed" in record.getMessage()]
    assert said.getMessage().startswith("failing-1 failed: LookupError: no such tea\n")
    assert 'raise LookupError("no such tea")' in said.getMessage()
    assert said.levelname == "WARNING"
    await world.close()
