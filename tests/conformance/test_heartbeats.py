"""What an attempt said last is found by the next one, whoever makes it."""

from __future__ import annotations

import pytest

from perdure.errors import LeaseLostError
from perdure.model.events import Failure
from perdure.model.runs import Heartbeat, NewTask, Release, RunId, TaskRetry
from tests.support.stores import Stage, behaviour, scheduled, turn

FAILURE = Failure("ValueError", "no paper")


def beat(run_id: RunId, seq: int = 1, line: int = 7) -> Heartbeat:
    return Heartbeat(run_id, seq, b'{"line":%d}' % line)


def render(seq: int) -> NewTask:
    return NewTask(seq=seq, queue="default", name="render", input=b"[]", options=b"{}")


@behaviour
async def test_the_next_owner_of_a_run_gets_the_last_details_of_each_activity(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1, scheduled(1), scheduled(2)))
    await stage.store.heartbeat(lease, [beat(run_id, 1, 3), beat(run_id, 2, 5), beat(run_id, 1, 4)])
    await stage.store.heartbeat(lease, [beat(run_id, 1, 7)])
    await stage.pass_time(120)
    other = await stage.worker("other")
    stage.store.renew(other)
    await stage.store.recover(other)
    claimed = await stage.claim_one(other)
    assert dict(claimed.details) == {1: b'{"line":7}', 2: b'{"line":5}'}


@behaviour
async def test_the_next_attempt_of_a_task_gets_its_details(stage: Stage) -> None:
    owner, other = await stage.worker(), await stage.worker("other")
    run_id = await stage.owned(owner)
    await stage.flush(owner, run_id, turn(1, scheduled(1)), tasks=(render(1),))
    (task,) = await stage.store.claim_tasks(other, 1)
    assert task.details is None
    await stage.store.heartbeat(other, [beat(run_id)])
    retry = TaskRetry(run_id=run_id, seq=1, attempt=2, failure=FAILURE, delay=0.0)
    await stage.store.finish_tasks(other, [retry])
    (task,) = await stage.store.claim_tasks(owner, 1)
    assert (task.attempt, task.details) == (2, b'{"line":7}')


@behaviour
async def test_details_of_somebody_who_does_not_carry_out_the_activity_change_nothing(stage: Stage) -> None:
    owner, other = await stage.worker(), await stage.worker("other")
    run_id = await stage.owned(owner)
    await stage.flush(owner, run_id, turn(1, scheduled(1)))
    await stage.store.heartbeat(other, [beat(run_id)])
    await stage.store.heartbeat(owner, [beat(RunId(10**6))])
    await stage.flush(owner, run_id, Release())
    await stage.store.heartbeat(owner, [beat(run_id)])
    assert dict((await stage.claim_one(other)).details) == {}


@behaviour
async def test_a_worker_without_a_lease_keeps_nothing(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.pass_time(120)
    with pytest.raises(LeaseLostError):
        await stage.store.heartbeat(lease, [beat(run_id)])
