"""Heartbeats: silence ends an attempt, and the next one goes on from what was said last."""

import asyncio
from typing import Any

from perdure import ActivityError, Limits, RetryPolicy, Worker, activity, workflow
from tests.support.world import World, eventually, run_async

QUICKLY = RetryPolicy(initial_interval=0.01)

stood_at: list[int] = []


@activity.define(heartbeat_timeout=0.2, retry=QUICKLY)
async def silent() -> Any:
    found = activity.info().heartbeat_details
    if found is not None:
        return {"attempt": activity.info().attempt, "details": found}
    activity.heartbeat({"line": 7})
    await asyncio.sleep(30)
    return None


@workflow.define
async def listening() -> Any:
    return await silent()


@run_async
async def test_silence_ends_an_attempt_and_the_next_one_sees_the_last_details(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[listening], activities=[silent]):
        assert await (await client.start(listening)).result() == {"attempt": 2, "details": {"line": 7}}
    await world.close()


@activity.define
async def reading(lines: int) -> list[int]:
    """Read on from where the attempt before stood; the first one never gets further than the third line."""
    begun = activity.info().heartbeat_details or 0
    for line in range(begun, lines):
        activity.heartbeat(line)
        if line == 3 and begun == 0:
            stood_at.append(line)
            await asyncio.sleep(3600)
    return [begun, lines]


@workflow.define
async def book() -> list[int]:
    return await reading(10)


@run_async
async def test_an_attempt_on_another_worker_goes_on_where_the_one_before_was_cut_off(world: World) -> None:
    stood_at.clear()
    client = await world.client()

    async def reads() -> bool:
        return bool(stood_at)

    async with Worker(client, workflows=[book], activities=[reading], limits=Limits(drain=0.0)):
        handle = await client.start(book)
        await eventually(reads)
    async with Worker(client, workflows=[book], activities=[reading]):
        assert await handle.result() == [3, 10]
    await world.close()


@activity.define(retry=RetryPolicy(max_attempts=1))
async def secretive() -> None:
    activity.heartbeat(object())


@workflow.define
async def curious() -> str:
    try:
        await secretive()
    except ActivityError as error:
        return str(error.__cause__)
    return "told"


@run_async
async def test_details_that_cannot_be_recorded_fail_the_attempt_that_gives_them(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[curious], activities=[secretive]):
        said = await (await client.start(curious)).result()
        assert "what a heartbeat of activity secretive says cannot be recorded" in said
    await world.close()
