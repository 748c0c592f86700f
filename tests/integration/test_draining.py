"""A worker that is told to stop ends as soon as nothing is under way, and not when its drain time is over."""

import asyncio

from perdure import Limits, Worker, activity, workflow
from tests.support.world import LIMIT, World, eventually, run_async


class Door:
    """What the activity waits for; made anew on the event loop of each test."""

    reached: asyncio.Event
    open: asyncio.Event


@activity.define
async def wait_at_the_door() -> str:
    Door.reached.set()
    await Door.open.wait()
    return "done"


@workflow.define
async def asks_elsewhere() -> str:
    return await wait_at_the_door.options(queue="other")()


@run_async
async def test_a_drain_ends_with_the_last_answer_to_another_worker(world: World) -> None:
    Door.reached, Door.open = asyncio.Event(), asyncio.Event()
    owner, other = await world.client(), await world.client()
    async with Worker(owner, workflows=[asks_elsewhere]):
        handle = await owner.start(asks_elsewhere)
        limits = Limits(drain=10 * LIMIT)
        async with Worker(other, activities=[wait_at_the_door], queues=["other"], limits=limits) as helper:
            await Door.reached.wait()
            helper.stop()

            async def draining() -> bool:
                return helper._tenure is not None and helper._tenure.draining

            await eventually(draining)
            Door.open.set()
        assert await handle.result() == "done"
    await world.close()
