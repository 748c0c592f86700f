"""Runs that are claimed as a hint has announced them: with their first turn, and only if the hint is still true."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from perdure.errors import LeaseLostError
from perdure.model.events import Turn, TurnHeader, WorkflowExecutionStarted
from perdure.model.runs import ClaimAnswer, RunId, RunState
from perdure.model.workers import Lease
from tests.support.stores import (
    NAMESPACE,
    Stage,
    announced,
    behaviour,
    close,
    new_run,
    raw,
    scheduled,
    signal,
    turn,
)
from tests.support.takers import Taking

TAKEN, GONE, UNSURE = ClaimAnswer


async def claimed(stage: Stage, lease: Lease, run_id: RunId, **changes: Any) -> ClaimAnswer:
    """Claim a run as it was announced; whatever the answer is, nothing else may have happened."""
    before = await stage.types(run_id)
    state = (await stage.summary()).state
    answer = await stage.store.claim_announced(lease, await announced(stage.store, run_id, **changes), turn(1))
    after = await stage.types(run_id)
    if answer is TAKEN:
        assert (await stage.summary()).state is RunState.OWNED
        assert after == [*before, "ActivityScheduled"]
    else:
        assert ((await stage.summary()).state, after) == (state, before)
    return answer


@behaviour
async def test_a_run_that_nobody_has_had_is_claimed_with_its_first_turn(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = (await stage.start()).run_id
    assert await claimed(stage, lease, run_id) is TAKEN
    summary = await stage.summary()
    assert (summary.worker, summary.phase) == ("one", "Running")
    assert summary.started_at is not None
    assert await stage.store.owned(lease) == [run_id]
    assert await stage.store.claim(await stage.worker("two"), 10) == []
    assert (await stage.flush(lease, run_id, turn(2), close())).ended


@behaviour
async def test_whoever_takes_it_over_finds_the_first_turn(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = (await stage.start()).run_id
    assert await claimed(stage, lease, run_id) is TAKEN
    await stage.store.resign(lease)
    run = await stage.claim_one(await stage.worker("two"))
    assert [(turn.seq, [type(event).__name__ for event in turn.events]) for turn in run.history] == [
        (0, ["WorkflowExecutionStarted"]),
        (1, ["ActivityScheduled"]),
    ]


@behaviour
async def test_the_object_of_the_run_is_told_once(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = (await stage.start(key="uid-1")).run_id
    before = len(await stage.store.status_changes(100))
    assert await claimed(stage, lease, run_id) is TAKEN
    (change,) = (await stage.store.status_changes(100))[before:]
    assert change.run.phase == "Running"


@behaviour
async def test_of_many_that_heard_of_a_run_one_has_it(stage: Stage) -> None:
    run_id = (await stage.start()).run_id
    leases = [await stage.worker(f"worker-{number}") for number in range(5)]
    run = await announced(stage.store, run_id)
    stores = [await stage.another() for _ in leases]
    answers = await asyncio.gather(
        *(store.claim_announced(lease, run, turn(1)) for store, lease in zip(stores, leases, strict=True))
    )
    assert sorted(answers, key=lambda answer: answer is GONE) == [TAKEN, GONE, GONE, GONE, GONE]
    owners = [lease for lease in leases if await stage.store.owned(lease)]
    assert owners == [leases[answers.index(TAKEN)]]
    assert await stage.types(run_id) == ["WorkflowExecutionStarted", "ActivityScheduled"]


async def own(stage: Stage) -> None:
    """Let somebody have it."""
    await stage.claim_one(await stage.worker("two"))


async def own_and_let_go(stage: Stage) -> None:
    """Let somebody have had it."""
    lease = await stage.worker("two")
    await stage.claim_one(lease)
    await stage.store.resign(lease)


async def tell(stage: Stage) -> None:
    """Send it a message."""
    await stage.store.deliver(NAMESPACE, "order-1", signal("news"))


async def suspend(stage: Stage) -> None:
    """Let nobody have it."""
    await stage.store.suspend(NAMESPACE, "order-1", suspended=True)


async def end(stage: Stage) -> None:
    """Close it."""
    await stage.store.terminate(NAMESPACE, "order-1", "enough")


@pytest.mark.parametrize("meanwhile", [own, own_and_let_go, tell, suspend, end])
def test_a_run_to_which_something_has_happened_is_left_alone(
    stage: Stage, meanwhile: Callable[[Stage], Awaitable[None]]
) -> None:
    @behaviour
    async def test(stage: Stage) -> None:
        lease = await stage.worker()
        run_id = (await stage.start()).run_id
        await meanwhile(stage)
        assert await claimed(stage, lease, run_id) is GONE

    test(stage)


@pytest.mark.parametrize(
    "changes", [{"queue": "other"}, {"workflow": "shipping"}, {"build": "build-2"}], ids=["queue", "workflow", "build"]
)
def test_a_run_that_is_not_for_this_worker_is_left_alone(stage: Stage, changes: dict[str, str]) -> None:
    @behaviour
    async def test(stage: Stage) -> None:
        run_id = (await stage.start(**changes)).run_id
        assert await claimed(stage, await stage.worker(), run_id) is GONE

    test(stage)


@behaviour
async def test_a_run_of_another_namespace_is_left_alone(stage: Stage) -> None:
    run_id = (await stage.start()).run_id
    assert await claimed(stage, await stage.worker(namespace="elsewhere"), run_id) is GONE


@behaviour
async def test_a_hint_that_tells_something_else_than_what_is_recorded_is_not_believed(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = (await stage.start()).run_id
    true = (await announced(stage.store, run_id)).history[0]
    (first,) = true.events
    assert isinstance(first, WorkflowExecutionStarted)
    for made_up in (
        Turn(0, true.header, (WorkflowExecutionStarted(first.workflow, raw("[2]"), first.seed),)),
        Turn(0, true.header, (WorkflowExecutionStarted(first.workflow, first.input, "another"),)),
        Turn(0, TurnHeader(time=true.header.time + 1), true.events),
    ):
        assert await claimed(stage, lease, run_id, history=(made_up,)) is UNSURE
    info = (await announced(stage.store, run_id)).info
    for name in ("id", "workflow", "queue"):
        made_up_info = msgspec.structs.replace(info, **{name: "another"})
        assert await claimed(stage, lease, run_id, info=made_up_info) is UNSURE
    assert await claimed(stage, lease, run_id, deadline=1) is UNSURE
    assert await claimed(stage, lease, run_id) is TAKEN


@behaviour
async def test_a_first_turn_that_is_recorded_already_is_not_taken_again(stage: Stage) -> None:
    taker = Taking(await stage.worker("two"), Turn(0, TurnHeader(time=1_000_000, worker="two"), (scheduled(1),)))
    await stage.store.resign(taker.lease)
    run_id = (await stage.store.start(new_run("order-1"), taker)).run_id
    assert await claimed(stage, await stage.worker(), run_id) is UNSURE


@behaviour
async def test_a_run_that_was_never_started_is_not_claimed(stage: Stage) -> None:
    lease = await stage.worker()
    run = await announced(stage.store, (await stage.start()).run_id)
    await stage.claim_one(lease)
    unknown = msgspec.structs.replace(run, info=msgspec.structs.replace(run.info, run_id=RunId(77)))
    assert await stage.store.claim_announced(lease, unknown, turn(1)) is UNSURE


@behaviour
async def test_a_worker_without_a_lease_claims_nothing_that_was_announced(stage: Stage) -> None:
    lease = await stage.worker()
    run_id = (await stage.start()).run_id
    await stage.store.resign(lease)
    with pytest.raises(LeaseLostError):
        await stage.store.claim_announced(lease, await announced(stage.store, run_id), turn(1))
    assert (await stage.summary()).state is RunState.READY
