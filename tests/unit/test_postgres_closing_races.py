"""Runs that are closed from outside while their owner, or the next one, is at work on them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from perdure.model.runs import Committed, NewTask, RunState
from tests.support.gate import GatedStage, gated_stage
from tests.support.stores import NAMESPACE, behaviour, commit

RENDER = NewTask(seq=1, queue="default", name="render", input=b"[]", options=b"{}")


@pytest.fixture
def stage(database: str) -> Iterator[GatedStage]:
    """Lend a stage with a gate."""
    with gated_stage(database) as gated:
        yield gated


@behaviour
async def test_activities_of_a_run_that_is_terminated_meanwhile_are_not_offered(stage: GatedStage) -> None:
    gated = await stage.gated()
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    async with stage.gate():
        offer = asyncio.create_task(gated.flush(lease, [commit(run_id, tasks=(RENDER,))]))
        await stage.stopped()
        assert await stage.store.terminate(NAMESPACE, "order-1", "enough") == run_id
    assert await offer == [Committed(recorded=False, ended=False)]
    assert await stage.execute("SELECT * FROM perdure.task") == []


@behaviour
async def test_a_termination_that_waited_for_an_offer_of_activities_withdraws_it(stage: GatedStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    other = await stage.another()
    async with stage.aside() as beside:
        copy = "INSERT INTO perdure.task VALUES (%s, 1, '', '', '', '', '', 1, now())"
        await beside.execute(copy, [run_id])
        offer = asyncio.create_task(stage.flush(lease, run_id, tasks=(RENDER,)))
        await stage.stopped()
        termination = asyncio.create_task(other.terminate(NAMESPACE, "order-1", "enough"))
        await stage.stopped(2)
        await beside.rollback()
    assert (await offer).recorded
    assert await termination == run_id
    assert await stage.execute("SELECT * FROM perdure.task") == []


@behaviour
async def test_a_run_that_is_claimed_while_it_is_found_to_be_late_is_left_to_its_owner(stage: GatedStage) -> None:
    lease = await stage.worker(lease=600.0)
    run_id = (await stage.start(timeout=60.0)).run_id
    await stage.pass_time(61)
    async with stage.aside() as beside:
        claim = "UPDATE perdure.run SET state = 1, owner = %s, claims = claims + 1 WHERE id = %s"
        await beside.execute(claim, [lease.worker, run_id])
        late = asyncio.create_task(stage.store.time_out(lease))
        await stage.stopped()
        await beside.commit()
    assert await late == 0
    assert (await stage.summary()).state is RunState.OWNED
