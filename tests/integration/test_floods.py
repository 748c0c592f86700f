"""More messages than a worker has room for at a time: it takes them look by look, all of them and in order."""

import asyncio
from collections.abc import Sequence

import pytest

from perdure import Worker, activity, workflow
from perdure.model.runs import Commit, Committed, InboxItem, NewTask
from perdure.model.workers import Lease
from perdure.runtime import tenure, turns
from perdure.store.postgres import rows
from tests.support.world import World, eventually, run_async

MESSAGES = 20

words = workflow.signal("words", str)


class Place:
    """Where the activities are."""

    reached = asyncio.Event()
    told: list[int]


@activity.define
async def stay() -> None:
    Place.reached.set()
    await asyncio.Event().wait()


@workflow.define
async def reader(count: int) -> list[str]:
    """Read, and never sleep meanwhile: an activity is under way."""
    staying = asyncio.create_task(stay())
    heard = [(await words.receive())[:2] for _ in range(count)]
    staying.cancel()
    return heard


@run_async
async def test_a_flood_of_messages_is_read_look_by_look(migrated: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ENOUGH_FOR_A_LOOK", 2500)
    monkeypatch.setattr(tenure, "INBOX_POLL", 0.05)
    Place.reached = asyncio.Event()
    world = World(migrated)
    client = await world.client()
    inbox, looks = client.store.inbox, list[int]()

    async def counted(lease: Lease) -> list[InboxItem]:
        items = await inbox(lease)
        looks.append(len(items))
        return items

    monkeypatch.setattr(client.store, "inbox", counted)
    async with Worker(client, workflows=[reader], activities=[stay]):
        handle = await client.start(reader, MESSAGES)
        await Place.reached.wait()
        await asyncio.gather(*(handle.signal(words, f"{number:02}{1000 * 'x'}") for number in range(MESSAGES)))
        assert await handle.result() == [f"{number:02}" for number in range(MESSAGES)]
    assert max(looks) == 3, "a message that begins within the limit is the last one"
    await world.close()


@activity.define(queue="elsewhere")
async def tell(number: int) -> str:
    Place.told.append(number)
    return f"{number:02}{1000 * 'x'}"


@workflow.define
async def asks_for_many(count: int) -> list[str]:
    return [told[:2] for told in await asyncio.gather(*(tell(number) for number in range(count)))]


@run_async
async def test_a_flood_of_results_that_waits_for_a_worker_is_read_turn_by_turn_and_not_asked_for_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "MOST_INCOMING", 2500)
    Place.told = []
    client, other = await world.client(), await world.client()
    flush, queued = client.store.flush, list[NewTask]()

    async def noted(lease: Lease, commits: Sequence[Commit]) -> list[Committed]:
        queued.extend(task for commit in commits for task in commit.tasks)
        return await flush(lease, commits)

    async def all_queued() -> bool:
        return len(queued) == MESSAGES

    async def all_told() -> bool:
        return len(Place.told) == MESSAGES

    monkeypatch.setattr(client.store, "flush", noted)
    async with Worker(client, workflows=[asks_for_many]):
        handle = await other.start(asks_for_many, MESSAGES)
        await eventually(all_queued)
    async with Worker(other, activities=[tell], queues=["elsewhere"]):
        await eventually(all_told)
    async with Worker(client, workflows=[asks_for_many]):
        assert await handle.result() == [f"{number:02}" for number in range(MESSAGES)]
    assert len(queued) == len(Place.told) == MESSAGES
    await world.close()
