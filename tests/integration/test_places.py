"""How many activities a worker makes at a time, of those that are left to any worker."""

from __future__ import annotations

import asyncio
import threading

from perdure import Limits, Worker, activity, workflow
from tests.support.world import World, run_async


class Door:
    """What the activity in a thread waits for; `world` of each test opens it."""

    reached = threading.Event()
    open = threading.Event()


@activity.define
def wait_in_a_thread() -> None:
    Door.reached.set()
    assert Door.open.wait(60)


@activity.define
async def double(number: int) -> int:
    return 2 * number


@workflow.define
async def blocks() -> None:
    await wait_in_a_thread()


@workflow.define
async def doubles(count: int) -> int:
    return sum(await asyncio.gather(*(double(number) for number in range(count))))


@run_async
async def test_threads_that_are_all_taken_hold_up_nothing_that_needs_none(world: World) -> None:
    """More activities than the worker keeps to itself are left to any worker, which is the same one here."""
    Door.reached.clear()
    Door.open.clear()
    client = await world.client()
    limits = Limits(activities=2, threads=1)
    async with Worker(client, workflows=[blocks, doubles], activities=[wait_in_a_thread, double], limits=limits):
        blocked = await client.start(blocks)
        assert await asyncio.to_thread(Door.reached.wait, 60)
        try:
            assert await (await client.start(doubles, 50)).result() == 50 * 49
        finally:
            Door.open.set()
        await blocked.result()
    await world.close()
