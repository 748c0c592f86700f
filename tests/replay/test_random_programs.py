"""Random programs under random events: a replay stands exactly where the live run stood, after every turn.

A program is a tree of what workflows do: steps, sleeps, limits, races, groups, signals, shields, cleanup. Hypothesis
draws the program and the order in which the world answers; whatever it draws, code and history may not part.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from perdure import ActivityError, ApplicationError, activity, workflow
from perdure.engine.run import Run
from perdure.model.events import (
    ActivityAttemptFailed,
    ActivityCompleted,
    ActivityFailed,
    Failure,
    Incoming,
    TimerFired,
    WorkflowExecutionCancelRequested,
)
from perdure.runtime import guard
from tests.support.engine import Script

Program = list[Any]

guard.install()


@activity.define
async def step(number: int) -> int:
    return number


async def pages(program: Program) -> AsyncIterator[Any]:
    try:
        while True:
            yield await perform(program)
    finally:
        await step(8)


def missing() -> str:
    raise KeyError("HOST")


async def perform(program: Program) -> Any:  # noqa: C901, PLR0911, PLR0912  # one case for each thing that a workflow can do
    match program:
        case ["step", number]:
            try:
                return await step(number)
            except ActivityError as error:
                return error.type
        case ["sleep", seconds]:
            await asyncio.sleep(seconds)
            return "slept"
        case ["signal", name]:
            return await workflow.signal(name, int).receive()
        case ["sequence", *parts]:
            return [await perform(part) for part in parts]
        case ["gather", *parts]:
            return await asyncio.gather(*(perform(part) for part in parts))
        case ["group", *parts]:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(perform(part)) for part in parts]
            return [task.result() for task in tasks]
        case ["race", *parts]:
            tasks = [asyncio.create_task(perform(part)) for part in parts]
            done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in pending:
                task.cancel()
            await asyncio.gather(*pending, return_exceptions=True)
            return [task.result() for task in done]
        case ["limit", seconds, part]:
            try:
                async with asyncio.timeout(seconds):
                    return await perform(part)
            except TimeoutError:
                return "too late"
        case ["shield", part]:
            return await asyncio.shield(perform(part))
        case ["finally", part, cleanup]:
            try:
                return await perform(part)
            finally:
                await perform(cleanup)
        case _:
            return await perform_odd(program)


async def perform_odd(program: Program) -> Any:
    """What is easily forgotten: sets, tasks that nobody waits for, what is left in the middle, what fails."""
    match program:
        case ["crowd", *parts]:
            crowd: dict[Any, int] = {
                asyncio.gather(step(4), perform(part), return_exceptions=True): place
                for place, part in enumerate(parts)
            }
            done, pending = await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
            return [await step(crowd[one]) for one in [*done, *pending]]
        case ["rest", part]:
            asyncio.get_running_loop().create_task(perform(part))
            return [task.get_name() for task in asyncio.all_tasks()]
        case ["no group", *parts]:
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in parts:
                        group.create_task(step(5))
                    raise ValueError(parts)
            except* ValueError:
                pass
            return "no group"
        case ["pages", part]:
            async for page in pages(part):
                return page
        case ["missing"]:
            try:
                return workflow.side_effect(missing)
            except ApplicationError as error:
                return error.type
        case ["draw"]:
            return [str(workflow.uuid4()), workflow.random().random(), workflow.side_effect(lambda: 7, int)]
    raise ValueError(program)


@workflow.define
async def interpreter(program: list[Any]) -> Any:
    return await perform(program)


leaves = st.one_of(
    st.tuples(st.just("step"), st.integers(0, 9)),
    st.tuples(st.just("sleep"), st.sampled_from([0, 1, 5, 60])),
    st.tuples(st.just("signal"), st.sampled_from(["a", "b"])),
    st.tuples(st.just("draw")),
    st.tuples(st.just("missing")),
).map(list)


def trees(inner: st.SearchStrategy[Program]) -> st.SearchStrategy[Program]:
    several = st.lists(inner, min_size=1, max_size=3)
    return st.one_of(
        st.tuples(st.sampled_from(["sequence", "gather", "group", "race", "crowd", "no group"]), several).map(
            lambda t: [t[0], *t[1]]
        ),
        st.tuples(st.just("limit"), st.sampled_from([1, 5, 60]), inner).map(list),
        st.tuples(st.sampled_from(["shield", "pages", "rest"]), inner).map(list),
        st.tuples(st.just("finally"), inner, inner).map(list),
    )


programs = st.recursive(leaves, trees, max_leaves=10)


def answers(run: Run, data: st.DataObject, script: Script) -> list[Incoming]:
    """Draw some of the things that could happen to the run now."""
    possible: list[Incoming] = []
    for seq, pending in run.activities.items():
        possible.append(ActivityCompleted(seq, msgspec.Raw(b"%d" % seq)))
        possible.append(ActivityFailed(seq, Failure("ValueError", "no")))
        possible.append(ActivityAttemptFailed(seq, pending.attempt, Failure("OSError", "again"), script.now))
    possible += [TimerFired(seq) for seq in run.timers]
    possible += [script.signal("a", 1), script.signal("b", 2)]
    if data.draw(st.integers(0, 15)) == 0:
        possible.append(WorkflowExecutionCancelRequested("drawn"))
    return data.draw(st.lists(st.sampled_from(possible), min_size=1, max_size=4))


def stand(run: Run) -> tuple[object, ...]:
    """Return everything by which two runs could differ later."""
    boxes = {name: (box.qsize(), len(box._getters)) for name, box in run.mailboxes.items()}  # type: ignore[attr-defined]
    streams = {purpose: stream.getstate() for purpose, stream in run.streams.items()}
    attempts = [(seq, pending.name, pending.attempt) for seq, pending in run.activities.items()]
    timers = [(seq, handle.fire_at) for seq, handle in run.timers.items()]
    return attempts, timers, boxes, streams, run._seq, run.closed, run.header, run.waiting_for()


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(programs, st.data())
def test_code_and_history_never_part(program: Program, data: st.DataObject) -> None:
    script = Script(interpreter, program)
    try:
        decision = script.turn()
        for _ in range(12):
            copy = script.replayed()
            copied = stand(copy)
            copy.evict()
            assert copied == stand(script.run)
            if decision.closing is not None:
                break
            decision = script.turn(*answers(script.run, data, script))
    finally:
        script.run.evict()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(programs, st.data())
def test_a_run_that_was_evicted_goes_on_as_if_it_had_not_been(program: Program, data: st.DataObject) -> None:
    hot = Script(interpreter, program)
    cold = Script(interpreter, program)
    try:
        hot_decision, cold_decision = hot.turn(), cold.turn()
        for _ in range(8):
            assert hot.rows == cold.rows
            assert (hot_decision.closing is None) == (cold_decision.closing is None)
            if hot_decision.closing is not None:
                break
            events = answers(hot.run, data, hot)
            cold.run.evict()
            cold.run = cold.replayed()
            hot_decision = hot.turn(*events)
            cold_decision = cold.turn(*events)
    finally:
        hot.run.evict()
        cold.run.evict()
