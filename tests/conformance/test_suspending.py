"""Runs that nobody may take for now, and runs that only one build may take."""

from __future__ import annotations

from perdure.model.events import WorkflowExecutionCancelRequested
from perdure.model.runs import Hold, Park, Release, RunState
from perdure.store.base import ABSENT_BUILD
from tests.support.stores import LATER, NAMESPACE, Stage, behaviour, names, new_run, signal, turn


async def suspend(stage: Stage, *, suspended: bool = True) -> bool:
    """Suspend the instance or resume it; tell whether it was there to be told."""
    return await stage.store.suspend(NAMESPACE, "order-1", suspended=suspended) is not None


@behaviour
async def test_nobody_takes_a_suspended_run_until_it_is_resumed(stage: Stage) -> None:
    lease = await stage.worker()
    started = await stage.start()
    assert await suspend(stage)
    assert await stage.store.claim(lease, 10) == []
    assert (await stage.summary()).phase == "Suspended"
    assert await suspend(stage, suspended=False)
    assert (await stage.claim_one(lease)).info.run_id == started.run_id


@behaviour
async def test_a_run_may_be_suspended_from_its_start(stage: Stage) -> None:
    lease = await stage.worker()
    await stage.start(suspended=True)
    summary = await stage.summary()
    assert (summary.suspended, summary.phase, summary.started_at) == (True, "Suspended", None)
    assert await stage.store.claim(lease, 10) == []


@behaviour
async def test_the_owner_is_told_until_it_lets_go(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await suspend(stage)
    await stage.store.deliver(NAMESPACE, "order-1", signal("meanwhile"))
    for _ in range(2):
        told, message = await stage.store.inbox(lease)
        assert (told.run_id, told.number, told.event) == (run_id, 0, None)
        assert names([message]) == [(1, "meanwhile")]
    assert (await stage.flush(lease, run_id, turn(1), Release())).ended
    assert await stage.store.inbox(lease) == []
    assert await stage.store.claim(lease, 10) == []
    await suspend(stage, suspended=False)
    claimed = await stage.claim_one(lease)
    assert names(claimed.inbox) == [(1, "meanwhile")]


@behaviour
async def test_a_suspension_that_is_taken_back_at_once_is_as_if_it_never_was(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await suspend(stage)
    await suspend(stage, suspended=False)
    assert await stage.store.inbox(lease) == []
    assert (await stage.flush(lease, run_id, Release())).ended
    assert (await stage.claim_one(lease)).info.run_id == run_id


@behaviour
async def test_messages_and_timers_of_a_suspended_run_are_kept(stage: Stage) -> None:
    lease = await stage.worker()
    await stage.flush(lease, await stage.owned(lease), Park(mail=0, wake_at=1))
    await suspend(stage)
    assert await stage.store.claim(lease, 10) == [], "its time has come, and still"
    await stage.store.deliver(NAMESPACE, "order-1", signal("meanwhile"))
    assert await stage.store.claim(lease, 10) == []
    await suspend(stage, suspended=False)
    assert names((await stage.claim_one(lease)).inbox) == [(1, "meanwhile")]


@behaviour
async def test_a_parked_run_whose_time_came_while_it_was_suspended_is_due_when_it_is_resumed(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    await stage.flush(lease, run_id, Park(mail=0, wake_at=1))
    await suspend(stage)
    await suspend(stage, suspended=False)
    assert (await stage.claim_one(lease)).info.run_id == run_id


@behaviour
async def test_a_suspended_run_stays_so_when_its_owner_vanishes_or_resigns(stage: Stage) -> None:
    for end in (stage.store.resign, None):
        lease = await stage.worker("gone", lease=50.0)
        await stage.owned(lease)
        await suspend(stage)
        if end is not None:
            await end(lease)
        else:
            await stage.store.expire(NAMESPACE, "gone")
        other = await stage.worker("other")
        await stage.store.recover(other)
        assert await stage.store.claim(other, 10) == []
        assert (await stage.summary()).state is RunState.READY
        await suspend(stage, suspended=False)
        await stage.store.resign(other)


@behaviour
async def test_a_request_to_cancel_ends_the_suspension_and_forbids_another(stage: Stage) -> None:
    lease = await stage.worker()
    await stage.start()
    await suspend(stage)
    await stage.store.deliver(NAMESPACE, "order-1", WorkflowExecutionCancelRequested("enough"))
    assert not (await stage.summary()).suspended
    assert not await suspend(stage)
    assert len((await stage.claim_one(lease)).inbox) == 1


@behaviour
async def test_a_held_run_may_be_suspended_and_is_not_taken_once_it_is_freed(stage: Stage) -> None:
    lease = await stage.worker()
    await stage.flush(lease, await stage.owned(lease), Hold(reason="NonDeterminism", message="it differs"))
    await suspend(stage)
    assert (await stage.summary()).phase == "Stalled"
    await stage.store.resume(NAMESPACE, "order-1")
    assert (await stage.summary()).phase == "Suspended"
    assert await stage.store.claim(lease, 10) == []


@behaviour
async def test_a_suspended_run_is_not_held_for_want_of_a_worker(stage: Stage) -> None:
    await stage.start(suspended=True)
    stranger = await stage.worker(workflows=("shipping",))
    assert await stage.store.hold_unknown(stranger) == 0
    await suspend(stage, suspended=False)
    assert await stage.store.hold_unknown(stranger) == 1


@behaviour
async def test_only_an_open_run_can_be_suspended(stage: Stage) -> None:
    assert not await suspend(stage)
    await stage.start()
    await stage.store.terminate(NAMESPACE, "order-1", "enough")
    assert not await suspend(stage)
    assert not await suspend(stage, suspended=False)


@behaviour
async def test_people_hear_of_a_suspension_and_of_its_end_once_each(stage: Stage) -> None:
    await stage.start(key="uid-1")
    for suspended in (True, True, False, False):
        await suspend(stage, suspended=suspended)
    changes = await stage.store.status_changes(10)
    assert len(changes) == 2
    assert not changes[-1].run.suspended


# Builds


@behaviour
async def test_a_run_for_one_build_is_taken_by_that_build_only(stage: Stage) -> None:
    other, right = await stage.worker("one"), await stage.worker("two", build="build-2")
    run_id = (await stage.start(build="build-2")).run_id
    assert (await stage.summary()).build == "build-2"
    assert await stage.store.claim(other, 10) == []
    await stage.flush(right, (await stage.claim_one(right)).info.run_id, Park(mail=0, wake_at=1))
    assert await stage.store.claim(other, 10) == [], "neither when its time has come"
    assert (await stage.claim_one(right)).info.run_id == run_id


@behaviour
async def test_a_message_wakes_a_run_for_its_own_build(stage: Stage) -> None:
    other, right = await stage.worker("one"), await stage.worker("two", build="build-2")
    await stage.start(build="build-2")
    await stage.flush(right, (await stage.claim_one(right)).info.run_id, Park(mail=0, wake_at=LATER))
    await stage.store.deliver(NAMESPACE, "order-1", signal("wake up"))
    assert await stage.store.claim(other, 10) == []
    assert len(await stage.store.claim(right, 10)) == 1


@behaviour
async def test_a_run_for_a_build_that_has_no_worker_is_held_until_there_is_one(stage: Stage) -> None:
    other = await stage.worker()
    await stage.start(build="build-2", key="uid-1")
    assert await stage.store.hold_unknown(other) == 1
    held = await stage.summary()
    assert (held.state, held.hold_reason) == (RunState.HELD, ABSENT_BUILD)
    assert "no worker of build build-2 serves queue default and knows workflow order" in held.hold_message
    assert await stage.store.recover(other) == 0
    right = await stage.worker("two", build="build-2")
    assert await stage.store.recover(right) == 1
    assert len(await stage.store.claim(right, 10)) == 1


@behaviour
async def test_a_run_that_its_build_holds_is_not_freed_by_another(stage: Stage) -> None:
    right, other = await stage.worker("two", build="build-2"), await stage.worker("one")
    await stage.store.start(new_run("order-1", build="build-2"))
    run_id = (await stage.claim_one(right)).info.run_id
    await stage.flush(right, run_id, Hold(reason="NonDeterminism", message="it differs"))
    assert await stage.store.recover(other) == 0
    await stage.store.resume(NAMESPACE, "order-1")
    assert len(await stage.store.claim(right, 10)) == 1
