"""A worker whose lease goes at a bad moment registers again, and ends when it is told to and at no other time."""

from collections.abc import Iterator

import psycopg
import pytest

from perdure import Client, Limits, Worker, workflow
from perdure.errors import SchemaVersionError, StoreError
from perdure.runtime import lease, tenure, worker
from perdure.store.postgres import exchange
from perdure.store.postgres.migrate import migrate
from perdure.store.postgres.store import PostgresStore
from tests.support.postgres import EmbeddedServer
from tests.support.world import eventually, run_async

EXPIRED_AT_BIRTH = """
CREATE FUNCTION expire_at_birth() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN NEW.expires_at := clock_timestamp() - interval '1 second'; RETURN NEW; END $$;
CREATE TRIGGER expire_the_first BEFORE INSERT ON perdure.worker
FOR EACH ROW WHEN (NEW.id = 1) EXECUTE FUNCTION expire_at_birth();
"""


@workflow.define
async def short() -> str:
    return "done"


@run_async
async def test_a_worker_that_loses_its_lease_while_it_registers_registers_again(migrated: str) -> None:
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(EXPIRED_AT_BIRTH)
    async with Client.connect(migrated) as client, Worker(client, workflows=[short]):
        assert await (await client.start(short)).result() == "done"
        ((worker, _, _),) = await client.store.workers("default")
        assert worker == 2


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedServer]:
    """Lend a server that may stand still, to workers that do not wait long for a word when they are to stop."""
    monkeypatch.setattr(exchange, "CANCEL", 0.2)
    for waiting in (lease, tenure, worker):
        monkeypatch.setattr(waiting, "SILENCE", 0.2)
    server = EmbeddedServer()
    try:
        yield server
    finally:
        server.thaw()
        server.stop()


def test_a_worker_whose_server_stands_still_knows_when_its_lease_is_over_and_goes_on_with_the_server(
    server: EmbeddedServer, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = server.create_database()
    migrate(dsn)

    @run_async
    async def live_through() -> None:
        async with Client.connect(dsn) as client, Worker(client, workflows=[short], limits=Limits(lease=1.5)) as frozen:
            assert await (await client.start(short)).result() == "done"
            server.freeze()

            async def over() -> bool:
                return not frozen.ready

            await eventually(over)
            assert "lost its lease" in caplog.text
            server.thaw()
            assert await (await client.start(short)).result() == "done"

    live_through()


@pytest.mark.parametrize("when", ["after its lease", "while it renews its lease", "before it renews its lease"])
def test_a_worker_that_is_stopped_while_its_server_stands_still_ends(
    server: EmbeddedServer, when: str, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = server.create_database()
    migrate(dsn)
    limits = Limits(lease={"after its lease": 1.5, "while it renews its lease": 6.0}.get(when, 60.0))

    @run_async
    async def live_through() -> None:
        store = await PostgresStore.connect(dsn)
        async with Client.over(store) as client, Worker(client, workflows=[short], limits=limits) as frozen:
            assert await (await client.start(short)).result() == "done"
            server.freeze()
            renewals = store.statements["renew"]

            async def due() -> bool:
                return "lost its lease" in caplog.text if limits.lease < 6 else store.statements["renew"] > renewals

            if limits.lease < 60:
                await eventually(due)
            frozen.stop()
        assert ("lost its lease" in caplog.text) == (limits.lease < 6)
        await store.close()

    live_through()


FORBIDDEN = """
CREATE FUNCTION forbid() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE insufficient_privilege USING MESSAGE = 'permission denied'; END $$;
CREATE TRIGGER forbid BEFORE INSERT OR DELETE ON perdure.worker FOR EACH STATEMENT EXECUTE FUNCTION forbid();
"""
TROUBLES = {
    "no rights": (FORBIDDEN, "DROP TRIGGER forbid ON perdure.worker", StoreError),
    "no schema": ("ALTER SCHEMA perdure RENAME TO away", "ALTER SCHEMA away RENAME TO perdure", SchemaVersionError),
}
go = workflow.signal("go")


@workflow.define
async def patient() -> str:
    await go.receive()
    return "done"


@pytest.mark.parametrize("what", sorted(TROUBLES))
def test_a_worker_that_has_served_goes_on_trying_to_register(migrated: str, what: str) -> None:
    trouble, remedy, _ = TROUBLES[what]

    @run_async
    async def live_through() -> None:
        with psycopg.connect(migrated, autocommit=True) as other:
            async with Client.connect(migrated) as client, Worker(client, workflows=[patient]) as worker:

                async def owns() -> bool:
                    return worker.owned == 1

                async def has_tried() -> bool:
                    return worker._tenure is None and worker.tally().store_errors > known + 1

                handle = await client.start(patient)
                await eventually(owns)
                known = worker.tally().store_errors
                other.execute("UPDATE perdure.worker SET expires_at = now()")
                other.execute(trouble)
                await eventually(has_tried)
                other.execute(remedy)
                await handle.signal("go")
                assert await handle.result() == "done"

    live_through()


@pytest.mark.parametrize("what", sorted(TROUBLES))
def test_a_worker_that_may_not_register_when_it_is_started_ends_with_the_reason(migrated: str, what: str) -> None:
    trouble, _, error = TROUBLES[what]

    @run_async
    async def live_through() -> None:
        async with Client.connect(migrated) as client:
            with psycopg.connect(migrated, autocommit=True) as other:
                other.execute(trouble)
            with pytest.raises(error):
                await Worker(client, workflows=[patient]).run()

    live_through()


@run_async
async def test_a_worker_that_may_not_resign_ends_all_the_same(migrated: str) -> None:
    async with Client.connect(migrated) as client, Worker(client, workflows=[short]):
        assert await (await client.start(short)).result() == "done"
        with psycopg.connect(migrated, autocommit=True) as other:
            other.execute(FORBIDDEN)
