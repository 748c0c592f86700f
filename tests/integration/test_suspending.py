"""A run that is suspended and resumed while an activity of it goes on: its worker still has it, and goes on with it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure import RetryPolicy, Worker, activity, workflow
from perdure.client import WorkflowHandle
from tests.support.world import World, eventually, run_async, types


class Door:
    """What activities wait for; made anew on the event loop of each test."""

    reached: asyncio.Event
    open: asyncio.Event
    window: asyncio.Event
    tries: int
    done: asyncio.Event


@pytest.fixture(autouse=True)
def _closed_door() -> None:
    Door.reached, Door.open, Door.window, Door.done = (asyncio.Event() for _ in range(4))
    Door.tries = 0


@activity.define
async def wait_at_the_door() -> None:
    Door.reached.set()
    await Door.open.wait()


@activity.define(retry=RetryPolicy(initial_interval=0.01))
async def fail_at_the_window() -> None:
    Door.tries += 1
    if Door.tries == 1:
        await Door.window.wait()
        raise ConnectionError
    Door.done.set()


@activity.define
async def be_quick() -> None:
    Door.done.set()


go = workflow.signal("go", int)


@workflow.define
async def begins_something_meanwhile() -> int:
    waiting = asyncio.create_task(wait_at_the_door())
    await go.receive()
    await be_quick()
    await waiting
    return await go.receive()


@workflow.define
async def tries_again_meanwhile() -> None:
    await asyncio.gather(wait_at_the_door(), fail_at_the_window())


async def suspended(worker: Worker, handle: WorkflowHandle[Any]) -> None:
    """Suspend the run and wait until its worker knows."""
    await handle.suspend()

    async def known() -> bool:
        assert worker._tenure is not None
        (execution,) = worker._tenure._executions.values()
        return execution.leaving

    await eventually(known)


async def until_recorded(handle: WorkflowHandle[Any], event: str) -> None:
    async def recorded() -> bool:
        return event in types(await handle.history())

    await eventually(recorded)


@run_async
async def test_what_was_asked_for_while_a_run_was_suspended_begins_when_it_is_resumed(world: World) -> None:
    client, other = await world.client(), await world.client()
    async with Worker(
        client, workflows=[begins_something_meanwhile], activities=[wait_at_the_door, be_quick]
    ) as worker:
        handle = await other.start(begins_something_meanwhile)
        await Door.reached.wait()
        await suspended(worker, handle)
        await handle.signal(go, 1)
        await until_recorded(handle, "SignalReceived")
        assert not Door.done.is_set()
        await handle.resume()
        await Door.done.wait()
        Door.open.set()
        await handle.signal(go, 2)
        assert await handle.result() == 2
    assert types(await handle.history()).count("ActivityScheduled") == 2
    await world.close()


@run_async
async def test_an_attempt_that_failed_while_its_run_was_suspended_is_followed_by_one_when_it_is_resumed(
    world: World,
) -> None:
    client, other = await world.client(), await world.client()
    both = [wait_at_the_door, fail_at_the_window]
    async with Worker(client, workflows=[tries_again_meanwhile], activities=both) as worker:
        handle = await other.start(tries_again_meanwhile)
        await Door.reached.wait()
        await suspended(worker, handle)
        Door.window.set()
        await until_recorded(handle, "ActivityAttemptFailed")
        await handle.resume()
        await Door.done.wait()
        Door.open.set()
        await handle.result()
    assert Door.tries == 2
    await world.close()


@run_async
async def test_a_worker_that_stops_lets_go_of_a_run_that_is_resumed_meanwhile(world: World) -> None:
    client, other = await world.client(), await world.client()
    everything = [wait_at_the_door, be_quick]
    async with Worker(client, workflows=[begins_something_meanwhile], activities=everything) as worker:
        handle = await other.start(begins_something_meanwhile)
        await Door.reached.wait()
        await suspended(worker, handle)
        worker.stop()
        await handle.resume()
        await handle.signal(go, 1)
        await until_recorded(handle, "SignalReceived")
        await handle.signal(go, 2)
        assert not Door.done.is_set()
        Door.open.set()
    assert not Door.done.is_set(), "the worker that stopped has begun nothing"
    async with Worker(client, workflows=[begins_something_meanwhile], activities=everything):
        assert await handle.result() == 2
    await world.close()
