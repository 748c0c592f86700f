"""Runs that another process announces: an idle worker takes them with their first turn, and nothing else changes."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from perdure import Client, Limits, Worker, WorkflowFailedError, WorkflowHandle, activity, workflow
from perdure.runtime import claiming
from perdure.store.postgres import PostgresStore
from perdure.workflow import Workflow
from tests.support.world import eventually, run_async, types, until_held


class Gate:
    """Where activities wait; `bench` closes it."""

    open = asyncio.Event()
    reached = asyncio.Event()


@activity.define
async def step(number: int) -> int:
    return number + 1


@activity.define
async def wait_for_the_gate() -> None:
    Gate.reached.set()
    await Gate.open.wait()


@workflow.define
async def sequence(count: int) -> int:
    number = 0
    for _ in range(count):
        number = await step(number)
    return number


@workflow.define
async def waits() -> None:
    await wait_for_the_gate()


@workflow.define
async def answers(text: str) -> str:
    return text


@workflow.define
async def sleeps(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "awake"


@workflow.define
async def shows() -> str:
    workflow.set_status("under way")
    return str(await step(1))


@workflow.define
async def greets(status: bool) -> str:
    people = ["Ada"]
    workflow.logger.info("hello %s", people)
    people.append("Grace")
    if status:
        workflow.set_status("greeting")
    await step(1)
    workflow.logger.info("bye %s", people)
    return "done"


word = workflow.signal("word", str)


@workflow.define
async def listens() -> str:
    return await word.receive()


@workflow.define
async def breaks() -> None:
    raise ValueError("at once")


@workflow.define
async def spins() -> None:
    while True:
        pass


@workflow.define
async def sends(text: str) -> int:
    return len(await echo(text))


@activity.define
async def echo(text: str) -> str:
    return text


WORKFLOWS: list[Workflow[..., Any]] = [sequence, waits, answers, sleeps, shows, greets, listens, breaks, spins, sends]
ACTIVITIES: list[activity.Activity[..., Any]] = [step, wait_for_the_gate, echo]


@dataclass
class Bench:
    """A client that has no worker beside it, and the statements of the worker's process."""

    client: Client
    store: PostgresStore

    def sent(self, name: str) -> int:
        return self.store.statements[name]

    async def announced(self, flow: Workflow[..., Any], *arguments: Any) -> WorkflowHandle[Any]:
        """Run a workflow until one of its runs was announced: not the one that comes a moment after another hint."""

        async def taken() -> WorkflowHandle[Any] | None:
            self.store.statements.clear()
            handle = await self.client.start(flow, *arguments)
            await handle.result()
            return handle if self.sent("claim_announced") else None

        handle: WorkflowHandle[Any] = await eventually(taken)
        return handle


@asynccontextmanager
async def bench(dsn: str, **limits: float) -> AsyncIterator[Bench]:
    """Open both, with a worker that hears what the client says."""
    Gate.open, Gate.reached = asyncio.Event(), asyncio.Event()
    async with Client.connect(dsn) as client, Client.connect(dsn) as other:
        store = other.store
        assert isinstance(store, PostgresStore)
        there = Limits(lease=4.0, **limits)  # type: ignore[arg-type]  # numbers of both kinds
        async with Worker(other, workflows=WORKFLOWS, activities=ACTIVITIES, limits=there):
            on = Bench(client, store)
            await on.announced(sequence, 1)  # the worker listens
            store.statements.clear()
            yield on


@run_async
async def test_it_has_its_first_turn_after_its_start(migrated: str) -> None:
    async with bench(migrated) as on:
        handle = await on.announced(sequence, 2)
        assert await handle.result() == 2
        assert (on.sent("claim_announced"), on.sent("claim")) == (1, 0)
        assert (on.sent("turn_one"), on.sent("close_one")) == (1, 1)
        history = await handle.history()
        assert types(history) == [
            "WorkflowExecutionStarted",
            *["ActivityScheduled", "ActivityCompleted"] * 2,
            "WorkflowExecutionCompleted",
        ]
        assert [event.turn for event in history] == [0, 1, 2, 2, 3, 3]
        assert [bool(event.worker) for event in history] == [False, True, True, True, True, True]


@run_async
async def test_a_first_turn_that_waits_for_a_timer_or_a_signal_goes_on(migrated: str) -> None:
    async with bench(migrated) as on:
        assert await (await on.announced(sleeps, 0.05)).result() == "awake"

        async def heard() -> bool:
            on.store.statements.clear()
            handle = await on.client.start(listens)
            await handle.signal(word, "hello")
            assert await handle.result() == "hello"
            return bool(on.sent("claim_announced"))

        await eventually(heard)


@run_async
async def test_a_first_turn_that_is_more_than_a_turn_goes_the_usual_way(migrated: str) -> None:
    async with bench(migrated, turn=0.3) as on:
        assert await (await on.client.start(answers, "yes")).result() == "yes"
        assert await (await on.client.start(shows)).result() == "2"
        assert await (await on.client.start(sends, "x" * 1_500)).result() == 1_500
        with pytest.raises(WorkflowFailedError, match="at once"):
            await (await on.client.start(breaks)).result()
        summary = await until_held(await on.client.start(spins))
        assert summary.hold_reason == "TurnTimedOut"
        assert on.sent("claim") >= 4


@run_async
async def test_a_worker_that_has_something_to_do_asks_for_it(migrated: str) -> None:
    """Should the first turn end the process, what it does meanwhile would go down with it."""
    async with bench(migrated) as on:
        busy = await on.client.start(waits)
        await Gate.reached.wait()
        on.store.statements.clear()
        for _ in range(5):
            assert await (await on.client.start(sequence, 1)).result() == 1
        assert on.sent("claim_announced") == 0
        assert on.sent("claim") >= 5
        Gate.open.set()
        await busy.result()


@run_async
async def test_announcements_keep_no_worker_from_looking(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A timer of a run that somebody else has parked, say, is found by looking only."""
    monkeypatch.setattr(claiming, "CLAIM_POLL", 0.5)
    async with bench(migrated) as on:
        starts = itertools.count(1)

        async def looked_unasked() -> bool:
            assert await (await on.client.start(sequence, 1)).result() == 1
            asked = next(starts) - on.sent("claim_announced")
            return on.sent("claim") - asked >= 2

        await eventually(looked_unasked)


@run_async
async def test_two_that_are_announced_at_once_are_both_run(migrated: str) -> None:
    async with bench(migrated) as on, Client.connect(migrated) as another:
        for _ in range(20):
            handles = await asyncio.gather(on.client.start(sequence, 1), another.start(sequence, 1))
            assert await asyncio.gather(*(handle.result() for handle in handles)) == [1, 1]


@run_async
async def test_of_several_idle_workers_one_runs_it(migrated: str) -> None:
    async with (
        bench(migrated) as on,
        Client.connect(migrated) as another,
        Worker(another, workflows=WORKFLOWS, activities=ACTIVITIES),
    ):
        for count in range(1, 20):
            handle = await on.client.start(sequence, count)
            assert await handle.result() == count
            scheduled = [event for event in await handle.history() if event.type == "ActivityScheduled"]
            assert len(scheduled) == count
            assert len({event.worker for event in scheduled}) == 1


@run_async
async def test_a_workflow_that_nobody_knows_is_held(migrated: str) -> None:
    async with bench(migrated) as on:
        handle = await on.client.start("unheard-of")
        assert (await until_held(handle)).hold_reason == "UnknownWorkflow"
        assert on.sent("claim_announced") == 0


@pytest.mark.parametrize("status", [False, True], ids=["recorded as it was taken", "taken again by its owner"])
@run_async
async def test_workflow_code_says_everything_once(
    migrated: str, status: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "perdure.workflow")
    async with (
        bench(migrated) as on,
        Client.connect(migrated) as another,
        Worker(another, workflows=WORKFLOWS, activities=ACTIVITIES),
    ):
        expected = []
        for _ in range(10):
            handle = await on.client.start(greets, status)
            assert await handle.result() == "done"
            expected += [f"[{handle.id}] hello ['Ada']", f"[{handle.id}] bye ['Ada', 'Grace']"]
    assert re.findall(r"\[\w+\] (?:hello|bye) .*", caplog.text) == expected
