"""Activities that another worker carries out are stopped when nobody waits for them any more."""

import asyncio

import pytest

from perdure import Worker, activity, workflow
from perdure.errors import WorkflowTerminatedError
from tests.support.world import World, eventually, run_async

seen: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    seen.clear()


@activity.define
async def lasts() -> None:
    seen.append("began")
    try:
        await asyncio.Event().wait()
    finally:
        seen.append("stopped")


@workflow.define
async def gives_up() -> str:
    try:
        async with asyncio.timeout(0.2):
            await lasts.options(queue="far")()
    except TimeoutError:
        return "gave up"
    return ""


@workflow.define
async def waits() -> None:
    await lasts.options(queue="far")()


async def stopped() -> bool:
    return seen == ["began", "stopped"]


@run_async
async def test_a_remote_attempt_ends_when_its_workflow_stops_waiting(world: World) -> None:
    near, far = await world.client(), await world.client()
    async with Worker(far, activities=[lasts], queues=["far"]):
        async with Worker(near, workflows=[gives_up]):
            handle = await near.start(gives_up)
            assert await handle.result() == "gave up"
        if seen:
            await eventually(stopped)
    await world.close()


@run_async
async def test_a_remote_attempt_ends_when_its_run_is_terminated(world: World) -> None:
    near, far = await world.client(), await world.client()
    async with Worker(far, activities=[lasts], queues=["far"]), Worker(near, workflows=[waits]):
        handle = await near.start(waits)

        async def began() -> bool:
            return seen == ["began"]

        await eventually(began)
        await handle.terminate()
        with pytest.raises(WorkflowTerminatedError):
            await handle.result()
        await eventually(stopped)
    await world.close()


@workflow.define
async def waits_here() -> None:
    await lasts()


@run_async
async def test_an_attempt_ends_when_its_run_is_terminated_right_after_a_message(world: World) -> None:
    near, far = await world.client(), await world.client()
    async with Worker(near, workflows=[waits_here], activities=[lasts]):
        handle = await near.start(waits_here, id="one")

        async def began() -> bool:
            return seen == ["began"]

        await eventually(began)
        await far.handle("one").signal("news")
        await far.handle("one").terminate()
        with pytest.raises(WorkflowTerminatedError):
            await handle.result()
        await eventually(stopped)
    await world.close()
