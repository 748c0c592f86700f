"""More messages than a worker has room for at a time: it takes them look by look, all of them and in order."""

import asyncio

import pytest

from perdure import Worker, activity, workflow
from perdure.model.runs import InboxItem
from perdure.model.workers import Lease
from perdure.runtime import tenure
from perdure.store.postgres import rows
from tests.support.world import World, run_async

MESSAGES = 20

words = workflow.signal("words", str)


class Place:
    """Where the activity is."""

    reached = asyncio.Event()


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
