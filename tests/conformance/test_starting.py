"""Starting: one open run of an instance, one run of a key, and what turn 0 holds."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure.errors import PayloadError, RequestError
from perdure.model.events import WorkflowExecutionStarted
from perdure.model.runs import RunState
from tests.support.stores import NAMESPACE, Stage, behaviour, close, new_run, turn


@behaviour
async def test_a_new_run_is_ready_and_has_its_turn_0(stage: Stage) -> None:
    before = datetime.now(UTC) - timedelta(minutes=5)
    started = await stage.start(input=b'{"card":"4242"}', priority=3)
    assert started.created
    assert started.workflow == "order"
    summary = await stage.summary()
    assert (summary.run_id, summary.state, summary.phase) == (started.run_id, RunState.READY, "Pending")
    assert (summary.priority, summary.queue, summary.key, summary.worker) == (3, "default", None, None)
    assert before < summary.created_at < before + timedelta(minutes=10)
    (event,) = await stage.store.history(started.run_id)
    assert (event.id, event.turn, event.time) == (1, 0, summary.created_at)
    assert isinstance(event.event, WorkflowExecutionStarted)
    assert (event.event.workflow, bytes(event.event.input), event.event.seed) == ("order", b'{"card":"4242"}', "seed")


@behaviour
async def test_starting_an_open_instance_again_returns_its_run(stage: Stage) -> None:
    first = await stage.start()
    second = await stage.start(workflow="another", queue="elsewhere")
    assert (second.run_id, second.created, second.workflow) == (first.run_id, False, "order")
    assert await stage.types(first.run_id) == ["WorkflowExecutionStarted"]


@behaviour
async def test_an_id_is_free_again_when_its_run_has_closed(stage: Stage) -> None:
    lease = await stage.worker()
    first = await stage.owned(lease)
    await stage.flush(lease, first, turn(1), close())
    second = await stage.start()
    assert second.created
    assert second.run_id > first
    assert (await stage.summary()).run_id == second.run_id
    old = await stage.store.describe(NAMESPACE, "order-1", first)
    assert old is not None
    assert old.state is RunState.COMPLETED


@behaviour
async def test_ids_are_unique_in_their_namespace_only(stage: Stage) -> None:
    first = await stage.start()
    second = await stage.start(namespace="neighbour")
    assert second.created
    assert second.run_id != first.run_id


@behaviour
async def test_a_key_that_was_ever_used_returns_its_run(stage: Stage) -> None:
    lease = await stage.worker()
    first = await stage.owned(lease, key="uid-1")
    await stage.flush(lease, first, turn(1), close())
    again = await stage.start(key="uid-1")
    assert (again.run_id, again.created) == (first, False)
    elsewhere = await stage.start("order-2", namespace="neighbour", key="uid-1")
    assert (elsewhere.run_id, elsewhere.created) == (first, False)


@behaviour
async def test_a_key_goes_before_an_open_instance_of_the_same_id(stage: Stage) -> None:
    keyed = await stage.start("order-1", key="uid-1")
    await stage.start("order-2")
    found = await stage.start("order-2", key="uid-1")
    assert found.run_id == keyed.run_id


@behaviour
async def test_concurrent_starts_of_one_id_give_one_run(stage: Stage) -> None:
    stores = [stage.store, *[await stage.another() for _ in range(3)]]
    for round_number in range(10):
        started = await asyncio.gather(*(store.start(new_run(f"order-{round_number}")) for store in stores * 2))
        assert len({answer.run_id for answer in started}) == 1
        assert sum(answer.created for answer in started) == 1


@behaviour
async def test_concurrent_starts_of_one_key_give_one_run(stage: Stage) -> None:
    stores = [stage.store, *[await stage.another() for _ in range(3)]]
    started = await asyncio.gather(
        *(store.start(new_run(f"order-{number}", key="uid-1")) for number, store in enumerate(stores * 3))
    )
    assert len({answer.run_id for answer in started}) == 1
    assert sum(answer.created for answer in started) == 1


@behaviour
async def test_a_large_input_comes_back_whole(stage: Stage) -> None:
    large = b'"' + b"x" * 200_000 + b'"'
    started = await stage.start(input=large)
    (event,) = await stage.store.history(started.run_id)
    assert isinstance(event.event, WorkflowExecutionStarted)
    assert bytes(event.event.input) == large
    assert event.event.external == 0
    claimed = await stage.claim_one(await stage.worker())
    first = claimed.history[0].events[0]
    assert isinstance(first, WorkflowExecutionStarted)
    assert bytes(first.input) == large


@behaviour
async def test_a_timeout_becomes_a_deadline_on_the_clock_of_the_store(stage: Stage) -> None:
    await stage.start(timeout=90.5)
    claimed = await stage.claim_one(await stage.worker())
    assert claimed.deadline == claimed.created_at + 90_500_000


@behaviour
async def test_a_run_without_a_timeout_has_no_deadline(stage: Stage) -> None:
    await stage.start()
    assert (await stage.claim_one(await stage.worker())).deadline is None


@behaviour
async def test_what_cannot_be_stored_is_refused_with_a_reason(stage: Stage) -> None:
    with pytest.raises(PayloadError, match="NUL"):
        await stage.start("order\0-1")
    with pytest.raises(PayloadError, match="surrogate"):
        await stage.start("order-\ud800")
    with pytest.raises(PayloadError, match="not JSON"):
        await stage.start(input=b"[1")
    assert (await stage.start()).created


UNSTORABLE: list[tuple[dict[str, Any], str]] = [
    ({"priority": 2**31}, "the priority .* from -2,147,483,648 to 2,147,483,647, not 2147483648"),
    ({"priority": -(2**31) - 1}, "the priority"),
    ({"priority": 1.5}, "the priority"),
    ({"priority": True}, "the priority"),
    ({"priority": "high"}, "the priority"),
    (
        {"timeout": float("inf")},
        "the timeout of .* must be a timedelta or a number of seconds above 0, at most a hundred years",
    ),
    ({"timeout": 1e300}, "timeout"),
    ({"timeout": "1m"}, "timeout"),
    ({"queue": 7}, "7 is no text; pass a str"),
    ({"workflow": len}, "is no text"),
    ({"seed": "half \ud800"}, "remove it"),
    ({"input": 7}, "not JSON"),
]


@behaviour
async def test_what_cannot_be_stored_is_refused_alone_and_never_those_that_start_beside_it(stage: Stage) -> None:
    for number, (wrong, words) in enumerate(UNSTORABLE):
        asked = [new_run(f"{number}-before"), new_run(f"{number}-wrong", **wrong), new_run(f"{number}-after")]
        before, refused, after = await asyncio.gather(*map(stage.store.start, asked), return_exceptions=True)
        assert not isinstance(before, BaseException), wrong
        assert not isinstance(after, BaseException), wrong
        with pytest.raises(RequestError, match=words):
            raise refused if isinstance(refused, BaseException) else AssertionError(wrong)


@behaviour
async def test_a_priority_may_be_as_high_and_as_low_as_its_column(stage: Stage) -> None:
    for priority in (-(2**31), 2**31 - 1):
        await stage.start(f"order-{priority}", priority=priority)
    claimed = await stage.store.claim(await stage.worker(), 10)
    assert [run.info.id for run in claimed] == [f"order-{2**31 - 1}", f"order-{-(2**31)}"]


@behaviour
async def test_a_run_gets_the_key_of_another_object(stage: Stage) -> None:
    started = await stage.start("order-1", key="lost")
    for _ in range(2):
        await stage.store.adopt(started.run_id, "restored")
    assert [run.run_id for run in await stage.store.by_key(["lost", "restored"])] == [started.run_id]
    assert not (await stage.start("order-1", key="restored")).created
    assert {change.run.key for change in await stage.store.status_changes(10)} == {"restored"}
