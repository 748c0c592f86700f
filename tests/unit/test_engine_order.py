"""The order in which a run does things, and in which it is told of its end: the same on replay."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from perdure import activity, workflow
from perdure.errors import DeterminismViolation
from perdure.model.events import ActivityCompleted, ActivityScheduled, TurnHeader, WorkflowExecutionFailed
from perdure.runtime import guard
from tests.support.engine import Script, spelled

guard.install()


@activity.define
async def step(number: int) -> int:
    return number


@workflow.define
async def crowds() -> str:
    crowd = {asyncio.gather(step(2 * place), step(2 * place + 1)): place for place in range(6)}
    done, _ = await asyncio.wait(crowd)
    return "".join(str(crowd[gathered]) for gathered in done)


def test_sets_of_what_gather_returns_iterate_in_the_same_order_on_replay() -> None:
    script = Script(crowds)
    script.turn()
    decision = script.complete(*((seq, seq) for seq in range(1, 13)))
    expected, between = Script.outcome(decision), list[object]()
    script.rows.pop()
    for number in range(20):
        between.append([object() for _ in range(37 * number)])  # so that objects come to lie elsewhere
        again = script.replayed()
        between.append(again)
        answers = [ActivityCompleted(seq, msgspec.Raw(b"%d" % seq)) for seq in range(1, 13)]
        assert Script.outcome(again.turn(TurnHeader(time=script.now), answers)) == expected


@workflow.define
async def cancelling_all() -> None:
    async def one(number: int) -> None:
        await step(number)

    tasks: list[asyncio.Task[None]] = []
    for number in range(12):
        tasks.append(asyncio.create_task(one(number)))
        for _ in range(31):
            asyncio.get_running_loop().create_future()
    await asyncio.sleep(0)
    for task in asyncio.all_tasks():
        if task is not asyncio.current_task():
            task.cancel()
    await asyncio.sleep(1)


def test_all_tasks_are_in_the_same_order_on_replay() -> None:
    script = Script(cancelling_all)
    script.turn()
    others = [Script(cancelling_all, seed=str(number)) for number in range(30)]
    for other in others:
        other.turn()
        script.replayed()


def test_an_activity_whose_task_is_cancelled_before_it_began_is_cancelled() -> None:
    @workflow.define
    async def empty_basket() -> str:
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(step(1))
                group.create_task(step(2))
                raise ValueError
        except* ValueError:
            pass
        await asyncio.sleep(1)
        return "nothing was charged"

    script = Script(empty_basket)
    commands = spelled(script.turn().commands)
    assert commands[2:4] == ["ActivityCancelRequested 1", "ActivityCancelRequested 2"]
    assert script.run.activities == {}
    assert script.replayed().activities == {}


def test_an_activity_that_a_task_group_takes_no_more_says_so_as_for_a_coroutine() -> None:
    @workflow.define
    async def too_late() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(step(1))
        group.create_task(step(2))

    script = Script(too_late)
    script.turn()
    decision = script.complete((1, 1))
    assert isinstance(decision.closing, WorkflowExecutionFailed)
    assert "is finished" in decision.closing.failure.message


@pytest.mark.parametrize("wait", [asyncio.wait, lambda made: list(asyncio.as_completed(made))])
def test_futures_whose_sets_have_no_order_that_lasts_are_refused_where_they_would_come_in_one(wait: Any) -> None:
    @workflow.define
    async def odd() -> None:
        made: asyncio.Future[int] = asyncio.Future()
        await wait([asyncio.get_running_loop().create_future(), made])

    script = Script(odd)
    with pytest.raises(DeterminismViolation, match=r"use asyncio\.get_running_loop\(\)\.create_future\(\)"):
        script.turn()
    script.run.evict()


def test_tasks_that_were_about_to_go_on_learn_that_their_run_is_given_up() -> None:
    ended: list[str] = []

    async def good(number: int) -> None:
        try:
            await step(number)
            await asyncio.sleep(0)
            await step(number)
        except asyncio.CancelledError:
            ended.append(f"good {number}")
            raise

    async def bad() -> None:
        await step(1)
        open("/etc/hostname")  # noqa: ASYNC230, PTH123, SIM115

    @workflow.define
    async def several() -> None:
        await asyncio.gather(bad(), good(2), good(3))

    script = Script(several)
    script.turn()
    with pytest.raises(DeterminismViolation):
        script.complete((1, 1), (2, 2), (3, 3))
    assert script.run.evict() == []
    assert ended == ["good 2", "good 3"]


@workflow.define
async def in_order_of_completion() -> list[int]:
    async def one(number: int) -> int:
        return await step(number)

    return [await future for future in asyncio.as_completed([one(number) for number in range(10)])]


def test_as_completed_starts_its_coroutines_in_the_order_given() -> None:
    script = Script(in_order_of_completion)
    decision = script.turn()
    inputs = [bytes(call.input) for call in decision.commands if isinstance(call, ActivityScheduled)]
    assert inputs == [b"[%d]" % number for number in range(10)]
    for seq in (7, 2, 10, 1, 3, 4, 5, 6, 8):
        script.complete((seq, seq))
    assert Script.outcome(script.complete((9, 9))) == [7, 2, 10, 1, 3, 4, 5, 6, 8, 9]


def test_what_runs_would_share_holds_the_run_that_waits_for_it() -> None:
    lock, event, queue = asyncio.Lock(), asyncio.Event(), asyncio.PriorityQueue[int]()

    async def hold() -> None:
        async with lock:
            await step(1)

    waits: list[tuple[str, Callable[[], Awaitable[object]]]] = [
        ("Lock", hold), ("Event", event.wait), ("PriorityQueue", queue.get),
    ]  # fmt: skip

    @workflow.define
    async def waiting(number: int) -> None:
        await waits[number][1]()

    Script(waiting, 0).turn()
    for number, (name, _) in enumerate(waits):
        with pytest.raises(
            DeterminismViolation, match=rf"an asyncio\.{name} that was made outside .*; make it in the run"
        ):
            Script(waiting, number).turn()


def test_what_a_run_made_for_itself_is_waited_for() -> None:
    @workflow.define
    async def meets() -> list[int]:
        lock, queue, barrier = asyncio.Lock(), asyncio.Queue[int](1), asyncio.Barrier(3)
        changed = asyncio.Condition(lock)

        async def one(number: int) -> None:
            await barrier.wait()
            async with changed:
                await step(number)
                changed.notify_all()
            await queue.put(number)

        async with asyncio.TaskGroup() as group:
            for number in range(3):
                group.create_task(one(number))
            async with changed:
                await changed.wait()
            return [await queue.get() for _ in range(3)]

    assert sorted(Script(meets).finish(lambda _: 0)) == [0, 1, 2]
