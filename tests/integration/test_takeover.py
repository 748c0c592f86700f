"""Workers that come, go and fail: nothing recorded is lost or done twice."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from perdure import Limits, Worker, WorkflowFailedError, activity, workflow
from perdure.model.runs import Commit, Committed, RunState
from perdure.model.workers import Lease
from perdure.runtime import flush
from perdure.runtime.tenure import Tenure
from perdure.workflow import Workflow
from tests.support.world import QUICK, World, eventually, run_async, types

performed: list[str] = []
gate: list[asyncio.Event] = []


@pytest.fixture(autouse=True)
def _nothing_performed() -> None:
    performed.clear()
    gate.clear()


@activity.define
async def note(text: str) -> str:
    performed.append(text)
    return text


@activity.define
async def pause(text: str) -> str:
    performed.append(text)
    if len(gate) == 0:
        gate.append(asyncio.Event())
        await asyncio.Event().wait()
    return text


@workflow.define
async def trip() -> list[str]:
    return [await note("a"), await note("b"), await pause("c"), await note("d")]


@activity.define
async def hold() -> None:
    await asyncio.Event().wait()


@workflow.define
async def holds() -> None:
    await hold()


@workflow.define
async def listens() -> int:
    return await workflow.signal("go", int).receive()


ACTIVITIES = [note, pause]


BRISK = Limits(drain=0.2)


async def abandon(worker: Worker) -> None:
    """Let a worker fall silent as a killed process does: nothing is released, nothing is renewed."""
    tenure: Tenure | None = worker._tenure
    assert tenure is not None
    await tenure.keeper.stop()
    for loop in tenure._loops:
        loop.cancel()
    for execution in list(tenure._executions.values()):
        execution.abandon()
    await tenure.flusher.stop()
    tenure.lost.set()
    worker._client.hints.discard(worker._on_hint)
    worker._stopping.set()


@run_async
async def test_another_worker_goes_on_where_a_silent_one_stopped(world: World) -> None:
    first, second = await world.client(), await world.client()
    silent = await Worker(first, workflows=[trip], activities=ACTIVITIES, limits=QUICK, name="silent").__aenter__()
    handle = await second.start(trip, id="t")

    async def reached() -> bool:
        return bool(gate)

    await eventually(reached)
    await abandon(silent)
    async with Worker(second, workflows=[trip], activities=ACTIVITIES, limits=QUICK, name="heir"):
        assert await handle.result() == ["a", "b", "c", "d"]
    assert performed == ["a", "b", "c", "c", "d"], "only the attempt that was under way ran again"
    history = await handle.history()
    assert types(history).count("ActivityScheduled") == 4
    assert types(history).count("ActivityCompleted") == 4
    assert {event.worker for event in history if event.type == "ActivityCompleted"} == {"silent", "heir"}
    await world.close()


@run_async
async def test_a_worker_that_stops_gives_its_runs_back_at_once(world: World) -> None:
    first, second = await world.client(), await world.client()
    approve = workflow.signal("approve", bool)

    @workflow.define
    async def waits() -> bool:
        await note("before")
        return await approve.receive()

    handle = await second.start(waits, id="w")
    async with Worker(first, workflows=[waits], activities=ACTIVITIES):

        async def noted() -> bool:
            return performed == ["before"]

        await eventually(noted)
    assert (await handle.describe()).state is not RunState.OWNED
    async with Worker(second, workflows=[waits], activities=ACTIVITIES):
        await handle.signal(approve, True)
        assert await handle.result() is True
    assert performed == ["before"]
    await world.close()


@run_async
async def test_a_parked_run_wakes_for_its_timer_and_for_its_signal(world: World) -> None:
    client = await world.client()
    ring = workflow.signal("ring", str)

    @workflow.define
    async def naps() -> str:
        await asyncio.sleep(3.5)
        return await ring.receive()

    async with Worker(client, workflows=[naps]):
        handle = await client.start(naps, id="n")

        async def parked() -> bool:
            return (await handle.describe()).state is RunState.PARKED

        await eventually(parked)
        assert (await handle.describe()).waiting_for == "timer"

        async def awake_and_parked_again() -> bool:
            return (await handle.describe()).waiting_for == "signal ring"

        await eventually(awake_and_parked_again)
        await handle.signal(ring, "hello")
        assert await handle.result() == "hello"
    await world.close()


def changed(before: Workflow[..., Any], function: Any) -> Workflow[..., Any]:
    return workflow.define(name=before.name)(function)


@run_async
async def test_old_history_on_changed_code_is_held_and_fixed_code_resumes_it(world: World) -> None:
    client = await world.client()

    async def wrong() -> list[str]:
        return [await pause("c"), await note("a")]

    handle = await client.start(trip, id="t")
    async with Worker(client, workflows=[trip], activities=[note], build_id="one"):

        async def waits_for_pause() -> bool:
            return types(await handle.history()).count("ActivityScheduled") == 3

        await eventually(waits_for_pause)

    async def held() -> bool:
        return (await handle.describe()).state is RunState.HELD

    async with Worker(client, workflows=[changed(trip, wrong)], activities=ACTIVITIES, build_id="two", limits=BRISK):
        await handle.signal("nudge", 1)
        await eventually(held)
    summary = await handle.describe()
    assert summary.phase == "Stalled"
    assert summary.hold_reason == "NonDeterminism"
    assert "history has   ActivityScheduled #1 note" in summary.hold_message
    assert "the code has  ActivityScheduled #1 pause" in summary.hold_message
    gate.append(asyncio.Event())
    async with Worker(client, workflows=[trip], activities=ACTIVITIES, build_id="three"):
        assert await handle.result() == ["a", "b", "c", "d"]
    assert performed.count("a") == 1
    await world.close()


@run_async
async def test_an_unknown_workflow_waits_for_a_worker_that_has_it(world: World) -> None:
    client = await world.client()
    gate.append(asyncio.Event())
    handle = await client.start("trip", id="t")
    async with Worker(client, activities=[note]):

        async def held() -> bool:
            return (await handle.describe()).hold_reason == "UnknownWorkflow"

        await eventually(held)
    async with Worker(client, workflows=[trip], activities=ACTIVITIES):
        assert await handle.result() == ["a", "b", "c", "d"]
    await world.close()


@run_async
async def test_logging_and_imports_are_no_violation(world: World) -> None:
    client = await world.client()

    @workflow.define
    async def harmless() -> str:
        import logging

        logging.getLogger("somewhere").warning("a library logs")
        workflow.logger.info("so do I")
        import colorsys

        return colorsys.__name__

    async with Worker(client, workflows=[harmless]):
        assert await (await client.start(harmless)).result() == "colorsys"
    await world.close()


@run_async
async def test_one_bad_run_does_not_disturb_the_others(world: World) -> None:
    client = await world.client()

    @workflow.define
    async def mixed(number: int) -> int:
        if number % 10 == 3:
            raise ValueError(number)
        await note(str(number))
        return number

    async with Worker(client, workflows=[mixed], activities=[note]):
        handles = [await client.start(mixed, number, id=f"m{number}") for number in range(50)]
        for number, handle in enumerate(handles):
            if number % 10 == 3:
                with pytest.raises(WorkflowFailedError):
                    await handle.result()
            else:
                assert await handle.result() == number
    assert len(performed) == 45
    await world.close()


@run_async
async def test_a_worker_takes_no_more_runs_than_it_can_begin_soon(world: World) -> None:
    client, other = await world.client(), await world.client()
    many = [await client.start(holds, id=f"many-{number}") for number in range(30)]
    limits = Limits(activities=4, lease=1.5, drain=0.1)

    async def all_owned() -> bool:
        return first.owned + second.owned == 16

    async with (
        Worker(client, workflows=[holds], activities=[hold], limits=limits) as first,
        Worker(other, workflows=[holds], activities=[hold], limits=limits) as second,
    ):
        await eventually(all_owned)
        assert (first.owned, second.owned) == (8, 8), "twice the slots each; the others wait for a third worker"
        for handle in many:
            await handle.terminate()
    await world.close()


@run_async
async def test_runs_that_only_wait_keep_no_others_from_being_taken(world: World) -> None:
    client = await world.client()
    async with Worker(client, workflows=[listens], limits=Limits(activities=2)) as worker:
        waiting = [await client.start(listens, id=f"waits-{number}") for number in range(20)]

        async def all_wait() -> bool:
            return {run.waiting_for for run in await client.list()} == {"signal go"} or worker.owned == 20

        await eventually(all_wait)
        for handle in waiting:
            await handle.signal("go", 1)
        assert [await handle.result() for handle in waiting] == [1] * 20
    await world.close()


@run_async
async def test_a_worker_whose_turns_are_not_written_starts_afresh(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(flush, "STALL", 0.2)
    client, caller = await world.client(), await world.client()
    write, waiting = client.store.flush, asyncio.Event()

    async def no_answer(lease: Lease, commits: Sequence[Commit]) -> list[Committed]:
        del lease, commits
        client.store.flush = write  # type: ignore[method-assign]  # only the first one hangs
        waiting.set()
        await asyncio.Event().wait()
        raise AssertionError

    client.store.flush = no_answer  # type: ignore[method-assign]
    gate.append(asyncio.Event())
    async with Worker(client, workflows=[trip], activities=ACTIVITIES, limits=QUICK):
        handle = await caller.start(trip, id="t")
        await waiting.wait()
        assert await handle.result() == ["a", "b", "c", "d"]
    assert "the worker starts afresh" in caplog.text
    await world.close()
