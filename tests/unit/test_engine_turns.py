"""What surrounds a turn: its header, and the collector of garbage."""

import asyncio
import gc

import msgspec
import pytest

from perdure import activity, workflow
from perdure.engine.replay import replay
from perdure.errors import NonDeterminismError
from perdure.model.events import ActivityCompleted, TurnHeader
from tests.support.engine import Script
from tests.support.world import run_async


@activity.define
async def step(number: int) -> int:
    return number


@workflow.define
async def sequence(count: int) -> int:
    return sum([await step(number) for number in range(count)])


def test_a_turn_in_which_nothing_happened_leaves_no_trace_in_the_next_header() -> None:
    script = Script(sequence, 1)
    script.turn()
    other = TurnHeader(time=script.now, build="other build", python="3.11", flags=1, worker="other worker")
    assert script.run.turn(other, ()).turn is None
    recorded = script.run.turn(other, (ActivityCompleted(1, msgspec.Raw(b"1")),)).turn
    assert recorded is not None
    assert (recorded.header.build, recorded.header.worker) == ("other build", "other worker")


def test_garbage_of_another_run_is_not_finalized_within_a_turn() -> None:
    """A run that was dropped without eviction holds `finally` blocks; collecting it must not emit into this run."""
    before = gc.isenabled()
    inside: list[bool] = []

    @workflow.define
    async def looking() -> None:
        inside.append(gc.isenabled())

    gc.enable()
    try:
        Script(looking).turn()
        assert inside == [False]
        assert gc.isenabled()
        gc.disable()
        Script(looking).turn()
        assert not gc.isenabled()
    finally:
        (gc.enable if before else gc.disable)()


@run_async
async def test_a_replay_leaves_the_event_loop_around_it_the_running_one() -> None:
    around, seen = asyncio.get_running_loop(), set[int]()

    @workflow.define
    async def looking(count: int) -> None:
        for number in range(count):
            seen.add(id(asyncio.get_running_loop()))
            await step(number)

    script = Script(looking, 3)
    script.turn()
    script.complete((1, 1))
    assert asyncio.get_running_loop() is around
    seen.clear()
    again = replay(looking, script.info, script.history)
    assert seen == {id(again.loop)}
    assert asyncio.get_running_loop() is around
    script.rows[2] = script.rows[1]
    with pytest.raises(NonDeterminismError):
        replay(looking, script.info, script.history)
    assert asyncio.get_running_loop() is around
    seen.clear()
    again.turn(TurnHeader(time=script.now), (ActivityCompleted(2, msgspec.Raw(b"1")),))
    assert seen == {id(again.loop)}


def test_the_logger_is_silent_while_a_run_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    @workflow.define
    async def careful() -> None:
        workflow.logger.warning("it begins")
        try:
            await step(1)
        finally:
            workflow.logger.warning("it is over")

    script = Script(careful)
    script.turn()
    script.run.evict()
    script.run = script.replayed()
    assert [record.getMessage() for record in caplog.records] == ["[it] it begins"]
    script.complete((1, 1))
    assert [record.getMessage() for record in caplog.records] == ["[it] it begins", "[it] it is over"]


def test_a_status_that_was_set_in_the_past_is_not_part_of_the_next_decision() -> None:
    @workflow.define
    async def telling() -> None:
        workflow.set_status("begun", "1/3")
        await step(1)
        await step(2)

    script = Script(telling)
    assert script.turn().visible is not None
    script.run = script.replayed()
    assert script.complete((1, 1)).visible is None
