"""What administrators set for a role or a database, and what Perdure makes of it."""

import asyncio
import concurrent.futures
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

import psycopg
import pytest

from perdure.errors import RequestError
from perdure.model.runs import Park, RunState
from perdure.store.base import RunFilter
from perdure.store.postgres import PostgresStore, migrate
from perdure.store.postgres.migrate import migrations
from tests.support.pgbouncer import PgBouncer
from tests.support.stores import NAMESPACE, PostgresStage, behaviour, close, new_run, turn

STRANGE = {
    "default_transaction_isolation": "serializable",
    "standard_conforming_strings": "off",
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "search_path": "",
    "synchronous_commit": "off",
}


def execute(dsn: str, statement: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(statement.encode())


def name_of(dsn: str) -> str:
    return unquote(urlsplit(dsn).path.removeprefix("/"))


def settle(dsn: str, **settings: str) -> None:
    """Set defaults of a database, for connections to come."""
    for name, value in settings.items():
        execute(dsn, f"ALTER DATABASE \"{name_of(dsn)}\" SET {name} = '{value}'")


@pytest.fixture
def strange(database: str) -> str:
    """Lend the DSN of a database with defaults that nobody expects, and the schema in place."""
    settle(database, **STRANGE)
    migrate(database)
    return database


@pytest.fixture
def stage(strange: str) -> PostgresStage:
    """Lend a stage on it."""
    return PostgresStage(strange)


@behaviour
async def test_the_defaults_of_a_database_change_nothing(stage: PostgresStage) -> None:
    stores = [stage.store, *[await stage.another() for _ in range(3)]]
    for number in range(10):
        instance = f"order-{number}"
        started = await asyncio.gather(*(store.start(new_run(instance)) for store in stores * 2))
        assert sum(answer.created for answer in started) == 1
    leases = [await stage.worker(f"worker-{number}") for number in range(len(stores))]
    claimed = await asyncio.gather(*(store.claim(lease, 3) for store, lease in zip(stores, leases, strict=True)))
    runs = [run.info.run_id for part in claimed for run in part]
    assert len(runs) == len(set(runs)) == 10
    for lease, part in zip(leases, claimed, strict=True):
        for run in part:
            assert (await stage.flush(lease, run.info.run_id, turn(1))).recorded
    last = claimed[0][0].info
    assert (await stage.flush(leases[0], last.run_id, turn(2), close())).ended
    assert await stage.store.terminate(NAMESPACE, claimed[1][0].info.id, "enough") is not None
    assert (await stage.summary(claimed[1][0].info.id)).state is RunState.TERMINATED


LAST_SECOND = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


async def check_the_last_second(stage: PostgresStage) -> None:
    """Let a run sleep until the last second that Python knows, and for ever, and look at it in every way."""
    lease = await stage.worker()
    run_id = await stage.owned(lease, key="uid")
    wake_at = (LAST_SECOND - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    assert (await stage.flush(lease, run_id, turn(1), Park(mail=0, wake_at=wake_at))).ended
    assert (await stage.summary()).wake_at == LAST_SECOND
    assert [run.wake_at for run in await stage.store.list_runs(NAMESPACE, RunFilter())] == [LAST_SECOND]
    assert {change.run.wake_at for change in await stage.store.status_changes(10)} == {LAST_SECOND}
    await stage.execute("UPDATE perdure.run SET wake_at = 'infinity'")
    assert (await stage.summary()).wake_at == datetime.max.replace(tzinfo=UTC)


@behaviour
async def test_a_run_that_sleeps_until_the_end_of_time_can_be_read_east_of_greenwich(stage: PostgresStage) -> None:
    await check_the_last_second(stage)


def test_a_run_that_sleeps_until_the_end_of_time_can_be_read_through_a_pooler(database: str, pooler: str) -> None:
    settle(database, TimeZone="Asia/Tokyo")
    behaviour(check_the_last_second)(PostgresStage(pooler))


@behaviour
async def test_what_is_confirmed_is_on_the_disk_whatever_the_default(stage: PostgresStage) -> None:
    for lane in (stage.store._turns, stage.store._starts, stage.store._misc):
        assert (await lane.fetch("version", {}))[0][1:] == ("read committed", "on")


def test_commits_that_wait_for_a_standby_go_on_to_do_so(database: str) -> None:
    settle(database, synchronous_commit="remote_apply")
    migrate(database)

    async def look() -> None:
        store = await PostgresStore.connect(database)
        assert (await store._turns.fetch("version", {}))[0][2] == "remote_apply"
        await store.close()

    asyncio.run(look())


@pytest.fixture
def pooler(database: str) -> Iterator[str]:
    """Lend the DSN of the database behind PgBouncer."""
    migrate(database)
    bouncer = PgBouncer(database)
    yield bouncer.dsn(name_of(database))
    bouncer.stop()


@pytest.mark.parametrize(
    ("setting", "value", "right"),
    [("default_transaction_isolation", "repeatable read", "read committed"), ("synchronous_commit", "off", "on")],
)
def test_behind_a_pooler_defaults_that_lose_steps_are_refused(
    database: str, pooler: str, setting: str, value: str, right: str
) -> None:
    settle(database, **{setting: value})
    with pytest.raises(RequestError, match=f"ALTER DATABASE \"{name_of(database)}\" SET {setting} = '{right}'"):
        asyncio.run(PostgresStore.connect(pooler))


def test_a_database_that_cannot_store_every_character_is_refused(database: str) -> None:
    latin = f"{name_of(database)}_latin"
    execute(database, f"CREATE DATABASE \"{latin}\" ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")
    try:
        with pytest.raises(RequestError, match="encoding LATIN1"):
            migrate(database.replace(name_of(database), latin))
    finally:
        execute(database, f'DROP DATABASE "{latin}" WITH (FORCE)')


def test_several_may_migrate_at_once_whatever_the_default_isolation(database: str) -> None:
    settle(database, default_transaction_isolation="serializable")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(migrate, [database] * 4))
    assert sorted(name for names in applied for name in names) == [migration.name for migration in migrations()]


def test_names_are_written_in_the_encoding_that_they_have_here(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    migrate(database)

    async def start() -> None:
        stage = PostgresStage(database)
        await stage.open()
        await stage.start("größe-☂")
        assert (await stage.summary("größe-☂")).id == "größe-☂"
        await stage.close()

    asyncio.run(start())


def test_the_page_on_trouble_finds_the_transaction_that_stays_open(database: str) -> None:
    page = Path(__file__).parents[2] / "docs/operations/troubleshooting.md"
    [statement] = re.findall(r"```sql\n(.*?)```", page.read_text(), re.DOTALL)
    with psycopg.connect(database) as forgotten, psycopg.connect(database, autocommit=True) as looking:
        forgotten.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        forgotten.execute("SELECT 'forgotten'")
        looking.execute("CREATE TABLE of_a_later_transaction ()")
        found = {row[0]: row[5] for row in looking.execute(statement.encode())}
        assert found[forgotten.info.backend_pid] == "SELECT 'forgotten'"
