"""Runs that a worker of the starting process owns from the first moment: no claim, and nothing lost by it."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from perdure.model.events import ActivityScheduled, Turn, TurnHeader, WorkflowExecutionStarted
from perdure.model.runs import RunState
from tests.support.stores import Stage, behaviour, close, new_run, turn
from tests.support.takers import Taking, begun


@behaviour
async def test_a_run_that_is_taken_is_owned_with_its_turn_0_in_hand(stage: Stage) -> None:
    taker = Taking(await stage.worker())
    started = await stage.store.start(new_run("order-1", timeout=60.0), taker)
    (run,) = taker.runs
    assert (started.created, started.taken, run.info.run_id) == (True, True, started.run_id)
    assert (await stage.summary()).state is RunState.OWNED
    assert isinstance(run.history[0].events[0], WorkflowExecutionStarted)
    recorded = await stage.store.history(started.run_id)
    assert recorded[0].time == (await stage.summary()).created_at
    assert run.deadline == run.created_at + 60_000_000
    assert await stage.store.owned(taker.lease) == [started.run_id]
    assert await stage.store.claim(await stage.worker("two"), 10) == []
    assert (await stage.flush(taker.lease, started.run_id, turn(1), close())).ended


@behaviour
async def test_a_first_turn_that_has_run_is_turn_0(stage: Stage) -> None:
    large = msgspec.Raw(b'"' + b"x" * 50_000 + b'"')
    events = (ActivityScheduled(1, "charge", large), ActivityScheduled(2, "pack", msgspec.Raw(b"[]")))
    taker = Taking(await stage.worker(), Turn(0, TurnHeader(time=1_000_000, worker="one", build="b"), events))
    started = await stage.store.start(new_run("order-1", input=bytes(large)), taker)
    (run,) = taker.runs
    assert run.history == (taker.turn,)
    recorded = await stage.store.history(started.run_id)
    assert [type(item.event) for item in recorded] == [WorkflowExecutionStarted, ActivityScheduled, ActivityScheduled]
    assert {(item.turn, item.worker) for item in recorded} == {(0, "one")}
    await stage.store.resign(taker.lease)
    (claimed,) = await stage.store.claim(await stage.worker("two"), 10)
    assert claimed.history == (taker.turn,)


@behaviour
async def test_a_first_turn_of_a_worker_without_a_lease_is_recorded_for_whoever_claims_the_run(stage: Stage) -> None:
    events = (ActivityScheduled(1, "charge", msgspec.Raw(b"[]")),)
    taker = Taking(await stage.worker(), Turn(0, TurnHeader(time=1_000_000, worker="one"), events))
    await stage.store.resign(taker.lease)
    started = await stage.store.start(new_run("order-1"), taker)
    assert (started.created, started.taken, taker.runs, taker.drops) == (True, False, [], 1)
    (claimed,) = await stage.store.claim(await stage.worker("two"), 10)
    assert claimed.history == (taker.turn,)


@behaviour
async def test_a_worker_without_a_lease_takes_nothing(stage: Stage) -> None:
    taker = Taking(await stage.worker())
    await stage.store.resign(taker.lease)
    started = await stage.store.start(new_run("order-1"), taker)
    assert (started.created, started.taken, taker.runs) == (True, False, [])
    assert (await stage.summary()).state is RunState.READY


@behaviour
async def test_an_open_instance_is_not_taken_from_its_owner(stage: Stage) -> None:
    owner, taker = await stage.worker("one"), Taking(await stage.worker("two"))
    run_id = await stage.owned(owner)
    started = await stage.store.start(new_run("order-1"), taker)
    assert (started.run_id, started.created, started.taken, taker.runs) == (run_id, False, False, [])


@behaviour
async def test_many_starts_of_one_id_are_taken_once(stage: Stage) -> None:
    taker = Taking(await stage.worker())
    started = await asyncio.gather(*(stage.store.start(new_run("order-1"), taker) for _ in range(20)))
    assert len({one.run_id for one in started}) == 1
    assert [one.created for one in started].count(True) == len(taker.runs) == 1


@pytest.mark.parametrize("company", [0, 2], ids=["alone", "with two others"])
def test_a_run_that_is_taken_with_its_first_turn_has_all_that_was_asked_for(stage: Stage, company: int) -> None:
    @behaviour
    async def begin(stage: Stage) -> None:
        taker = begun(await stage.worker())
        others = [stage.start(f"other-{number}") for number in range(company)]
        asked = new_run("order-1", timeout=60.0, priority=3, build="build-1")
        started, *_ = await asyncio.gather(stage.store.start(asked, taker), *others)
        (run,) = taker.runs
        assert (started.created, started.taken, run.info.run_id) == (True, True, started.run_id)
        assert run.history == (taker.turn,)
        assert run.deadline == run.created_at + 60_000_000
        summary = await stage.summary()
        assert (summary.state, summary.worker, summary.priority, summary.build) == (RunState.OWNED, "one", 3, "build-1")
        assert summary.started_at == summary.created_at
        assert await stage.types(started.run_id) == ["WorkflowExecutionStarted", "ActivityScheduled"]
        assert await stage.store.owned(taker.lease) == [started.run_id]
        assert (await stage.flush(taker.lease, started.run_id, turn(1), close())).ended
        assert (await stage.store.start(asked, taker)).created, "an id is free again when its run has closed"

    begin(stage)


@behaviour
async def test_a_first_turn_is_forgotten_where_an_instance_is_open(stage: Stage) -> None:
    owner, taker = await stage.worker("one"), begun(await stage.worker("two"))
    run_id = await stage.owned(owner)
    started = await stage.store.start(new_run("order-1"), taker)
    assert (started.run_id, started.created, started.taken) == (run_id, False, False)
    assert taker.runs == []
    assert taker.settled
    assert await stage.types(run_id) == ["WorkflowExecutionStarted"]


@behaviour
async def test_of_first_turns_that_race_for_one_id_one_is_recorded(stage: Stage) -> None:
    takers = [begun(await stage.worker(f"worker-{number}")) for number in range(4)]
    stores = [await stage.another() for _ in takers]
    started = await asyncio.gather(
        *(store.start(new_run("order-1"), taker) for store, taker in zip(stores, takers, strict=True))
    )
    (run_id,) = {one.run_id for one in started}
    assert sorted((one.created, one.taken) for one in started) == [(False, False)] * 3 + [(True, True)]
    assert [len(taker.runs) for taker in takers] == [int(one.taken) for one in started]
    assert all(taker.settled for taker in takers)
    assert await stage.types(run_id) == ["WorkflowExecutionStarted", "ActivityScheduled"]


@behaviour
async def test_what_was_taken_by_a_worker_that_vanished_is_ready_again(stage: Stage) -> None:
    taker = Taking(await stage.worker())
    await stage.store.start(new_run("order-1"), taker)
    await stage.store.resign(taker.lease)
    heir = await stage.worker("two")
    claimed = await stage.claim_one(heir)
    assert claimed.history[0].seq == 0
