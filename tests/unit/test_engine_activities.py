"""Activities and asyncio inside workflows, as the engine sees them: events in, commands out."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from perdure import ActivityError, activity, workflow
from perdure.errors import DefinitionError
from perdure.model.events import (
    ActivityFailed,
    Failure,
    WorkflowExecutionCancelled,
    WorkflowExecutionFailed,
)
from tests.support.engine import Script, all_events, kinds, spelled

TRACE: list[Any] = []


@pytest.fixture(autouse=True)
def _fresh_trace() -> Iterator[None]:
    TRACE.clear()
    yield
    TRACE.clear()


@activity.define
async def step(number: int) -> int:
    return number


@activity.define
def other(number: int) -> int:
    return number


@workflow.define
async def sequence(count: int) -> int:
    total = 0
    for number in range(count):
        total += await step(number)
    return total


@activity.define
async def Activity1(left: int, right: int) -> int:  # noqa: N802
    return left + right


@activity.define
async def Activity2() -> int:  # noqa: N802
    return 12


@workflow.define
async def Workflow1(msg: str, times: int, inputs: list[int]) -> int:  # noqa: N802
    first = await Activity1(35, 12)
    second = await Activity2()
    return first + second


def test_what_is_no_name_of_an_activity_is_refused_where_it_is_called() -> None:
    @workflow.define
    async def calls() -> str:
        with pytest.raises(DefinitionError, match="the name of an activity must be a str, not 7"):
            await workflow.execute_activity(7)  # type: ignore[arg-type]  # that is the point
        return "refused"

    assert Script(calls).finish(lambda _: None) == "refused"


def test_the_seed_article_leaves_the_history_that_it_prints() -> None:
    script = Script(Workflow1, "hello", 1, [1, 2])
    assert script.finish(lambda call: 47 if call.name == "Activity1" else 12) == 59
    assert kinds(all_events(script)) == [
        "WorkflowExecutionStarted",
        "ActivityScheduled",
        "ActivityCompleted",
        "ActivityScheduled",
        "ActivityCompleted",
        "WorkflowExecutionCompleted",
    ]


def test_each_turn_emits_what_the_code_asks_for_next() -> None:
    script = Script(sequence, 2)
    assert spelled(script.turn().commands) == ["ActivityScheduled 1 step"]
    assert spelled(script.complete((1, 5)).commands) == ["ActivityScheduled 2 step"]
    decision = script.complete((2, 6))
    assert spelled(decision.commands) == ["WorkflowExecutionCompleted"]
    assert Script.outcome(decision) == 11


def test_every_prefix_of_a_history_replays_to_the_same_point() -> None:
    script = Script(sequence, 20)
    script.finish(lambda call: call.seq)
    for turns in range(1, len(script.rows)):
        run = script.replayed(turns=turns)
        assert run.turns == turns
        assert list(run.activities) == ([turns - 1] if turns > 1 else [])
        run.evict()


def test_an_activity_that_arrives_twice_counts_once() -> None:
    script = Script(sequence, 2)
    script.turn()
    script.complete((1, 5))
    again = script.complete((1, 99))
    assert again.turn is None
    assert Script.outcome(script.complete((2, 6))) == 11


@workflow.define
async def gathered(count: int) -> list[int]:
    return list(await asyncio.gather(*(step(number) for number in range(count))))


def test_gather_schedules_in_call_order_and_returns_in_call_order() -> None:
    script = Script(gathered, 3)
    assert spelled(script.turn().commands) == [f"ActivityScheduled {seq} step" for seq in (1, 2, 3)]
    script.complete((3, 30))
    script.complete((1, 10))
    assert Script.outcome(script.complete((2, 20))) == [10, 20, 30]


@workflow.define
async def grouped() -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(step(number)) for number in range(3)]
    return [task.result() for task in tasks]


def test_a_task_group_takes_activity_calls() -> None:
    script = Script(grouped)
    assert script.finish(lambda call: call.seq * 10) == [10, 20, 30]


@workflow.define
async def grouped_failure() -> str:
    caught = "no error"
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(step(1))
            group.create_task(step(2))
    except* ActivityError as errors:
        caught = str(errors.exceptions[0])
    return caught


def test_a_failure_in_a_task_group_cancels_its_siblings() -> None:
    script = Script(grouped_failure)
    script.turn()
    decision = script.turn(ActivityFailed(1, Failure("ValueError", "broken"), 3))
    assert spelled(decision.commands) == ["ActivityCancelRequested 2", "WorkflowExecutionCompleted"]
    assert Script.outcome(decision) == "activity step failed after 3 attempts: ValueError: broken"


@workflow.define
async def catching() -> dict[str, Any]:
    try:
        return {"ok": await step(1)}
    except ActivityError as error:
        return {"type": error.type, "activity": error.activity, "cause": str(error.__cause__)}


def test_a_failed_activity_raises_where_it_is_awaited() -> None:
    script = Script(catching)
    script.turn()
    assert Script.outcome(script.fail(1)) == {"type": "ValueError", "activity": "step", "cause": "ValueError: broken"}


def test_a_failure_that_nobody_catches_fails_the_run_with_its_cause() -> None:
    script = Script(sequence, 1)
    script.turn()
    closing = script.fail(1).closing
    assert isinstance(closing, WorkflowExecutionFailed)
    assert closing.failure.type == "ActivityError"
    assert "test_engine_activities.py" in closing.failure.traceback
    assert closing.failure.cause is not None
    assert closing.failure.cause.type == "ValueError"


@workflow.define
async def bad_result() -> object:
    return object()


def test_a_result_that_cannot_be_recorded_fails_the_run() -> None:
    closing = Script(bad_result).turn().closing
    assert isinstance(closing, WorkflowExecutionFailed)
    assert closing.failure.type == "PayloadError"


def test_input_that_does_not_fit_fails_the_run_and_names_the_field() -> None:
    script = Script(sequence, "many")
    closing = script.turn().closing
    assert isinstance(closing, WorkflowExecutionFailed)
    assert closing.failure.message == "the input does not fit sequence(count): Expected `int`, got `str` - at `$[0]`"


@workflow.define
async def racing() -> list[str]:
    calls = {asyncio.ensure_future(step(number)): number for number in range(20)}
    order: list[str] = []
    waiting = set(calls)
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        order.extend(str(calls[future]) for future in done)
        for future in done:
            await other(calls[future])
    return order


def test_sets_of_futures_iterate_in_the_same_order_on_replay() -> None:
    script = Script(racing)
    result = script.finish(lambda call: call.seq)
    assert len(result) == 20
    for _ in range(10):
        script.replayed()


@workflow.define
async def coordinated() -> list[str]:
    lock, ready, queue = asyncio.Lock(), asyncio.Event(), asyncio.Queue[str]()

    async def worker(name: str) -> None:
        await ready.wait()
        async with lock:
            await step(0)
            await queue.put(name)

    async with asyncio.TaskGroup() as group:
        for name in "abc":
            group.create_task(worker(name))
        ready.set()
    return [queue.get_nowait() for _ in range(3)]


def test_lock_event_and_queue_work_and_replay() -> None:
    script = Script(coordinated)
    assert script.finish(lambda _: 0) == ["a", "b", "c"]
    script.replayed()


@workflow.define
async def cleaning() -> str:
    try:
        await step(1)
    finally:
        await other(2)
    return "not cancelled"


def test_cancelling_a_run_lets_its_cleanup_run_activities() -> None:
    script = Script(cleaning)
    script.turn()
    decision = script.cancel("enough")
    assert spelled(decision.commands) == ["ActivityCancelRequested 1", "ActivityScheduled 2 other"]
    closing = script.complete((2, 0)).closing
    assert closing == WorkflowExecutionCancelled("enough")
    script.replayed()


def test_a_cancel_that_comes_with_the_start_reaches_the_first_await() -> None:
    script = Script(cleaning)
    decision = script.cancel()
    assert spelled(decision.commands) == [
        "ActivityScheduled 1 step",
        "ActivityCancelRequested 1",
        "ActivityScheduled 2 other",
    ]


def test_only_the_first_cancel_request_counts() -> None:
    script = Script(cleaning)
    script.turn()
    script.cancel()
    assert script.cancel().turn is None


@workflow.define
async def shielded() -> int:
    inner = asyncio.ensure_future(step(1))
    try:
        return await asyncio.shield(inner)
    except asyncio.CancelledError:
        return await inner


def test_a_shielded_activity_survives_the_cancellation() -> None:
    script = Script(shielded)
    script.turn()
    assert script.cancel().commands == ()
    assert Script.outcome(script.complete((1, 8))) == 8


def test_an_activity_that_is_cancelled_in_its_own_turn_is_not_pending() -> None:
    @workflow.define
    async def impatient() -> str:
        task = asyncio.ensure_future(step(1))
        task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            return "cancelled"
        return "done"

    script = Script(impatient)
    decision = script.turn()
    assert spelled(decision.commands)[:2] == ["ActivityScheduled 1 step", "ActivityCancelRequested 1"]
    assert Script.outcome(decision) == "cancelled"
    assert script.run.activities == {}


@workflow.define
async def stubborn_cleanup() -> None:
    try:
        await step(1)
    finally:
        TRACE.append("finally")
        await other(2)
        TRACE.append("never")


def test_eviction_runs_no_command_of_a_finally_block() -> None:
    script = Script(stubborn_cleanup)
    script.turn()
    assert script.run.evict() == []
    assert TRACE == ["finally"]


@workflow.define
async def never_ends() -> None:
    while True:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            TRACE.append("ignored")


def test_a_run_that_has_not_begun_is_evicted_in_silence() -> None:
    script = Script(stubborn_cleanup)
    assert script.run.evict() == []


def test_eviction_closes_a_task_that_ignores_cancellation_and_names_it() -> None:
    script = Script(never_ends)
    script.turn()
    assert script.run.evict() == ["main"]


def test_what_is_closed_by_force_makes_no_activity_itself() -> None:
    @activity.define
    async def noted() -> None:
        TRACE.append("made")

    @workflow.define
    async def listens() -> None:
        try:
            while True:
                try:
                    await workflow.signal("word", str).receive()
                except asyncio.CancelledError:
                    TRACE.append("ignored")
        finally:
            TRACE.append("finally")
            await noted()

    script = Script(listens)
    script.turn()
    assert script.run.evict() == ["main"]
    assert TRACE[-1] == "finally"


def test_context_variables_and_task_names_are_the_runs_own() -> None:
    @workflow.define
    async def named() -> list[str]:
        async def name() -> str:
            task = asyncio.current_task()
            assert task is not None
            return task.get_name()

        return [await name(), await asyncio.create_task(name()), await asyncio.create_task(name())]

    assert Script.outcome(Script(named).turn()) == ["main", "task-1", "task-2"]
