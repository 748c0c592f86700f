"""Activities that not every worker of a queue knows, as when one is rolled out, and those with odd values."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from perdure import ActivityError, Limits, Worker, activity, workflow
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


@dataclass
class Order:
    amount: int

    def __post_init__(self) -> None:
        assert self.amount > 0, "an order has an amount"


@activity.define
def pack(order: Order) -> None:
    raise AssertionError("not called")


@workflow.define
async def packs() -> str:
    order = Order(1)
    order.amount = 0
    try:
        await pack(order)
    except ActivityError as error:
        return str(error)
    return "packed"


@run_async
async def test_an_activity_in_a_thread_ends_when_the_class_of_its_input_refuses_it(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[packs], activities=[pack]):
        end = await (await client.start(packs)).result()
    assert "the input does not fit pack(order): AssertionError: an order has an amount" in end
    await world.close()
