"""Async generators of workflows: one that is left early is closed within the turn, and never outside of a turn."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator

import pytest

from perdure import activity, workflow
from perdure.model.events import ActivityScheduled
from tests.support.engine import Script, spelled

released: list[str] = []


@activity.define
async def release(name: str) -> str:
    released.append(name)
    return name


@activity.define
async def step(number: int) -> int:
    return number


async def pages(name: str) -> AsyncIterator[int]:
    try:
        for number in range(10):
            yield await step(number)
    finally:
        await release(name)


@workflow.define
async def leaving_early() -> int:
    async for page in pages("cursor"):
        if page == 1:
            break
    await asyncio.sleep(1)
    return page


def test_a_generator_that_is_left_early_is_closed_and_its_last_step_is_recorded() -> None:
    script = Script(leaving_early)
    script.turn()
    script.complete((1, 0))
    decision = script.complete((2, 1))
    assert spelled(decision.commands) == ["TimerStarted 3", "ActivityScheduled 4 release"]
    script.complete((4, "cursor"))
    assert script.outcome(script.fire(3)) == 1
    assert script.replayed().closed


def test_a_generator_that_fails_its_reader_is_closed_too() -> None:
    @workflow.define
    async def failing() -> str:
        try:
            async for page in pages("cursor"):
                raise ValueError(page)
        except ValueError as error:
            caught = str(error)
        await asyncio.sleep(1)
        return caught

    script = Script(failing)
    script.turn()
    decision = script.complete((1, 7))
    assert spelled(decision.commands) == ["TimerStarted 2", "ActivityScheduled 3 release"]
    assert script.fire(2).closing is None
    assert script.outcome(script.complete((3, "cursor"))) == "7"
    assert script.replayed().closed


def test_a_run_that_is_given_up_closes_its_generators_without_a_step() -> None:
    ended: list[str] = []

    async def numbers() -> AsyncIterator[int]:
        try:
            yield 1
        finally:
            ended.append("began to")
            await release("numbers")
            ended.append("never")

    @workflow.define
    async def waiting() -> None:
        async for _ in numbers():
            await asyncio.sleep(10)

    script = Script(waiting)
    script.turn()
    before = list(released)
    assert script.run.evict() == []
    assert ended == ["began to"]
    assert released == before


class Reader:
    """Holds itself: only the garbage collector finds it."""

    def __init__(self, name: str) -> None:
        self.pages, self.itself = pages(name), self


def test_a_generator_that_is_found_in_the_turn_of_another_run_is_closed_at_the_end_of_its_own() -> None:
    @workflow.define
    async def forgetting() -> int:
        page = await anext(Reader("forgotten").pages)
        await asyncio.sleep(1)
        return page

    @workflow.define
    async def collecting() -> int:
        return gc.collect()

    script = Script(forgetting)
    script.turn()
    script.complete((1, 5))
    before, callbacks = list(released), gc.callbacks[:]
    gc.callbacks.clear()  # those of a test tool may look at the clock
    try:
        assert spelled(Script(collecting).turn().commands) == ["WorkflowExecutionCompleted"]
    finally:
        gc.callbacks[:] = callbacks
    assert spelled(script.fire(2).commands) == ["ActivityScheduled 3 release"]
    assert released == before
    assert script.outcome(script.complete((3, "forgotten"))) == 5
    assert script.replayed().closed


@pytest.mark.parametrize("collect", [False, True], ids=["in memory", "collected"])
def test_at_the_end_of_a_workflow_its_generators_are_closed_in_the_order_in_which_they_began(*, collect: bool) -> None:
    """Whether the garbage collector came meanwhile or not, which is not the same in a replay."""

    @workflow.define
    async def reading() -> int:
        readers = [Reader("first"), Reader("second"), Reader("third")]
        for reader in readers:
            await anext(reader.pages)
        del readers[1:], reader
        await asyncio.sleep(1)
        return len(readers)

    script = Script(reading)
    script.turn()
    for seq in (1, 2, 3):
        script.complete((seq, 0))
    if collect:
        gc.collect()
    decision = script.fire(4)
    scheduled = [json.loads(bytes(c.input))[0] for c in decision.commands if isinstance(c, ActivityScheduled)]
    assert scheduled == ["first", "second", "third"]
    assert script.outcome(script.complete((5, ""), (6, ""), (7, ""))) == 1
    assert script.replayed().closed


def test_a_cancelled_workflow_ends_when_its_generators_are_closed() -> None:
    @workflow.define
    async def waiting() -> None:
        async for _ in pages("cancelled"):
            await asyncio.sleep(100)

    script = Script(waiting)
    script.turn()
    script.complete((1, 1))
    assert spelled(script.cancel().commands) == ["TimerCancelled 2", "ActivityScheduled 3 release"]
    assert spelled(script.complete((3, "")).commands) == ["WorkflowExecutionCancelled"]
    assert script.replayed().closed


def test_generators_that_came_to_their_end_are_not_remembered_for_ever() -> None:
    async def one(number: int) -> AsyncIterator[int]:
        yield number

    @workflow.define
    async def many() -> int:
        count = 0
        for number in range(10_000):
            async for _ in one(number):
                count += 1
        await asyncio.sleep(1)
        return count

    script = Script(many)
    script.turn()
    generators = script.run.loop.generators
    assert generators is not None
    assert len(generators._known) <= 64
    assert script.outcome(script.fire(1)) == 10_000
