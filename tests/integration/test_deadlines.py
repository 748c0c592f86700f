"""Runs whose time is over although no worker has them: one that lives ends them, and who waits is told."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from perdure import Worker, workflow
from perdure.errors import WorkflowTimedOutError
from perdure.runtime import tenure
from tests.support.world import World, run_async


@workflow.define
async def short() -> str:
    return "done"


def test_runs_that_nobody_takes_end_in_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenure, "RECOVER_POLL", 0.05)

    @run_async
    async def live_through() -> None:
        try:
            client, elsewhere = await world.client(), await world.client("elsewhere")
            limit = timedelta(seconds=0.5)
            async with Worker(client, workflows=[short]):
                late = [
                    await client.start("nobody_knows", timeout=limit),
                    await client.start(short, queue="void", timeout=limit),
                    await elsewhere.start(short, timeout=limit),
                ]
                for handle in late:
                    with pytest.raises(WorkflowTimedOutError):
                        await handle.result()
                assert [(await handle.describe()).phase for handle in late] == ["TimedOut"] * 3
        finally:
            await world.close()

    live_through()


def test_as_many_runs_as_there_are_end_in_one_round(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenure, "RECOVER_POLL", 3600.0)

    @run_async
    async def live_through() -> None:
        try:
            client = await world.client()
            limit = timedelta(microseconds=1)
            starts = (client.start(short, queue="void", timeout=limit) for _ in range(1_001))
            handles = await asyncio.gather(*starts)
            async with Worker(client, workflows=[short]):
                for handle in handles:
                    with pytest.raises(WorkflowTimedOutError):
                        await handle.result()
        finally:
            await world.close()

    live_through()
