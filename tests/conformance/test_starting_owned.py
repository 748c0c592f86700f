"""Runs that a worker of the starting process owns from the first moment: no claim, and nothing lost by it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from perdure.model.events import ActivityScheduled, Turn, TurnHeader, WorkflowExecutionStarted
from perdure.model.runs import ClaimedRun, Lease, RunState
from perdure.store.base import Start
from tests.support.stores import Stage, behaviour, close, new_run, turn


@dataclass
class Taking:
    """A worker that would take runs, and those that it took."""

    lease: Lease
    turn: Turn | None = None
    runs: list[ClaimedRun] = field(default_factory=list)
    drops: int = 0

    def takes_along(self, starts: int) -> bool:
        assert starts > 0
        return False

    def begin(self, starts: Sequence[Start]) -> list[Taking]:
        for new, started in starts:
            assert (started.workflow, started.seed) == (new.workflow, new.seed)
            if self.turn is not None:
                self.turn = Turn(0, self.turn.header, (started, *self.turn.events))
        return [self] * len(starts)

    def took(self, run: ClaimedRun) -> None:
        self.runs.append(run)

    def dropped(self) -> None:
        self.drops += 1


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


@behaviour
async def test_what_was_taken_by_a_worker_that_vanished_is_ready_again(stage: Stage) -> None:
    taker = Taking(await stage.worker())
    await stage.store.start(new_run("order-1"), taker)
    await stage.store.resign(taker.lease)
    heir = await stage.worker("two")
    claimed = await stage.claim_one(heir)
    assert claimed.history[0].seq == 0
