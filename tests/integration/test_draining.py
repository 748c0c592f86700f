"""A worker that is told to stop ends as soon as nothing is under way, and not when its drain time is over."""

import asyncio

import psycopg

from perdure import Limits, Worker, activity, workflow
from tests.support.world import LIMIT, World, eventually, run_async


class Door:
    """What the activity waits for; made anew on the event loop of each test."""

    reached: asyncio.Event
    open: asyncio.Event


@activity.define
async def wait_at_the_door() -> str:
    Door.reached.set()
    await Door.open.wait()
    return "done"


@workflow.define
async def asks_elsewhere() -> str:
    return await wait_at_the_door.options(queue="other")()


@run_async
async def test_a_drain_ends_with_the_last_answer_to_another_worker(world: World) -> None:
    Door.reached, Door.open = asyncio.Event(), asyncio.Event()
    owner, other = await world.client(), await world.client()
    async with Worker(owner, workflows=[asks_elsewhere]):
        handle = await owner.start(asks_elsewhere)
        limits = Limits(drain=10 * LIMIT)
        async with Worker(other, activities=[wait_at_the_door], queues=["other"], limits=limits) as helper:
            await Door.reached.wait()
            helper.stop()

            async def draining() -> bool:
                return helper._tenure is not None and helper._tenure.draining

            await eventually(draining)
            Door.open.set()
        assert await handle.result() == "done"
    await world.close()


async def waiting(dsn: str, statements: int) -> None:
    """Wait until so many statements wait for a lock."""
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:

        async def are_waiting() -> bool:
            mine = "datname = current_database() AND wait_event_type = 'Lock'"
            cursor = await connection.execute(f"SELECT count(*) FROM pg_stat_activity WHERE {mine}")
            return await cursor.fetchone() == (statements,)

        await eventually(are_waiting)


@workflow.define
async def short() -> str:
    return "done"


@run_async
async def test_a_start_that_is_answered_while_its_worker_ends_does_not_wait_for_that_worker(migrated: str) -> None:
    world = World(migrated)
    client, other = await world.client(), await world.client()
    async with await psycopg.AsyncConnection.connect(migrated) as beside:
        async with Worker(client, workflows=[short]) as worker:
            await eventually(lambda: asyncio.sleep(0, worker.ready))
            # Nobody may start an instance of this id before it is known whether there is one.
            rival = "INSERT INTO perdure.run (id, namespace, instance, workflow, queue)"
            await beside.execute(f"{rival} VALUES (0, 'default', 'one', '', '')")
            starting = asyncio.create_task(client.start(short, id="one"))
            await waiting(migrated, 1)
            worker.stop()
            await waiting(migrated, 2)
            await beside.rollback()
            handle = await starting
        async with Worker(other, workflows=[short]):
            assert await handle.result() == "done"
    await world.close()
