"""Messages that come while the last turn of a run is being written: the run does not close before it has seen them."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from perdure import Client, Worker, WorkflowClosedError, WorkflowHandle, activity, workflow
from perdure.model.runs import Close, Commit, Committed
from perdure.model.workers import Lease
from tests.support.world import World, run_async, types

orders = workflow.signal("orders", int)


class Place:
    """Where the activity is."""

    reached: asyncio.Event
    left: asyncio.Event


@workflow.define
async def batch() -> list[int]:
    """Take what there is, and end."""
    numbers = [await orders.receive()]
    try:
        while True:
            numbers.append(orders.receive_nowait())
    except asyncio.QueueEmpty:
        return numbers


@activity.define
async def audit() -> None:
    Place.reached.set()
    try:
        await asyncio.Event().wait()
    finally:
        Place.left.set()


@workflow.define
async def batch_with_an_audit() -> list[int]:
    """Leave an activity behind."""
    auditing = asyncio.ensure_future(audit())
    numbers = await batch.function()
    return [*numbers, int(auditing.done())]


def before_the_close(
    client: Client, monkeypatch: pytest.MonkeyPatch, verbs: Sequence[Callable[[], Awaitable[None]]]
) -> list[Committed]:
    """Have something happen before each of the first writes that close a run; return what became of all of them."""
    flush, rest, closes = client.store.flush, list(verbs), list[Committed]()

    async def later(lease: Lease, commits: Sequence[Commit]) -> list[Committed]:
        last = [place for place, commit in enumerate(commits) if isinstance(commit.ending, Close)]
        if last and rest:
            await rest.pop(0)()
        answers = await flush(lease, commits)
        closes.extend(answers[place] for place in last)
        return answers

    monkeypatch.setattr(client.store, "flush", later)
    return closes


@run_async
async def test_a_message_that_is_accepted_before_the_close_is_read(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await world.client()
    async with Worker(client, workflows=[batch]):
        handle = await client.start(batch)
        verbs = [lambda number=number: handle.signal(orders, number) for number in (2, 3)]
        closes = before_the_close(client, monkeypatch, verbs)
        await handle.signal(orders, 1)
        assert await handle.result() == [1, 2, 3]
        assert [answer.unread for answer in closes] == [True, True, False]
        with pytest.raises(WorkflowClosedError):
            await handle.signal(orders, 4)
    await world.close()


@run_async
async def test_a_cancellation_that_is_accepted_before_the_close_is_recorded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await world.client()
    async with Worker(client, workflows=[batch]):
        handle = await client.start(batch)
        before_the_close(client, monkeypatch, [lambda: handle.cancel("enough")])
        await handle.signal(orders, 1)
        await handle.result()
        assert handle.run_id is not None
        assert "WorkflowExecutionCancelRequested" in types(await client.store.history(handle.run_id))
    await world.close()


@run_async
async def test_a_run_that_leaves_an_activity_behind_reads_its_last_message_and_the_activity_is_cancelled(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    Place.reached, Place.left = asyncio.Event(), asyncio.Event()
    client = await world.client()
    async with Worker(client, workflows=[batch_with_an_audit], activities=[audit]):
        handle = await client.start(batch_with_an_audit)
        await Place.reached.wait()
        before_the_close(client, monkeypatch, [lambda: handle.signal(orders, 2)])
        await handle.signal(orders, 1)
        assert await handle.result() == [1, 2, 0]
        await Place.left.wait()
    await world.close()


@run_async
async def test_nothing_is_lost_of_what_senders_without_a_pause_were_told_is_accepted(world: World) -> None:
    client, sender = await world.client(), await world.client()
    runs: dict[int | None, WorkflowHandle[list[int]]] = {}

    async def keep_sending(first: int) -> None:
        number = first
        while number < first + 200:
            handle = await sender.start(batch, id="batch")
            runs[handle.run_id] = handle
            try:
                await handle.signal(orders, number)
            except WorkflowClosedError:
                continue
            number += 1

    async with Worker(client, workflows=[batch]):
        await asyncio.gather(*(keep_sending(first) for first in (0, 200, 400)))
        read = [number for run in runs.values() for number in await run.result()]
    assert sorted(read) == list(range(600))
    await world.close()
