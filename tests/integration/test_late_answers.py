"""What has become of a run while its worker waits for an answer: the worker has the run once, or not at all."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import pytest

from perdure import Worker, activity, workflow
from perdure.model.runs import Commit, Committed, Hold, Park, RunState
from perdure.model.workers import Lease
from perdure.workflow import Workflow
from tests.support.world import World, eventually, run_async, types


class Door:
    """What the activity waits for; made anew on the event loop of each test."""

    reached: asyncio.Event
    open: asyncio.Event
    came: int

    @classmethod
    def close(cls) -> None:
        cls.reached, cls.open, cls.came = asyncio.Event(), asyncio.Event(), 0


@activity.define
async def wait_at_the_door() -> str:
    Door.came += 1
    Door.reached.set()
    await Door.open.wait()
    return "done"


go = workflow.signal("go", int)


@workflow.define
async def waits_for_a_word() -> str:
    await go.receive()
    return await wait_at_the_door()


@workflow.define
async def waits_at_the_door() -> str:
    return await wait_at_the_door()


@workflow.define
async def looks_at_the_clock() -> None:
    await go.receive()
    time.time()


@run_async
async def test_a_run_that_is_taken_anew_before_its_park_is_answered_is_in_one_hand(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    Door.close()
    client, other = await world.client(), await world.client()
    flush, told = client.store.flush, asyncio.Event()

    async def late(lease: Lease, commits: Sequence[Commit]) -> list[Committed]:
        answers = await flush(lease, commits)
        if not told.is_set() and any(isinstance(commit.ending, Park) for commit in commits):
            await other.handle("waits").signal(go, 1)

            async def taken_anew() -> bool:
                return (await other.handle("waits").describe()).worker is not None

            await eventually(taken_anew)
            told.set()
        return answers

    monkeypatch.setattr(client.store, "flush", late)
    async with Worker(client, workflows=[waits_for_a_word], activities=[wait_at_the_door]) as worker:
        handle = await other.start(waits_for_a_word, id="waits")
        await told.wait()
        await Door.reached.wait()
        assert worker.owned == 1
        worker.stop()
        Door.open.set()
    async with Worker(other, workflows=[waits_for_a_word], activities=[wait_at_the_door]):
        assert await handle.result() == "done"
    assert Door.came == 1, "the first worker waited for the attempt as it stopped"
    await world.close()


@run_async
async def test_a_run_that_is_terminated_while_it_is_being_held_harms_no_other(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    Door.close()
    client, other = await world.client(), await world.client()
    flush = client.store.flush

    async def late(lease: Lease, commits: Sequence[Commit]) -> list[Committed]:
        if any(isinstance(commit.ending, Hold) for commit in commits):
            await other.handle("bad").terminate("enough")

            async def known_here() -> bool:
                return worker.owned == 1

            await eventually(known_here)
        return await flush(lease, commits)

    monkeypatch.setattr(client.store, "flush", late)
    workflows: list[Workflow[..., Any]] = [looks_at_the_clock, waits_at_the_door]
    async with Worker(client, workflows=workflows, activities=[wait_at_the_door]) as worker:
        innocent = await other.start(waits_at_the_door)
        bad = await other.start(looks_at_the_clock, id="bad")
        await Door.reached.wait()
        await bad.signal(go, 1)

        async def terminated() -> bool:
            return (await bad.describe()).state is RunState.TERMINATED

        await eventually(terminated)
        Door.open.set()
        assert await innocent.result() == "done"
        assert worker.tally().leases_lost == 0
        assert worker.tally().held == {}, "it was closed, not held"
    assert Door.came == 1
    assert types(await bad.history())[-1] == "WorkflowExecutionTerminated"
    await world.close()
