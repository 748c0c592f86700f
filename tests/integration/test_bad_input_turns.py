"""Turns that do not come to an end, or to nothing that can be recorded: they are held, and nothing else is harmed."""

import asyncio
import logging
import time

import pytest

from perdure import Limits, RetryPolicy, Worker, activity, workflow
from perdure.model.workers import Lease, Renewal
from tests.support.world import World, eventually, run_async, types, until_held

SHORT = Limits(lease=4.0, turn=0.3, drain=2.0)


@activity.define
async def echo(text: str) -> str:
    await asyncio.sleep(0.1)
    return text


@workflow.define
async def polls(done: bool) -> str:
    before = await echo("before")
    while not done:
        pass
    return before


@workflow.define
async def steps() -> list[str]:
    return [await echo(str(number)) for number in range(10)]


@run_async
async def test_an_endless_turn_is_held_with_its_stack_and_the_others_go_on(world: World) -> None:
    client, looker = await world.client(), await world.client()
    async with Worker(client, workflows=[polls, steps], activities=[echo], limits=SHORT, build_id="one") as worker:
        others = [await client.start(steps, id=f"other-{number}") for number in range(5)]
        bad = await client.start(polls, False, id="bad")
        summary = await until_held(bad)
        assert summary.hold_reason == "TurnTimedOut"
        assert "a turn of bad (workflow polls, run " in summary.hold_message
        assert "while not done" in summary.hold_message
        assert [await other.result() for other in others] == [[str(number) for number in range(10)]] * 5
        assert await (await client.start(steps)).result()
        registered = await looker.store.workers("default")
        assert [(number, name) for number, name, _ in registered] == [(1, worker.name)], "it never lost its lease"

    async def mended(done: bool) -> str:
        return await echo("before")

    fixed = workflow.define(name="polls")(mended)
    async with Worker(looker, workflows=[fixed], activities=[echo], build_id="two"):
        assert await bad.result() == "before"
    await world.close()


@run_async
async def test_an_endless_first_turn_of_a_run_that_starts_beside_its_worker_is_held(world: World) -> None:
    client = await world.client()

    @workflow.define
    async def spins() -> None:
        while True:
            pass

    async with Worker(client, workflows=[spins, steps], activities=[echo], limits=SHORT) as worker:
        await eventually(lambda: asyncio.sleep(0, worker.ready))
        bad = await client.start(spins)
        assert (await until_held(bad)).hold_reason == "TurnTimedOut"
        assert await (await client.start(steps)).result()
    await world.close()


@run_async
async def test_an_activity_that_blocks_the_loop_is_named_and_the_lease_is_kept(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "perdure.worker")
    client = await world.client()
    renew, renewals = client.store.renew, list[Lease]()

    def noted(lease: Lease) -> Renewal:
        renewals.append(lease)
        return renew(lease)

    def reports() -> list[str]:
        return [record.getMessage() for record in caplog.records if "has not moved" in record.getMessage()]

    @activity.define
    async def hog() -> str:
        before = len(renewals)
        while len(renewals) == before or not reports():
            pass
        return "done"

    @workflow.define
    async def hogs() -> str:
        return await hog()

    monkeypatch.setattr(client.store, "renew", noted)
    async with Worker(client, workflows=[hogs], activities=[hog], limits=Limits(lease=10.0, turn=0.3, drain=2.0)):
        assert await (await client.start(hogs, id="h")).result() == "done"
    (report,) = reports()
    assert "activity h/1 hog is in the way" in report
    assert "in hog" in report
    assert not [record for record in caplog.records if "lost its lease" in record.getMessage()]
    await world.close()


@run_async
async def test_a_loop_that_is_blocked_for_a_whole_lease_gives_its_runs_to_others(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "perdure.worker")
    client = await world.client()
    brief = Limits(lease=1.5, turn=0.3, drain=2.0)
    tries: list[float] = []

    @activity.define
    async def once() -> str:
        tries.append(time.monotonic())
        end = time.monotonic() + (4 if len(tries) == 1 else 0)
        while time.monotonic() < end:
            pass
        return "done"

    @workflow.define
    async def tries_once() -> str:
        return await once()

    async with Worker(client, workflows=[tries_once], activities=[once], limits=brief):
        assert await (await client.start(tries_once)).result() == "done"
    assert len(tries) == 2
    assert [record for record in caplog.records if "giving the lease up. It is here:" in record.getMessage()]
    await world.close()


@activity.define(queue="elsewhere", retry=RetryPolicy(non_retryable=("no text: \ud800",)))
async def far_away() -> None:
    """What its workers would have to know of it cannot be written down."""


@run_async
async def test_a_turn_that_cannot_be_written_down_holds_its_run_and_leaves_no_gap(world: World) -> None:
    client = await world.client()
    go = workflow.signal("go", int)

    @workflow.define(name="asks")
    async def asks_far_away(first: bool) -> int:
        number = 1 if first else await go.receive()
        await far_away()
        return number

    @workflow.define(name="asks")
    async def mended(first: bool) -> int:
        return 1 if first else await go.receive()

    handles = []
    async with Worker(client, workflows=[asks_far_away], build_id="one") as worker:
        await eventually(lambda: asyncio.sleep(0, worker.ready))
        for first in (True, False):
            handle = await client.start(asks_far_away, first)
            await handle.signal(go, 1)
            summary = await until_held(handle)
            assert summary.hold_reason == "EngineFault"
            assert "UnicodeEncodeError" in summary.hold_message
            assert types(await handle.history()) == ["WorkflowExecutionStarted"]
            handles.append(handle)
        await eventually(lambda: asyncio.sleep(0, worker.owned == 0))
    async with Worker(client, workflows=[mended], build_id="two"):
        assert [await handle.result() for handle in handles] == [1, 1]
    await world.close()
