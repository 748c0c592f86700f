"""Old history on changed code: never completed wrongly, always held with an error that shows both sides."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from perdure import activity, workflow
from perdure.engine.replay import replay
from perdure.errors import (
    DeterminismViolation,
    EngineFault,
    NonDeterminismError,
    UnknownWorkflowError,
    UnreadableHistoryError,
)
from perdure.model.events import Turn, TurnHeader
from perdure.workflow import Workflow
from tests.support.engine import Script


@activity.define
async def charge(amount: int) -> str:
    return str(amount)


@activity.define
async def refund(amount: int) -> str:
    return str(amount)


@workflow.define(name="order")
async def original(amount: int) -> str:
    paid = await charge(amount)
    await asyncio.sleep(60)
    return paid


def variant(function: Callable[[int], Any]) -> Workflow[..., Any]:
    return workflow.define(name="order")(function)


async def another_activity(amount: int) -> str:
    await refund(amount)
    await asyncio.sleep(60)
    return "?"


async def another_kind(amount: int) -> str:
    await asyncio.sleep(60)
    return await charge(amount)


async def another_queue(amount: int) -> str:
    paid = await charge.options(queue="elsewhere")(amount)
    await asyncio.sleep(60)
    return paid


async def nothing_there(amount: int) -> str:
    await approve.receive()
    return str(amount)


async def returns_early(amount: int) -> str:
    return str(amount)


async def raises_early(amount: int) -> str:
    raise ValueError(amount)


async def one_more(amount: int) -> str:
    paid = await charge(amount)
    timer = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    await charge(amount)
    await timer
    return paid


async def one_less(amount: int) -> str:
    return await charge(amount)


async def swallows_everything(amount: int) -> str:
    try:
        await refund(amount)
    except BaseException:  # noqa: BLE001
        pass
    return "swallowed"


async def starts_another(amount: int) -> str:
    names = {"__name__": "odd_steps", "step": refund}
    exec(compile("async def refund(amount):\n    await step(amount)\n", "odd_steps.py", "exec"), names)
    await asyncio.create_task(names["refund"](amount))  # type: ignore[operator]  # it has been put there
    return ""


approve = workflow.signal("approve", bool)

CHANGES: dict[Any, tuple[str, str]] = {
    another_activity: ("ActivityScheduled #1 charge", "ActivityScheduled #1 refund"),
    another_kind: ("ActivityScheduled #1 charge", "TimerStarted #1"),
    another_queue: ("ActivityScheduled #1 charge", "ActivityScheduled #1 charge on queue elsewhere"),
    nothing_there: ("ActivityScheduled #1 charge", "nothing more in this turn"),
    returns_early: ("ActivityScheduled #1 charge", "WorkflowExecutionCompleted"),
    raises_early: ("ActivityScheduled #1 charge", "WorkflowExecutionFailed with ValueError: 12"),
    one_more: ("nothing more in this turn", "ActivityScheduled #3 charge"),
    one_less: ("TimerStarted #2", "WorkflowExecutionCompleted"),
    swallows_everything: ("ActivityScheduled #1 charge", "ActivityScheduled #1 refund"),
}


@pytest.mark.parametrize("changed", CHANGES, ids=lambda function: function.__name__)
def test_changed_code_is_caught_and_both_sides_are_shown(changed: Callable[[int], Any]) -> None:
    script = Script(original, 12)
    script.turn()
    script.complete((1, "12"))
    with pytest.raises(NonDeterminismError) as caught:
        script.replayed(variant(changed))
    recorded, emitted = CHANGES[changed]
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("the code of it (workflow order, run 1), turn")
    assert lines[1] == f"  history has   {recorded}"
    assert lines[2] == f"  the code has  {emitted}"
    script.run.evict()


@pytest.mark.parametrize(
    ("changed", "position"),
    [
        (another_activity, r"test_nondeterminism\.py:\d+ in another_activity"),
        (raises_early, r'test_nondeterminism\.py", line \d+, in raises_early'),
        (nothing_there, r"test_nondeterminism\.py:\d+ in nothing_there, where it waits"),
        (starts_another, r"odd_steps\.py:2 in refund"),
    ],
)
def test_the_position_in_the_code_is_named(changed: Callable[[int], Any], position: str) -> None:
    script = Script(original, 12)
    script.turn()
    with pytest.raises(NonDeterminismError, match=rf"  at            .*{position}\n"):
        script.replayed(variant(changed))
    script.run.evict()


def test_the_line_that_runs_the_worker_is_no_position_in_the_workflow() -> None:
    script = Script(original, 12)
    script.turn()
    with pytest.raises(NonDeterminismError) as caught:
        script.replayed(variant(returns_early))
    assert "  at  " not in str(caught.value)
    script.run.evict()


def test_code_that_does_the_same_again_goes_on_where_the_run_stood() -> None:
    script = Script(original, 12)
    script.turn()
    script.complete((1, "12"))
    script.run.evict()

    async def rewritten(amount: int) -> str:
        outcome = await asyncio.create_task(charge(amount))
        await asyncio.sleep(30 + 30)
        return outcome

    script.run = script.replayed(variant(rewritten))
    assert Script.outcome(script.fire(2)) == "12"


def test_an_activity_keeps_the_input_that_was_recorded_whatever_the_code_would_pass_today() -> None:
    script = Script(original, 12)
    script.turn()

    async def charges_twice_as_much(amount: int) -> str:
        paid = await charge(2 * amount)
        await asyncio.sleep(60)
        return paid

    run = script.replayed(variant(charges_twice_as_much))
    assert bytes(run.activities[1].input) == b"[12]"


def test_a_closed_history_replays_on_its_own_code_only() -> None:
    script = Script(original, 12)
    script.turn()
    script.complete((1, "12"))
    script.fire(2)
    assert script.replayed().closed

    async def goes_on(amount: int) -> str:
        paid = await charge(amount)
        await asyncio.sleep(60)
        return await refund(int(paid))

    with pytest.raises(NonDeterminismError, match="history has   WorkflowExecutionCompleted"):
        script.replayed(variant(goes_on))


def test_a_missing_turn_is_a_fault() -> None:
    script = Script(original, 12)
    script.turn()
    script.complete((1, "12"))
    history = script.history
    with pytest.raises(NonDeterminismError, match="turn 1 of it is missing"):
        replay(original, script.info, [history[0], history[2]])
    script.run.evict()


def test_the_history_of_another_workflow_is_refused() -> None:
    script = Script(original, 12)
    script.turn()
    with pytest.raises(UnknownWorkflowError, match="it runs workflow order, not other"):
        script.replayed(workflow.define(name="other")(original.function))
    script.run.evict()


def test_a_turn_under_rules_of_a_newer_release_is_not_replayed() -> None:
    script = Script(original, 12)
    script.turn()
    first, second = script.history
    newer = Turn(1, TurnHeader(time=second.header.time, flags=1 << 20), second.events)
    with pytest.raises(UnreadableHistoryError, match="newer release"):
        replay(original, script.info, [first, newer])
    script.run.evict()


@pytest.mark.parametrize("attempt", ["executor", "thread", "connection", "factory", "callback"])
def test_leaving_the_run_through_the_loop_is_a_violation_even_when_swallowed(attempt: str) -> None:
    async def leaving(amount: int) -> str:
        loop = asyncio.get_running_loop()
        try:
            match attempt:
                case "executor":
                    await loop.run_in_executor(None, print)
                case "thread":
                    await asyncio.to_thread(print)
                case "connection":
                    await asyncio.open_connection("127.0.0.1", 1)
                case "factory":
                    loop.set_task_factory(None)
                case _:
                    loop.call_soon_threadsafe(print)
        except Exception:  # noqa: BLE001
            return "swallowed"
        return "left"

    script = Script(variant(leaving), 1)
    with pytest.raises(DeterminismViolation, match="order: "):
        script.turn()
    script.run.evict()


def test_a_callback_that_raises_is_a_fault_and_not_a_log_line() -> None:
    async def careless(amount: int) -> str:
        asyncio.get_running_loop().call_soon(lambda: 1 / 0)
        await asyncio.sleep(1)
        return ""

    script = Script(variant(careless), 1)
    with pytest.raises(EngineFault, match="ZeroDivisionError"):
        script.turn()
    script.run.evict()


def test_system_exit_in_a_workflow_is_a_fault() -> None:
    async def leaving(amount: int) -> str:
        raise SystemExit(3)

    script = Script(variant(leaving), 1)
    with pytest.raises(EngineFault, match="SystemExit"):
        script.turn()
    script.run.evict()
