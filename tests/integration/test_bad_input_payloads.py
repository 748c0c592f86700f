"""Payloads that are too large or that a database cannot hold: an error that says what to do, no other run harmed."""

import asyncio
from typing import Any

import pytest

from perdure import Client, Limits, Worker, WorkflowFailedError, activity, workflow
from perdure.errors import ActivityError, PayloadError
from perdure.model.payload import LIMIT
from perdure.model.runs import NewRun
from perdure.workflow import Workflow
from tests.support.world import World, described, eventually, run_async, types, until_held

SMALL = 10_000
LIMITED = Limits(payload=SMALL, drain=2.0)

word = workflow.signal("word", str)
performed: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_performed() -> None:
    performed.clear()


@activity.define
async def repeat(length: int) -> str:
    performed.append("repeat")
    return "x" * length


@activity.define
def repeat_in_thread(length: int) -> str:
    performed.append("thread")
    return "x" * length


@activity.define
async def measure(text: str) -> int:
    return len(text)


@workflow.define
async def echo(text: str) -> str:
    return text


@workflow.define
async def hears() -> str:
    return await word.receive()


@workflow.define
async def returns(length: int) -> str:
    return "x" * length


@workflow.define
async def asks(length: int, threaded: bool) -> str:
    try:
        return await (repeat_in_thread if threaded else repeat)(length)
    except ActivityError as error:
        return f"{error.attempts}: {error}"


@workflow.define
async def tells(length: int) -> int:
    return await measure("x" * length)


@workflow.define
async def imagines(length: int) -> int:
    return len(workflow.side_effect(lambda: "x" * length))


@workflow.define
async def gathers(count: int, length: int) -> int:
    return sum(map(len, await asyncio.gather(*(repeat(length) for _ in range(count)))))


@workflow.define
async def scatters(count: int, length: int) -> int:
    return sum(await asyncio.gather(*(measure("x" * length) for _ in range(count))))


WORKFLOWS: list[Workflow[..., Any]] = [echo, hears, returns, asks, tells, imagines, gathers, scatters]
ACTIVITIES: list[activity.Activity[..., Any]] = [repeat, repeat_in_thread, measure]


@run_async
async def test_an_input_over_the_limit_is_refused_at_the_caller(world: World) -> None:
    client = await world.client()
    advice = r"the input of echo has 2,097,1\d\d bytes, and a payload may have 2,097,152.*pass a reference"
    with pytest.raises(PayloadError, match=advice):
        await client.start(echo, "x" * (LIMIT - 3), id="big")
    with pytest.raises(PayloadError, match="payload_limit"):
        await client.start_new(described(client, "echo", "big", b'{"text":"%s"}' % (b"x" * LIMIT)))
    assert await client.list() == []
    async with Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES):
        assert len(await (await client.start(echo, "x" * (LIMIT - 4))).result()) == LIMIT - 4, "the quotes and brackets"
    await world.close()


@run_async
async def test_a_client_has_a_limit_of_its_own(world: World) -> None:
    opened = await world.client()
    async with Client.over(opened.store, payload_limit=100) as client:
        with pytest.raises(PayloadError, match="a payload may have 100"):
            await client.start(echo, "x" * 100)
    async with Client.over(opened.store, payload_limit=2 * LIMIT) as client:
        large = Limits(payload=2 * LIMIT)
        async with Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES, limits=large):
            assert len(await (await client.start(echo, "x" * LIMIT)).result()) == LIMIT
    await world.close()


@run_async
async def test_a_signal_over_the_limit_is_refused_and_the_run_waits_on(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=WORKFLOWS):
        handle = await client.start(hears)
        with pytest.raises(PayloadError, match="signal word has "):
            await handle.signal(word, "x" * LIMIT)
        await handle.signal(word, "short")
        assert await handle.result() == "short"
    await world.close()


@pytest.mark.parametrize("threaded", [False, True], ids=["on the loop", "in a thread"])
def test_an_activity_whose_result_is_too_large_fails_without_another_attempt(world: World, threaded: bool) -> None:
    @run_async
    async def too_large() -> None:
        client = await world.client()
        async with Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES, limits=LIMITED):
            result = await (await client.start(asks, SMALL, threaded)).result()
        assert result.startswith("1: activity repeat")
        assert f"has {SMALL + 2:,} bytes, and a payload may have {SMALL:,}" in result
        assert len(performed) == 1
        await world.close()

    too_large()


@run_async
async def test_a_remote_activity_whose_result_is_too_large_fails_too(world: World) -> None:
    client, other = await world.client(), await world.client()

    @workflow.define
    async def asks_elsewhere() -> str:
        try:
            return await repeat.options(queue="far")(SMALL)
        except ActivityError as error:
            return str(error)

    async with (
        Worker(client, workflows=[asks_elsewhere]),
        Worker(other, activities=ACTIVITIES, queues=["far"], limits=LIMITED),
    ):
        assert "a payload may have 10,000" in await (await client.start(asks_elsewhere)).result()
    await world.close()


@run_async
async def test_a_workflow_result_over_the_limit_fails_the_run(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=WORKFLOWS, limits=LIMITED):
        handle = await client.start(returns, SMALL)
        with pytest.raises(WorkflowFailedError, match="PayloadError: the result of returns has 10,002 bytes"):
            await handle.result()
    await world.close()


@pytest.mark.parametrize("name", ["tells", "imagines"])
def test_what_a_turn_asks_to_record_over_the_limit_holds_the_run_until_the_limit_is_raised(
    world: World, name: str
) -> None:
    @run_async
    async def held() -> None:
        client = await world.client()
        async with Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES, limits=LIMITED):
            handle = await client.start(name, SMALL)
            summary = await until_held(handle)
            assert summary.hold_reason == "PayloadTooLarge"
            assert f"and a payload may have {SMALL:,}" in summary.hold_message
            assert await (await client.start(echo, "others go on")).result() == "others go on"
        async with Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES):
            await client.store.resume("default", handle.id)
            assert await handle.result() == SMALL
        await world.close()

    held()


@run_async
async def test_results_that_are_too_large_together_for_one_turn_come_in_several(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES):
        handle = await client.start(gathers, 40, LIMIT - 10)
        assert await handle.result() == 40 * (LIMIT - 10)
        history = await handle.history()
    assert types(history).count("ActivityCompleted") == 40
    assert len({event.turn for event in history if event.type == "ActivityCompleted"}) > 1
    await world.close()


@run_async
async def test_a_turn_that_records_too_much_is_held_and_the_others_go_on(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES) as worker:
        await eventually(lambda: asyncio.sleep(0, worker.ready))
        handle = await client.start(scatters, 40, LIMIT - 10)
        summary = await until_held(handle)
        assert summary.hold_reason == "TurnRefused"
        assert "one turn may record 67,108,864: start fewer activities at a time" in summary.hold_message
        assert await (await client.start(scatters, 20, LIMIT - 10)).result() == 20 * (LIMIT - 10)
    await world.close()


@run_async
async def test_characters_that_a_database_cannot_hold_travel_in_payloads_and_are_refused_elsewhere(
    world: World,
) -> None:
    client = await world.client()
    async with Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES):
        assert await (await client.start(echo, "a\0b")).result() == "a\0b"
        with pytest.raises(PayloadError, match="cannot be recorded"):
            await client.start(echo, "half \ud83d")
        for bad in ("a\0b", "half \ud83d"):
            with pytest.raises(PayloadError):
                await client.start(echo, "", id=bad)
            with pytest.raises(PayloadError, match="remove it"):
                await client.start_new(
                    NewRun(id="i", namespace="default", workflow=bad, queue="default", input=b"[]", seed="s")
                )
            with pytest.raises(PayloadError, match="remove it"):
                await client.start(echo, "", queue=bad)
            handle = await client.start(hears)
            with pytest.raises(PayloadError, match="remove it"):
                await handle.terminate(bad)
            await handle.terminate("enough")
    await world.close()


@run_async
async def test_a_fault_whose_message_cannot_be_stored_still_holds_the_run(world: World) -> None:
    client = await world.client()

    @workflow.define
    async def calls_back() -> None:
        def fail() -> None:
            message = "nul\0 and half \ud83d"
            raise RuntimeError(message)

        asyncio.get_running_loop().call_soon(fail)
        await asyncio.sleep(60)

    async with Worker(client, workflows=[calls_back]):
        summary = await until_held(await client.start(calls_back))
    assert "nul\\0 and half \\ud83d" in summary.hold_message
    await world.close()
