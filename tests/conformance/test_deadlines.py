"""Runs whose time is over while nobody owns them: whoever looks closes them as their owner would have."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from perdure.errors import LeaseLostError
from perdure.model.events import TIMED_OUT
from perdure.model.runs import Close, Hold, Park, RunId, RunState
from tests.support.stores import LATER, NAMESPACE, Stage, behaviour, signal, turn, worker_info


async def held(stage: Stage) -> RunId:
    lease = await stage.worker("held it")
    run_id = await stage.owned(lease, key="uid-1", timeout=60.0)
    await stage.flush(lease, run_id, turn(1), Hold(reason="DeterminismViolation", message="why"))
    return run_id


async def parked(stage: Stage) -> RunId:
    lease = await stage.worker("parked it")
    run_id = await stage.owned(lease, key="uid-1", timeout=60.0)
    await stage.flush(lease, run_id, turn(1), Park(mail=0, wake_at=LATER, waiting_for="a timer"))
    return run_id


async def never_claimed(stage: Stage) -> RunId:
    run_id = (await stage.start(key="uid-1", timeout=60.0, queue="void")).run_id
    await stage.store.deliver(NAMESPACE, "order-1", signal("unread"))
    return run_id


async def left_by_the_dead(stage: Stage) -> RunId:
    run_id = await stage.owned(await stage.worker("dead", lease=10.0), key="uid-1", timeout=60.0)
    await stage.store.deliver(NAMESPACE, "order-1", signal("unread"))
    return run_id


WAYS: dict[str, Callable[[Stage], Awaitable[RunId]]] = {
    "held": held,
    "parked": parked,
    "never claimed": never_claimed,
    "left by the dead": left_by_the_dead,
}


@pytest.mark.parametrize("way", sorted(WAYS))
def test_a_run_that_nobody_owns_is_closed_after_its_deadline(stage: Stage, way: str) -> None:
    @behaviour
    async def test(stage: Stage) -> None:
        run_id = await WAYS[way](stage)
        other = await stage.store.register(worker_info("of another namespace", namespace="other", queues=("some",)))
        assert await stage.store.time_out(other) == 0
        await stage.pass_time(61)
        other = await stage.store.register(worker_info("of another namespace", namespace="other", queues=("some",)))
        changes = len(await stage.store.status_changes(10))
        assert await stage.store.time_out(other) == 1
        assert await stage.store.time_out(other) == 0
        summary = await stage.summary()
        assert (summary.phase, summary.outcome, summary.hold_reason, summary.waiting_for) == (
            "TimedOut", TIMED_OUT, "", ""
        )  # fmt: skip
        assert summary.closed_at is not None
        assert (await stage.types(run_id))[-1] == "WorkflowExecutionTimedOut"
        assert [change.run.phase for change in await stage.store.status_changes(10)][changes:] == ["TimedOut"]
        assert await stage.store.deliver(NAMESPACE, "order-1", signal("late")) is None
        assert (await stage.start()).created, "the id is free"

    test(stage)


@behaviour
async def test_a_run_that_has_an_owner_or_is_suspended_or_has_time_is_left_alone(stage: Stage) -> None:
    lease = await stage.worker(lease=600.0)
    await stage.owned(lease, "owned", timeout=60.0)
    await stage.start("suspended", timeout=60.0, suspended=True)
    await stage.start("has time", timeout=90.0)
    await stage.start("unbounded")
    await stage.pass_time(61)
    assert await stage.store.time_out(lease) == 0
    assert await stage.store.suspend(NAMESPACE, "suspended", suspended=False)
    assert await stage.store.time_out(lease) == 1
    assert (await stage.summary("suspended")).state is RunState.TIMED_OUT


@behaviour
async def test_what_is_closed_from_outside_looks_as_its_owner_would_have_left_it(stage: Stage) -> None:
    lease = await stage.worker(lease=600.0)
    own = await stage.owned(lease, "own")
    await stage.flush(lease, own, turn(1, TIMED_OUT), Close(state=RunState.TIMED_OUT, outcome=TIMED_OUT))
    late = (await stage.start("late", timeout=60.0)).run_id
    await stage.pass_time(61)
    assert await stage.store.time_out(lease) == 1
    assert await stage.types(own) == await stage.types(late)
    ended = await stage.store.ended([own, late])
    assert [each and each.outcome for each in ended.values()] == [TIMED_OUT, TIMED_OUT]


@behaviour
async def test_only_who_has_a_lease_closes_runs(stage: Stage) -> None:
    lease = await stage.worker(lease=1.0)
    await stage.start(timeout=1.0)
    await stage.pass_time(2)
    with pytest.raises(LeaseLostError):
        await stage.store.time_out(lease)
    assert (await stage.summary()).state is RunState.READY
