"""Tasks that are to end, and do so even when a cancellation is lost on its way."""

from __future__ import annotations

import asyncio

import pytest

from perdure import ending
from tests.support.world import run_async


@run_async
async def test_a_loop_that_lost_a_cancellation_is_cancelled_again() -> None:
    lost = 0

    async def loop() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                if lost == 2:
                    raise
                lost += 1

    task = asyncio.create_task(loop())
    await asyncio.sleep(0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ending, "AGAIN", 0.01)
        await ending.end([task])
    assert task.cancelled()
    assert lost == 2


@run_async
async def test_tasks_that_are_over_or_were_never_made_are_no_trouble() -> None:
    async def over() -> None:
        raise ValueError

    task = asyncio.create_task(over())
    await asyncio.wait([task])
    await ending.end([task, None])
    assert isinstance(task.exception(), ValueError)
