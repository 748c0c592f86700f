"""Workers of one queue that know different activities, as when a new one is being rolled out."""

from __future__ import annotations

import asyncio

import pytest

from perdure import Limits, Worker, activity, workflow
from tests.support.world import World, eventually, run_async


@activity.define
async def local(number: int) -> int:
    return number


@activity.define
async def elsewhere(number: int) -> int:
    return 2 * number


@workflow.define
async def doubles(count: int) -> int:
    return sum(await asyncio.gather(*(elsewhere(number) for number in range(count))))


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for record in caplog.records if "is not known here" in (message := record.getMessage())]


@run_async
async def test_a_worker_takes_what_it_does_not_know_once_and_leaves_the_rest_to_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = await world.client(), await world.client()
    small = Limits(activities=10)
    async with (
        Worker(here, workflows=[doubles], activities=[local], limits=small),
        Worker(there, workflows=[], activities=[elsewhere], limits=small),
    ):
        assert await (await here.start(doubles, 300)).result() == 300 * 299
    assert len(complaints(caplog)) <= 1
    await world.close()


@run_async
async def test_what_nobody_knows_is_said_and_whoever_comes_and_knows_it_goes_on(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = await world.client(), await world.client()
    async with Worker(here, workflows=[doubles], activities=[local]):
        handle = await here.start(doubles, 1)

        async def said() -> bool:
            return bool(complaints(caplog))

        await eventually(said)
        async with Worker(there, workflows=[], activities=[elsewhere]):
            assert await handle.result() == 0
    await world.close()
