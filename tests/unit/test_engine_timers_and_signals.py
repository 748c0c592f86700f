"""Durable time, signals, randomness and side effects, as the engine sees them."""

import asyncio
import logging
import uuid
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest

from perdure import activity, workflow
from perdure.model.events import ActivityCompleted, TimerFired, TimerStarted
from tests.support.engine import EPOCH, SECOND, Script, kinds, spelled

approve = workflow.signal("approve", bool)


@activity.define
async def step(number: int) -> int:
    return number


@workflow.define
async def sleeping(seconds: float) -> str:
    before = workflow.now()
    await asyncio.sleep(seconds)
    return str(workflow.now() - before)


def test_sleep_is_a_durable_timer_in_the_time_of_the_database() -> None:
    script = Script(sleeping, 90)
    (timer,) = script.turn().commands
    assert isinstance(timer, TimerStarted)
    assert timer.fire_at == script.now + 90 * SECOND
    assert Script.outcome(script.fire(1)) == "0:01:30"


def test_sleep_zero_is_not_a_timer() -> None:
    decision = Script(sleeping, 0).turn()
    assert kinds(decision.commands) == ["WorkflowExecutionCompleted"]


def test_a_timer_that_never_ends_is_as_late_as_a_timer_can_be_in_every_time_zone() -> None:
    (timer,) = Script(sleeping, 1e15).turn().commands
    assert isinstance(timer, TimerStarted)
    fire_at = datetime.fromtimestamp(timer.fire_at / SECOND, UTC)
    for hours in (-24, 0, 24):
        assert fire_at.astimezone(timezone(timedelta(hours=hours, minutes=-hours / 24))).year == 9999


@workflow.define
async def limited(seconds: float) -> str:
    try:
        async with asyncio.timeout(seconds):
            return str(await step(1))
    except TimeoutError:
        return "too late"


def test_a_timeout_that_fires_cancels_what_it_bounds() -> None:
    script = Script(limited, 30)
    assert spelled(script.turn().commands) == ["TimerStarted 1", "ActivityScheduled 2 step"]
    decision = script.fire(1)
    assert spelled(decision.commands) == ["ActivityCancelRequested 2", "WorkflowExecutionCompleted"]
    assert Script.outcome(decision) == "too late"
    script.replayed()


def test_a_timeout_that_is_not_needed_is_cancelled() -> None:
    script = Script(limited, 30)
    script.turn()
    decision = script.complete((2, 5))
    assert spelled(decision.commands) == ["TimerCancelled 1", "WorkflowExecutionCompleted"]
    script.replayed()


def test_a_result_and_a_timeout_in_one_turn_go_by_their_recorded_order() -> None:
    script = Script(limited, 30)
    script.turn()
    script.now += 60 * SECOND

    decision = script.turn(ActivityCompleted(2, msgspec.Raw(b"5")), TimerFired(1))
    first = Script.outcome(decision)
    script.replayed()
    assert first in ("5", "too late")


@workflow.define
async def waiting_for() -> str:
    try:
        return str(await asyncio.wait_for(step(1), timeout=5))
    except TimeoutError:
        return "too late"


@pytest.mark.parametrize("late", [True, False])
def test_wait_for_works_and_replays(late: bool) -> None:
    script = Script(waiting_for)
    script.turn()
    timer = next(iter(script.run.timers))
    activity_seq = next(iter(script.run.activities))
    decision = script.fire(timer) if late else script.complete((activity_seq, 7))
    while decision.closing is None:
        decision = script.turn()
    assert Script.outcome(decision) == ("too late" if late else "7")
    script.replayed()


@workflow.define
async def approved() -> Any:
    return await approve.receive()


def test_a_signal_that_arrives_before_anybody_waits_is_kept() -> None:
    script = Script(approved)
    assert Script.outcome(script.turn(script.signal("approve", True))) is True


def test_a_signal_that_does_not_fit_is_logged_and_skipped(caplog: pytest.LogCaptureFixture) -> None:
    script = Script(approved)
    script.turn()
    with caplog.at_level(logging.WARNING, "perdure.workflow"):
        assert script.turn(script.signal("approve", "perhaps")).closing is None
    assert "signal approve does not fit its declared type" in caplog.text
    assert Script.outcome(script.turn(script.signal("approve", False))) is False
    caplog.clear()
    script.replayed()
    assert caplog.text == "", "a replay says nothing twice"


def test_a_signal_that_is_delivered_twice_counts_once() -> None:
    @workflow.define
    async def two() -> list[int]:
        box = workflow.signal("box", int)
        return [await box.receive(), await box.receive()]

    script = Script(two)
    script.turn()
    message = script.signal("box", 1)
    script.turn(message)
    assert script.turn(message).turn is None
    assert Script.outcome(script.turn(script.signal("box", 2))) == [1, 2]


def test_signals_of_one_name_keep_their_order_and_names_do_not_mix() -> None:
    @workflow.define
    async def sorted_mail() -> list[str]:
        a, b = workflow.signal("a", str), workflow.signal("b", str)
        found = [await b.receive()]
        async for word in a:
            found.append(word)
            if word == "stop":
                break
        with pytest.raises(asyncio.QueueEmpty):
            a.receive_nowait()
        found.append(b.receive_nowait())
        return found

    script = Script(sorted_mail)
    script.turn(script.signal("a", "1"), script.signal("b", "x"), script.signal("a", "2"), script.signal("b", "y"))
    assert Script.outcome(script.turn(script.signal("a", "stop"))) == ["x", "1", "2", "stop", "y"]
    script.replayed()


def test_a_cancelled_waiter_takes_no_message() -> None:
    @workflow.define
    async def second_chance() -> bool:
        try:
            async with asyncio.timeout(1):
                return await approve.receive()
        except TimeoutError:
            return await approve.receive()

    script = Script(second_chance)
    script.turn()
    script.now += 2 * SECOND
    decision = script.turn(TimerFired(1), script.signal("approve", True))
    assert Script.outcome(decision) is True


@workflow.define
async def lucky() -> list[str]:
    return [str(workflow.uuid4()), str(workflow.random().random()), str(workflow.uuid4())]


@workflow.define(name="lucky")
async def lucky_with_more_randomness() -> list[str]:
    first = str(workflow.uuid4())
    workflow.random().random()
    return [first, str(workflow.random().random()), str(workflow.uuid4())]


def test_randomness_comes_from_the_seed_and_streams_do_not_disturb_each_other() -> None:
    result = Script.outcome(Script(lucky).turn())
    assert Script.outcome(Script(lucky).turn()) == result
    assert Script.outcome(Script(lucky, seed="another").turn()) != result
    changed = Script.outcome(Script(lucky_with_more_randomness).turn())
    assert changed[2] == result[2]
    assert changed[1] != result[1]
    assert uuid.UUID(result[0]).version == 4


def test_info_tells_the_run_about_itself() -> None:
    @workflow.define
    async def curious() -> list[str]:
        info = workflow.info()
        return [info.id, info.namespace, info.queue, info.workflow, info.start_time.isoformat(), info.build_id]

    expected = datetime.fromtimestamp(EPOCH / SECOND, UTC).isoformat()
    assert Script.outcome(Script(curious).turn()) == ["it", "default", "default", "curious", expected, "build"]


def test_set_status_is_part_of_the_decision_and_not_of_the_history() -> None:
    @workflow.define
    async def telling() -> None:
        workflow.set_status("packing", "1/2")
        workflow.set_status("packing", "2/2")
        await asyncio.sleep(1)

    script = Script(telling)
    decision = script.turn()
    assert decision.visible is not None
    assert decision.visible.progress == "2/2"
    assert script.fire(1).visible is None


def test_time_never_goes_back_within_a_run() -> None:
    script = Script(sleeping, 5)
    script.turn()
    script.now -= 100 * SECOND
    (handle,) = script.run.timers.values()
    decision = script.turn(TimerFired(handle.seq))
    assert timedelta() <= _parse(Script.outcome(decision))


def _parse(text: str) -> timedelta:
    hours, minutes, seconds = text.split(":")
    return timedelta(hours=int(hours), minutes=int(minutes), seconds=float(seconds))
