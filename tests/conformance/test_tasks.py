"""Tasks: activities that any worker of their queue may carry out, and whose ends reach the inbox of their run."""

from __future__ import annotations

import asyncio
from typing import Any

from perdure.model.events import ActivityCompleted, ActivityFailed, Failure
from perdure.model.runs import Hold, NewTask, Park, RunId, RunState, TaskDone, TaskRetry
from perdure.model.workers import Lease
from tests.support.stores import NAMESPACE, FullStore, Stage, behaviour, close, completed_activity, turn

FAILURE = Failure("ValueError", "no paper", "  File …", Failure("OSError", "empty tray"))


def task(seq: int, queue: str = "default", **changes: Any) -> NewTask:
    fields: dict[str, Any] = {
        "seq": seq,
        "queue": queue,
        "name": "render",
        "input": b'["a"]',
        "options": b'{"timeout":3}',
    }
    return NewTask(**(fields | changes))


def done(run_id: RunId, seq: int) -> TaskDone:
    return TaskDone(run_id=run_id, seq=seq, event=completed_activity(seq))


@behaviour
async def test_a_task_is_taken_by_a_worker_of_its_queue(stage: Stage) -> None:
    owner, gpu = await stage.worker(), await stage.worker("gpu", queues=("gpu", "cpu"))
    run_id = await stage.owned(owner)
    await stage.flush(owner, run_id, turn(1), tasks=(task(1, "gpu"), task(2, "cpu", attempt=4)))
    assert await stage.store.claim_tasks(owner, 10) == []
    stranger = await stage.worker("stranger", namespace="neighbour", queues=("gpu",))
    assert await stage.store.claim_tasks(stranger, 10) == []
    first, second = await stage.store.claim_tasks(gpu, 10)
    assert (first.run_id, first.instance, first.seq, first.queue, first.name) == (run_id, "order-1", 1, "gpu", "render")
    assert (first.input, first.options, first.attempt, first.last_failure) == (b'["a"]', b'{"timeout":3}', 1, None)
    assert (second.seq, second.attempt) == (2, 4)
    assert await stage.store.claim_tasks(gpu, 10) == []


@behaviour
async def test_tasks_of_activities_that_are_passed_over_are_left_for_others(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    tasks = (task(1), task(2, name="print"), task(3))
    await stage.flush(lease, run_id, turn(1), tasks=tasks)
    first = task(1).name
    assert [found.seq for found in await stage.store.claim_tasks(lease, 10, (first, "unheard"))] == [2]
    assert [found.seq for found in await stage.store.claim_tasks(await stage.worker("two"), 10)] == [1, 3]


@behaviour
async def test_tasks_are_taken_up_to_the_limit_those_first_that_waited_longest(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1), tasks=(task(1, delay=0.0),))
    await stage.pass_time(1)
    await stage.flush(lease, run_id, turn(2), tasks=tuple(task(seq) for seq in (4, 3, 2)))
    assert [found.seq for found in await stage.store.claim_tasks(lease, 2)] == [1, 2]
    assert [found.seq for found in await stage.store.claim_tasks(lease, 9)] == [3, 4]


@behaviour
async def test_a_delayed_task_waits(stage: Stage) -> None:
    lease = await stage.worker(lease=1000.0)
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1), tasks=(task(1, delay=50.0),))
    assert await stage.store.claim_tasks(lease, 10) == []
    await stage.pass_time(51)
    assert len(await stage.store.claim_tasks(lease, 10)) == 1


@behaviour
async def test_the_end_of_a_task_is_a_message_and_the_task_is_gone(stage: Stage) -> None:
    owner, helper = await stage.worker(), await stage.worker("helper", queues=("gpu",))
    run_id = await stage.owned(owner)
    await stage.flush(owner, run_id, turn(1), tasks=(task(1, "gpu"), task(2, "gpu")))
    await stage.store.claim_tasks(helper, 10)
    failed = TaskDone(run_id=run_id, seq=2, event=ActivityFailed(2, FAILURE, attempt=3))
    await stage.store.finish_tasks(helper, [failed, done(run_id, 1)])
    items = await stage.store.inbox(owner)
    assert [(item.number, item.event) for item in items] == [(1, failed.event), (2, completed_activity(1))]
    await stage.store.finish_tasks(helper, [failed, done(run_id, 1)])
    assert await stage.store.inbox(owner) == items, "repeated after a lost answer, it changes nothing"
    assert await stage.store.claim_tasks(helper, 10) == []


@behaviour
async def test_the_end_of_a_task_wakes_a_parked_run(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1), Park(mail=0, wake_at=None), tasks=(task(1),))
    await stage.store.claim_tasks(lease, 10)
    await stage.store.finish_tasks(lease, [done(run_id, 1)])
    claimed = await stage.claim_one(lease)
    assert [item.event for item in claimed.inbox] == [completed_activity(1)]
    assert (claimed.tasks, claimed.mail) == ((), 1)


@behaviour
async def test_the_end_of_a_task_does_not_free_a_held_run(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1), Hold(reason="NonDeterminism", message=""), tasks=(task(1),))
    await stage.store.claim_tasks(lease, 10)
    await stage.store.finish_tasks(lease, [done(run_id, 1)])
    assert (await stage.summary()).state is RunState.HELD


@behaviour
async def test_a_failed_attempt_is_recorded_and_the_next_one_waits(stage: Stage) -> None:
    lease = await stage.worker(lease=1000.0)
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1), tasks=(task(1),))
    await stage.store.claim_tasks(lease, 10)
    retry = TaskRetry(run_id=run_id, seq=1, attempt=2, failure=FAILURE, delay=30.0)
    await stage.store.finish_tasks(lease, [retry])
    await stage.store.finish_tasks(lease, [retry])
    assert await stage.store.claim_tasks(lease, 10) == []
    await stage.pass_time(31)
    (again,) = await stage.store.claim_tasks(lease, 10)
    assert (again.attempt, again.last_failure) == (2, FAILURE)
    assert await stage.store.inbox(lease) == []


@behaviour
async def test_tasks_of_a_dead_worker_are_free_again(stage: Stage) -> None:
    dead, alive = await stage.worker("dead", lease=10.0, queues=("gpu",)), await stage.worker("alive")
    helper = await stage.worker("helper", queues=("gpu",))
    run_id = await stage.owned(alive)
    await stage.flush(alive, run_id, turn(1), tasks=(task(1, "gpu"),))
    assert len(await stage.store.claim_tasks(dead, 10)) == 1
    await stage.pass_time(11)
    await asyncio.to_thread(stage.store.renew, alive)
    assert await stage.store.recover(alive) == 0, "it counts runs"
    (again,) = await stage.store.claim_tasks(helper, 10)
    assert again.attempt == 1
    await stage.store.finish_tasks(helper, [done(run_id, 1)])
    assert len(await stage.store.inbox(alive)) == 1


@behaviour
async def test_a_task_that_was_given_to_somebody_else_cannot_be_finished(stage: Stage) -> None:
    owner, slow, quick = await stage.worker(), await stage.worker("slow"), await stage.worker("quick")
    run_id = await stage.owned(owner)
    await stage.flush(owner, run_id, turn(1), tasks=(task(1),))
    await stage.store.claim_tasks(slow, 10)
    await stage.store.finish_tasks(slow, [TaskRetry(run_id=run_id, seq=1, attempt=2, failure=FAILURE, delay=0.0)])
    await stage.store.claim_tasks(quick, 10)
    await stage.store.finish_tasks(slow, [done(run_id, 1)])
    assert await stage.store.inbox(owner) == []
    await stage.store.finish_tasks(quick, [done(run_id, 1)])
    assert len(await stage.store.inbox(owner)) == 1


@behaviour
async def test_dropped_tasks_and_tasks_of_closed_runs_are_gone(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1), tasks=(task(1), task(2), task(3)))
    (first,) = await stage.store.claim_tasks(lease, 1)
    await stage.flush(lease, run_id, turn(2), dropped_tasks=(1, 2))
    await stage.store.finish_tasks(lease, [done(run_id, first.seq)])
    assert await stage.store.inbox(lease) == []
    await stage.flush(lease, run_id, turn(3), close())
    assert await stage.store.claim_tasks(lease, 10) == []
    terminated = await stage.owned(lease, "order-2")
    await stage.flush(lease, terminated, turn(1), tasks=(task(1),))
    await stage.store.terminate(NAMESPACE, "order-2", "enough")
    assert await stage.store.claim_tasks(lease, 10) == []


@behaviour
async def test_a_task_that_is_queued_and_dropped_in_the_same_turn_was_never_there(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1), tasks=(task(1), task(2)), dropped_tasks=(1,))
    assert [found.seq for found in await stage.store.claim_tasks(lease, 10)] == [2]


@behaviour
async def test_two_claimers_never_get_the_same_task(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, turn(1), tasks=tuple(task(seq) for seq in range(1, 81)))

    async def claim_all(store: FullStore, name: str) -> list[int]:
        mine: list[int] = []
        helper = await stage.worker(name)
        while claimed := await store.claim_tasks(helper, 9):
            mine += [found.seq for found in claimed]
        return mine

    stores = [await stage.another() for _ in range(3)]
    taken = await asyncio.gather(*(claim_all(store, f"helper-{number}") for number, store in enumerate(stores)))
    rest = await stage.store.claim_tasks(lease, 80)
    everything = [seq for mine in taken for seq in mine] + [found.seq for found in rest]
    assert sorted(everything) == list(range(1, 81))


@behaviour
async def test_ends_of_many_tasks_are_numbered_without_gaps_however_they_arrive(stage: Stage) -> None:
    """Helpers finish tasks of several runs at once while the owner records turns: nothing is lost or deadlocked."""
    owner = await stage.worker()
    runs = [await stage.owned(owner, f"order-{number}") for number in range(3)]
    for run_id in runs:
        await stage.flush(owner, run_id, turn(1), tasks=tuple(task(seq, "gpu") for seq in range(1, 21)))

    async def help_out(store: FullStore, lease: Lease) -> None:
        while claimed := await store.claim_tasks(lease, 4):
            await store.finish_tasks(lease, [done(found.run_id, found.seq) for found in reversed(claimed)])

    helpers = [(await stage.another(), await stage.worker(f"helper-{n}", queues=("gpu",))) for n in range(3)]
    await asyncio.gather(*(help_out(store, lease) for store, lease in helpers))
    await help_out(stage.store, helpers[0][1])  # those that somebody else had locked at the wrong moment
    items = await stage.store.inbox(owner)
    for run_id in runs:
        mine = [item for item in items if item.run_id == run_id]
        assert [item.number for item in mine] == list(range(1, 21))
        assert {item.event.seq for item in mine if isinstance(item.event, ActivityCompleted)} == set(range(1, 21))
