"""Side effects: computed once, whatever comes of it, and apart from everything that a replay repeats."""

import asyncio
from collections.abc import Callable

import pytest

from perdure import ApplicationError, activity, workflow
from perdure.errors import DeterminismViolation
from perdure.model.events import SideEffectFailed, SideEffectRecorded
from tests.support.engine import Script, spelled


@activity.define
async def step(text: str) -> str:
    return text


def unset() -> str:
    raise KeyError("HOST")


def test_a_side_effect_is_computed_once() -> None:
    calls: list[int] = []

    def host() -> dict[str, str]:
        calls.append(1)
        return {"host": "a"}

    @workflow.define
    async def once() -> list[str]:
        value = workflow.side_effect(host)
        await asyncio.sleep(1)
        return [str(value)]

    script = Script(once)
    decision = script.turn()
    assert isinstance(decision.commands[0], SideEffectRecorded)
    assert bytes(decision.commands[0].value) == b'{"host":"a"}'
    script.replayed().evict()
    assert Script.outcome(script.fire(2)) == ["{'host': 'a'}"]
    assert calls == [1]


@pytest.mark.parametrize(("function", "kind"), [(unset, "KeyError"), (object, "PayloadError")], ids=["raises", "unfit"])
def test_what_a_side_effect_raises_is_recorded_and_raised_again(function: Callable[[], object], kind: str) -> None:
    @workflow.define
    async def careful() -> str:
        try:
            host = str(workflow.side_effect(function))
        except ApplicationError as error:
            host = error.type
        return await step(host)

    script = Script(careful)
    decision = script.turn()
    assert isinstance(decision.commands[0], SideEffectFailed)
    assert spelled(decision.commands[1:]) == ["ActivityScheduled 2 step"]
    script.run.evict()
    script.run = script.replayed()
    assert Script.outcome(script.complete((2, kind))) == kind
    assert kind in decision.commands[0].failure.type


@pytest.mark.parametrize(
    "function",
    [
        workflow.uuid4,
        workflow.random,
        lambda: step("inside"),
        lambda: workflow.side_effect(lambda: 1),
        lambda: workflow.set_status("inside"),
        lambda: workflow.signal("go", str).receive_nowait(),
    ],
    ids=["uuid4", "random", "activity", "side effect", "status", "signal"],
)
def test_the_function_of_a_side_effect_asks_its_workflow_for_nothing(function: Callable[[], object]) -> None:
    """It is not called on replay, where what it asked for would be missing."""

    @workflow.define
    async def nested() -> str:
        try:
            return str(workflow.side_effect(function))
        except Exception as error:  # noqa: BLE001
            return str(error)

    with pytest.raises(DeterminismViolation, match="is not called on replay"):
        Script(nested).turn()


def test_the_function_of_a_side_effect_may_know_its_run_and_the_time() -> None:
    @workflow.define
    async def knowing() -> str:
        return workflow.side_effect(lambda: f"{workflow.info().id} {workflow.now().year}", str)

    assert Script.outcome(Script(knowing).turn()) == "it 2023"
