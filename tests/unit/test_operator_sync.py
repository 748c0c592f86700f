"""What the loop from the database to the writer does with many changes: real store and writer, nothing is written."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from perdure.client import FullStore
from perdure.manifest import parse
from perdure.store.memory import MemoryStore
from perdure_operator.abandoned import Abandoned
from perdure_operator.cluster import Cluster
from perdure_operator.controller import Controller
from perdure_operator.database import Database
from perdure_operator.leader import Election
from perdure_operator.objects import Known, Objects
from perdure_operator.parts import Parts
from perdure_operator.settings import Settings
from perdure_operator.sync import PAGE, Sync
from perdure_operator.writer import StatusWriter
from tests.unit.test_operator_controller import FaultyMaps, body

SETTINGS = Settings(url="memory://", identity="a")


class Ended:
    """Objects whose runs have ended, and the loop that is to tell it to a writer that has no right to write."""

    def __init__(self, parts: Parts, store: FullStore) -> None:
        self.parts = parts
        self.store = store

    async def add(self, name: str, *, seen: bool) -> Known:
        document = body(name)
        self.parts.objects.see(document)
        await self.store.start(parse(document).new_run("shop"))
        await self.store.terminate("shop", name, "enough")
        known = self.parts.objects.get(document["metadata"]["uid"])
        assert known is not None
        known.generation = int(seen)
        return known

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds():  # noqa: ASYNC110  # nobody tells when a status was handed over
                await asyncio.sleep(0.01)


@asynccontextmanager
async def ended_runs() -> AsyncIterator[Ended]:
    database, objects, cluster = Database(SETTINGS.url), Objects(), Cluster(1)
    election = Election(cluster, SETTINGS)
    writer = StatusWriter(cluster, objects, election, SETTINGS)
    controller = Controller(database, objects, writer, Abandoned(), FaultyMaps().read)
    parts = Parts(cluster, database, objects, controller, writer, election, SETTINGS)
    yield Ended(parts, await database.store())
    await database.close()


@asynccontextmanager
async def running(sync: Sync) -> AsyncIterator[None]:
    task = asyncio.create_task(sync.run())
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_every_end_reaches_the_writer_before_the_first_one_is_written() -> None:
    async def check() -> None:
        async with ended_runs() as ended:
            for number in range(2 * PAGE + 1):
                await ended.add(f"order-{number}", seen=True)
            async with running(Sync(ended.parts)):
                await ended.until(lambda: ended.parts.writer.waiting == 2 * PAGE + 1)

    asyncio.run(check())


def test_a_row_that_cannot_be_read_ends_nothing_and_holds_back_nothing_once_it_can(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def check() -> None:
        async with ended_runs() as ended:
            await ended.add("order", seen=True)
            assert isinstance(ended.store, MemoryStore)
            (row,) = ended.store.runs.values()
            outcome, row.outcome = row.outcome, None
            row.created_at = "damaged"  # type: ignore[assignment]  # that is the point
            async with running(Sync(ended.parts)):
                await ended.until(lambda: "in a way that nobody foresaw" in caplog.text)
                row.outcome, row.created_at = outcome, 0
                await ended.until(lambda: ended.parts.writer.waiting == 1)

    asyncio.run(check())


def test_a_change_of_an_object_that_is_yet_to_be_looked_at_waits_for_that_and_not_for_others() -> None:
    async def check() -> None:
        async with ended_runs() as ended:
            early = await ended.add("early", seen=False)
            for number in range(PAGE):
                await ended.add(f"order-{number}", seen=True)
            async with running(Sync(ended.parts)):
                await ended.until(lambda: ended.parts.writer.waiting == PAGE)
                early.generation = 1
                await ended.until(lambda: ended.parts.writer.waiting == PAGE + 1)

    asyncio.run(check())
