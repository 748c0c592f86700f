"""A database that takes no writes: an administrator or a service wants it so, or it has become a standby."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import psycopg
import pytest

from perdure.errors import StoreUnavailableError
from perdure.store.postgres import PostgresStore, connection, migrate
from perdure.store.postgres.address import Address
from tests.support.pgbouncer import PgBouncer
from tests.support.stores import NAMESPACE, PostgresStage, behaviour, new_run, signal, turn, worker_info

ASKED: dict[str, Callable[[PostgresStore], Awaitable[object]]] = {
    "start": lambda store: store.start(new_run("order-2")),
    "signal": lambda store: store.deliver(NAMESPACE, "order-1", signal("1")),
    "terminate": lambda store: store.terminate(NAMESPACE, "order-1", "enough"),
    "resume": lambda store: store.resume(NAMESPACE, "order-1"),
    "suspend": lambda store: store.suspend(NAMESPACE, "order-1", suspended=True),
}


@asynccontextmanager
async def no_writes(dsn: str) -> AsyncIterator[None]:
    """Let a database take no writes, and send away who is connected; it takes them again afterwards."""
    name = Address.parse(dsn).database
    await execute(dsn, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
    others = "FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    await execute(dsn, f"SELECT pg_terminate_backend(pid, 5000) {others} AND backend_type = 'client backend'")
    yield
    await execute(dsn, f'SET transaction_read_only = off; ALTER DATABASE "{name}" RESET ALL')


async def execute(dsn: str, statement: str) -> None:
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connected:
        await connected.execute(statement.encode())


@behaviour
async def test_a_server_that_takes_no_writes_any_more_is_looked_for_anew(stage: PostgresStage) -> None:
    """After a failover the old server may live on as a standby, with our connections open."""
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    async with no_writes(stage.dsn):
        flush = asyncio.create_task(stage.flush(lease, run_id, turn(1)))
        with pytest.raises(StoreUnavailableError):
            await asyncio.to_thread(stage.store.renew, lease)
        assert not flush.done()
    assert (await flush).recorded
    await asyncio.to_thread(stage.store.renew, lease)


@pytest.mark.parametrize("what", sorted(ASKED))
def test_who_asks_a_database_that_takes_no_writes_is_told_so(
    stage: PostgresStage, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.5)

    @behaviour
    async def test(stage: PostgresStage) -> None:
        await stage.start("order-1")
        async with no_writes(stage.dsn):
            with pytest.raises(StoreUnavailableError, match="takes no writes"):
                await ASKED[what](stage.store)
        await ASKED[what](stage.store)

    test(stage)


def test_behind_a_pooler_a_database_that_takes_writes_again_is_written_to_again(database: str) -> None:
    """The pooler goes on lending connections that were made while it did not, and those only read for ever."""
    migrate(database)
    bouncer = PgBouncer(database)

    async def through() -> None:
        store = await PostgresStore.connect(bouncer.dsn(Address.parse(database).database))
        try:
            lease = await store.register(worker_info("one"))
            async with no_writes(database):
                starting = asyncio.create_task(store.start(new_run("order-1")))
                with pytest.raises(StoreUnavailableError, match="takes no writes"):
                    await asyncio.to_thread(store.renew, lease)
                assert not starting.done()
            assert (await starting).created
            await asyncio.to_thread(store.renew, lease)
        finally:
            await store.close()

    try:
        asyncio.run(through())
    finally:
        bouncer.stop()


def test_a_migration_of_a_database_that_takes_no_writes_says_so_and_succeeds_later(database: str) -> None:
    async def live_through() -> None:
        async with no_writes(database):
            with pytest.raises(StoreUnavailableError, match="takes no writes"):
                migrate(database)
        assert migrate(database)
        async with no_writes(database):
            assert migrate(database) == [], "there is nothing to write"

    asyncio.run(live_through())
