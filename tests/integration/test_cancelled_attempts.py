"""Attempts that are cut off: they may clean up before anybody begins them again, and none keeps its worker."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from perdure import Client, Limits, Worker, activity, workflow
from perdure.runtime import attempts
from tests.support.world import World, eventually, run_async

STOPPING = Limits(drain=0.0)
OVERLAP = 1.0
"""Seconds that a cleanup leaves for another attempt to begin in the middle of it."""


class Scene:
    """What happened, in order; made anew for each test."""

    events: list[str]
    began: list[asyncio.Event]
    attempts: int


@pytest.fixture(autouse=True)
def _new_scene() -> None:
    Scene.events, Scene.began, Scene.attempts = [], [asyncio.Event(), asyncio.Event()], 0


@activity.define
async def tidy() -> str:
    Scene.attempts += 1
    number = Scene.attempts
    Scene.events.append(f"begins {number}")
    Scene.began[number - 1].set()
    if number == 2:
        return "done"
    try:
        await asyncio.Event().wait()
    finally:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(Scene.began[1].wait(), OVERLAP)
        Scene.events.append("has cleaned up")
    return "never"


@activity.define
async def deaf() -> str:
    """Ignore one cancellation."""
    Scene.attempts += 1
    if Scene.attempts == 2:
        return "done"
    with contextlib.suppress(asyncio.CancelledError):
        Scene.began[0].set()
        await asyncio.Event().wait()
    Scene.events.append("ignores it")
    try:
        await asyncio.Event().wait()
    finally:
        Scene.events.append("ends")
    return "never"


@workflow.define
async def tidies(queue: str) -> str:
    return await tidy.options(queue=queue)()


@workflow.define
async def meets_the_deaf(queue: str) -> str:
    return await deaf.options(queue=queue)()


@contextlib.asynccontextmanager
async def owner(world: World, queue: str) -> AsyncIterator[Client]:
    """Lend a client; where the attempts are made for runs of another worker, that one serves meanwhile."""
    client = await world.client()
    if queue == "default":
        yield client
    else:
        async with Worker(client, workflows=WORKFLOWS, name="owner"):
            yield client
    await world.close()


async def serving(world: World, queue: str, name: str, limits: Limits | None = None) -> Worker:
    """Return the worker that makes the attempts, for runs of its own if it can."""
    workflows = WORKFLOWS if queue == "default" else ()
    client = await world.client()
    return Worker(client, workflows=workflows, activities=[tidy, deaf], queues=[queue], name=name, limits=limits)


WORKFLOWS = (tidies, meets_the_deaf)
QUEUES = pytest.mark.parametrize("queue", ["default", "other"], ids=["of its own run", "from the task table"])


@QUEUES
@run_async
async def test_an_attempt_that_is_cut_at_a_stop_cleans_up_before_another_begins(world: World, queue: str) -> None:
    async with owner(world, queue) as client, contextlib.AsyncExitStack() as later:
        async with await serving(world, queue, "first", STOPPING):
            handle = await client.start(tidies, queue)
            await Scene.began[0].wait()
            await later.enter_async_context(await serving(world, queue, "second"))
        assert await handle.result() == "done"
        assert Scene.events == ["begins 1", "has cleaned up", "begins 2"]


@QUEUES
@run_async
async def test_an_attempt_whose_lease_is_lost_cleans_up_before_its_worker_begins_it_again(
    world: World, queue: str
) -> None:
    async with owner(world, queue) as client, await serving(world, queue, "only"):
        handle = await client.start(tidies, queue)
        await Scene.began[0].wait()
        await client.store.expire("default", "only")
        assert await handle.result() == "done"
        assert Scene.events == ["begins 1", "has cleaned up", "begins 2"]


@QUEUES
@pytest.mark.parametrize("ending", ["stop", "lost lease"])
@run_async
async def test_an_activity_that_ignores_its_cancellation_is_named_and_keeps_no_worker(
    world: World, queue: str, ending: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "CLEANUP", 0.1)
    async with owner(world, queue) as client:
        async with await serving(world, queue, "first", STOPPING):
            handle = await client.start(meets_the_deaf, queue, id="order")
            await Scene.began[0].wait()
            if ending == "lost lease":
                await client.store.expire("default", "first")
                assert await handle.result() == "done"
        assert "left to themselves: activity order/1 deaf" in caplog.text
        if ending == "stop":
            async with await serving(world, queue, "second"):
                assert await handle.result() == "done"

        async def ended() -> bool:
            return Scene.events == ["ignores it", "ends"]

        await eventually(ended)  # it is cancelled once more, in case the first one was lost on its way
