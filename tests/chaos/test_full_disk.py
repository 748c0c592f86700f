"""PostgreSQL that cannot write for a while: its disk is full, or somebody has locked it."""

import asyncio
from collections.abc import Iterator

import psycopg
import pytest

from perdure import Client, Worker, activity, workflow
from perdure.store.postgres.migrate import migrate
from tests.chaos.disk import SmallDisk
from tests.support.postgres import EmbeddedServer, Server
from tests.support.stores import eventually
from tests.support.world import run_async

LARGE = 300_000


@activity.define(timeout=30)
async def fetch(number: int) -> str:
    return str(number % 10) * LARGE


@workflow.define
async def collect(steps: int) -> int:
    return sum([len(await fetch(number)) for number in range(steps)])


@pytest.fixture
def disk() -> Iterator[SmallDisk]:
    """Lend a disk that can be full."""
    disk = SmallDisk()
    yield disk
    disk.remove()


@pytest.fixture
def own_server(disk: SmallDisk) -> Iterator[Server]:
    """Lend a server that has gone before its disk goes."""
    server = EmbeddedServer()
    yield server
    server.stop()


@pytest.fixture
def url(own_server: Server, disk: SmallDisk) -> str:
    """Lend a database whose history is on the disk."""
    url = own_server.create_database()
    migrate(url)
    disk.move(url)
    return url


def rollbacks(url: str) -> int:
    with psycopg.connect(url) as connection:
        query = "SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()"
        row = connection.execute(query).fetchone()
    assert row is not None
    return int(row[0])


def test_runs_go_on_when_a_full_disk_has_room_again(url: str, disk: SmallDisk) -> None:
    async def refused() -> bool:
        return rollbacks(url) >= 3

    @run_async
    async def live_through() -> None:
        async with Client.connect(url) as client, Worker(client, workflows=[collect], activities=[fetch]):
            handles = [await client.start(collect, 20, id=f"c{number}") for number in range(10)]
            assert rollbacks(url) == 0
            disk.fill()
            await eventually(refused)
            disk.free()
            async with asyncio.timeout(60):
                assert await asyncio.gather(*(handle.result() for handle in handles)) == [20 * LARGE] * 10

    live_through()


def test_a_flush_that_the_server_cancels_is_written_again(database: str) -> None:
    migrate(database)

    async def cancelled() -> bool:
        return rollbacks(database) >= 2

    @run_async
    async def live_through() -> None:
        with psycopg.connect(database) as other:
            name = other.info.dbname
            other.execute(f'ALTER DATABASE "{name}" SET statement_timeout = 200'.encode())
            other.commit()
            async with Client.connect(database) as client, Worker(client, workflows=[collect], activities=[fetch]):
                handle = await client.start(collect, 20)
                other.execute("LOCK TABLE perdure.history IN EXCLUSIVE MODE")
                await eventually(cancelled)
                other.rollback()
                async with asyncio.timeout(30):
                    assert await handle.result() == 20 * LARGE

    live_through()
