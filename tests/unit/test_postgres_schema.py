"""The schema: migrations, what people read with psql, which rights a worker needs, and what no index may hold."""

from __future__ import annotations

import asyncio
import concurrent.futures
import itertools
import re
import uuid
from collections.abc import Iterator
from typing import Any, get_args

import psycopg
import pytest

from perdure.errors import SchemaVersionError
from perdure.model.events import Event
from perdure.model.runs import NewTask, Park
from perdure.store.postgres import PostgresStore, migrate
from perdure.store.postgres.address import Address
from perdure.store.postgres.migrate import check_version, migrations
from perdure.store.postgres.queries import QUERIES, parse
from tests.support.postgres import EmbeddedServer, bundled_programs
from tests.support.stores import (
    NAMESPACE,
    PostgresStage,
    behaviour,
    close,
    completed_activity,
    eventually,
    new_run,
    scheduled,
    turn,
)

ODD = r'["\u0000 \\u0000 \\\u0000 \ud800 \uDC00 \ud83d\ude00 \ud83d\ude00\ude00 \ud83dx \\ud800"]'
"""A payload with characters that PostgreSQL cannot show, and with backslashes that only look as if."""


@pytest.fixture
def migrated(database: str) -> str:
    """Lend a database with the schema in place."""
    migrate(database)
    return database


@pytest.fixture
def stage(migrated: str) -> PostgresStage:
    """Lend a stage on PostgreSQL."""
    return PostgresStage(migrated)


@pytest.fixture
def modest(migrated: str) -> Iterator[str]:
    """Lend the schema to a role that may read and write rows, and nothing else."""
    role = f"perdure_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute(f"CREATE ROLE {role}".encode())
        connection.execute(f"GRANT USAGE ON SCHEMA perdure TO {role}".encode())
        connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA perdure TO {role}".encode())
        connection.execute(f"GRANT USAGE ON ALL SEQUENCES IN SCHEMA perdure TO {role}".encode())
        yield f"{migrated}{'&' if '?' in migrated else '?'}options=-c%20role%3D{role}"
        connection.execute(f"DROP OWNED BY {role}".encode())
        connection.execute(f"DROP ROLE {role}".encode())


def ask(dsn: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(statement.encode()).fetchall()


def test_migrating_twice_does_nothing_the_second_time(database: str) -> None:
    assert migrate(database) == [migration.name for migration in migrations()]
    assert migrate(database) == []
    assert ask(database, "SELECT version, name FROM perdure.migration ORDER BY version") == [
        (migration.version, migration.name) for migration in migrations()
    ]


def test_several_may_migrate_at_once(database: str) -> None:
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        applied = list(pool.map(migrate, [database] * 4))
    assert sorted(name for names in applied for name in names) == [migration.name for migration in migrations()]


def test_migrations_are_numbered_without_gaps() -> None:
    assert [migration.version for migration in migrations()] == list(range(1, len(migrations()) + 1))


def test_a_migration_that_fails_leaves_nothing_behind(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA perdure")
        connection.execute("CREATE TABLE perdure.task (wrong integer)")
    with pytest.raises(psycopg.errors.DuplicateTable):
        migrate(database)
    assert ask(database, "SELECT count(*) FROM pg_tables WHERE schemaname = 'perdure'") == [(1,)]


def test_an_older_schema_is_refused_and_a_newer_one_is_not() -> None:
    newest = migrations()[-1].version
    check_version(newest, "shop", "db.example")
    check_version(newest + 1, "shop", "db.example")
    with pytest.raises(SchemaVersionError, match=r"database shop at db.example has no Perdure schema.*perdure migrate"):
        check_version(0, "shop", "db.example")


def test_a_store_opens_on_a_newer_schema(migrated: str) -> None:
    with psycopg.connect(migrated, autocommit=True) as connection:
        connection.execute("INSERT INTO perdure.migration (version, name) VALUES (999, '0999_later.sql')")
        connection.execute(
            "CREATE OR REPLACE VIEW perdure.summary AS SELECT s.*, 'new' AS column_of_tomorrow FROM ("
            + str(ask(migrated, "SELECT pg_get_viewdef('perdure.summary')")[0][0]).rstrip(";")
            + ") s"
        )

    async def use() -> None:
        stage = PostgresStage(migrated)
        await stage.open()
        await stage.start()
        assert (await stage.summary()).id == "order-1"
        await stage.close()

    asyncio.run(use())


@behaviour
async def test_a_column_that_is_added_under_an_open_store_disturbs_nobody(stage: PostgresStage) -> None:
    await stage.start()
    before = await stage.summary()
    await stage.execute("ALTER TABLE perdure.run ADD COLUMN extra integer")
    definition = (await stage.execute("SELECT pg_get_viewdef('perdure.summary')"))[0][0].rstrip(";")
    await stage.execute(f"CREATE OR REPLACE VIEW perdure.summary AS SELECT s.*, 1 AS extra FROM ({definition}) s")
    assert await stage.summary() == before
    assert await stage.store.newest([(NAMESPACE, before.id)]) == [before]


def test_workers_and_clients_need_no_right_to_change_tables(modest: str) -> None:
    async def use() -> None:
        stage = PostgresStage(modest)
        await stage.open()
        lease = await stage.worker()
        run_id = await stage.owned(lease, key="uid-1")
        task = NewTask(seq=1, queue="default", name="render", input=b"[]", options=b"{}")
        await stage.flush(lease, run_id, turn(1), Park(mail=0, wake_at=1), tasks=(task,))
        await stage.store.claim_tasks(lease, 1)
        await stage.claim_one(lease)
        await asyncio.to_thread(stage.store.renew, lease)
        await stage.store.recover(lease)
        assert (await stage.flush(lease, run_id, turn(2), close())).ended
        changes = await stage.store.status_changes(10)
        await stage.store.acknowledge([change.number for change in changes])
        await stage.store.resign(lease)
        await stage.close()

    asyncio.run(use())


@behaviour
async def test_there_is_one_installation_in_a_database_and_without_it_nobody_works(stage: PostgresStage) -> None:
    known = (await stage.worker()).installation
    with pytest.raises(psycopg.errors.UniqueViolation):
        await stage.execute("INSERT INTO perdure.installation VALUES ('another')")
    await stage.execute("DELETE FROM perdure.installation")
    with pytest.raises(SchemaVersionError, match=r"perdure.installation is empty.* restore its row"):
        await stage.worker("two")
    await stage.execute("INSERT INTO perdure.installation VALUES (%s)", known)
    assert (await stage.worker("three")).installation == known


@behaviour
async def test_histories_can_be_read_with_psql(stage: PostgresStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    odd = scheduled(2, payload=ODD)
    large = completed_activity(1, '"' + "x" * 100_000 + '"')
    await stage.flush(lease, run_id, turn(1, large, odd, worker="pod-1", time=1_700_000_000_123_456))
    rows = await stage.execute(
        "SELECT turn, number, type, time = timestamptz '2023-11-14 22:13:20.123456Z', event ->> 4 "
        "FROM perdure.events WHERE instance = 'order-1' ORDER BY run_id, turn, number"
    )
    assert rows == [
        (0, 1, "WorkflowExecutionStarted", False, None),
        (1, 1, "ActivityCompleted", True, "1"),
        (1, 2, "ActivityScheduled", True, None),
    ]
    header = "SELECT seq, worker, build, json_array_length(events) FROM perdure.turns WHERE seq = 1"
    assert await stage.execute(header) == [(1, "pod-1", None, 2)]
    assert await stage.execute("SELECT run_id, seq, ordinal, length(data) FROM perdure.payload") == [
        (run_id, 1, 1, 100_002)
    ]
    assert await stage.execute("SELECT substr(events, 1, 3)::text FROM perdure.history WHERE seq = 1") == [
        ("\\x015b31",)
    ]


@behaviour
async def test_every_event_has_its_name_in_psql(stage: PostgresStage) -> None:
    for kind in get_args(Event):
        tag = kind.__struct_config__.tag
        assert await stage.execute(f"SELECT perdure.event_type('{tag}')") == [(kind.__name__,)]


@behaviour
async def test_a_large_payload_is_not_in_the_row_of_its_turn(stage: PostgresStage) -> None:
    started = await stage.start(input=b'"' + b"x" * 50_000 + b'"')
    ((size,),) = await stage.execute("SELECT length(events) FROM perdure.history")
    assert size < 300
    assert await stage.execute("SELECT run_id, seq, ordinal FROM perdure.payload") == [(started.run_id, 0, 1)]


@behaviour
async def test_a_run_that_a_newer_release_wrote_is_held_and_the_others_go_on(stage: PostgresStage) -> None:
    lease = await stage.worker()
    strange, ordinary = (await stage.start("strange")).run_id, (await stage.start("ordinary")).run_id
    await stage.execute("INSERT INTO perdure.history VALUES (%s, 1, %s)", strange, b"\2from the future")
    claimed = await stage.store.claim(lease, 5)
    assert [run.info.run_id for run in claimed] == [ordinary]
    summary = await stage.summary("strange")
    assert (summary.phase, summary.hold_reason) == ("Stalled", "UnreadableHistory")
    assert "codec" in summary.hold_message
    await stage.execute("INSERT INTO perdure.inbox VALUES (%s, 1, %s, %s)", ordinary, lease.worker, b"\1{}")
    assert await stage.store.inbox(lease) == []
    assert (await stage.summary("ordinary")).phase == "Stalled"
    assert await stage.store.recover(await stage.worker("newer", build="build-2")) == 2


@behaviour
async def test_nothing_that_a_heartbeat_or_a_message_changes_is_in_an_index(stage: PostgresStage) -> None:
    columns = await stage.execute(
        "SELECT DISTINCT a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indexrelid "
        "JOIN pg_class c ON c.oid = i.indrelid WHERE c.relnamespace = 'perdure'::regnamespace"
    )
    indexed = {name for (name,) in columns}
    assert {"owner", "wake_at"} < indexed, "the query is right"
    assert not indexed & {"expires_at", "epoch", "mail", "claims", "claim", "attempt", "started_at", "status_text"}
    assert await stage.execute("SELECT count(*) FROM pg_constraint WHERE contype = 'f'") == [(0,)]


EMPTIED = """
INSERT INTO perdure.run (id, namespace, instance, workflow, queue, state, claims)
    SELECT n, 'd', 'i' || n, 'w', 'q', 0, 0 FROM generate_series(1, 5000) n;
INSERT INTO perdure.history SELECT 1, n, 'x' FROM generate_series(1, 5000) n;
INSERT INTO perdure.payload SELECT 1, n, 1, 'x' FROM generate_series(1, 5000) n;
INSERT INTO perdure.inbox SELECT 1, n, NULL, 'x' FROM generate_series(1, 5000) n;
INSERT INTO perdure.task SELECT 1, n, 'd', 'q', 'x', 'x', 'x', 1, now() FROM generate_series(1, 5000) n;
INSERT INTO perdure.status_change (run_id) SELECT n FROM generate_series(1, 5000) n;
DELETE FROM perdure.run; DELETE FROM perdure.history; DELETE FROM perdure.payload; DELETE FROM perdure.inbox;
DELETE FROM perdure.task; DELETE FROM perdure.status_change;
ANALYZE
"""
"""Tables that had rows and were looked at by the server when they had none: it believes that they never have any."""

COUNTED = {("census", index) for index in ("run_ready", "run_due", "run_held", "run_open", "task_due")}
WHOLE = COUNTED | {("recover", "run_owned"), ("recover", "task_owned"), ("overdue", "run_owned")}
"""What is meant to be read whole: all that waits is counted, and all owners of anything are looked at, now and then."""


@pytest.fixture(scope="module", params=sorted(bundled_programs()))
def release(request: pytest.FixtureRequest) -> Iterator[EmbeddedServer]:
    """Lend a server of each release at hand: each plans in its own way."""
    server = EmbeddedServer(major=request.param)
    yield server
    server.stop()


@pytest.mark.parametrize("state", ["new", "emptied"])
def test_every_statement_of_the_hot_path_finds_its_rows_by_an_index(release: EmbeddedServer, state: str) -> None:
    """Whatever the server believes about the tables: a plan made on that stays for a while when they have grown."""
    small = {"worker", "installation"}  # a row for each process, which some statements look at, and one row
    tableless = {"wait_for_disk", "dismiss", "notify"}
    others = tableless | {"version", "announcement_key", "list_runs", "open_keys", "workers", "fleets", "pollers"}
    dsn = release.create_database()
    migrate(dsn)
    with psycopg.connect(Address.parse(dsn).with_settings(hot=True), autocommit=True) as connection:
        if state == "emptied":
            connection.execute(EMPTIED)
        leading: dict[str, str] = dict(
            connection.execute(
                "SELECT c.relname, pg_get_indexdef(i.indexrelid, 1, true) FROM pg_index i "
                "JOIN pg_class c ON c.oid = i.indexrelid WHERE c.relnamespace = 'perdure'::regnamespace"
            ).fetchall()
        )
        for name in sorted(set(QUERIES) - others):
            query = QUERIES[name]
            connection.execute(b"PREPARE plan AS " + query.statement)
            arguments = ", ".join(["NULL"] * len(query.parameters))
            rows = connection.execute(f"EXPLAIN EXECUTE plan({arguments})".encode()).fetchall()
            connection.execute("DEALLOCATE plan")
            lines = [str(line) for (line,) in rows]
            plan = "\n".join(lines)
            scanned = {found[1] for found in re.finditer(r"(?:Seq|Heap) Scan on (\w+)", plan)}
            assert scanned <= small, f"{name} scans {scanned - small}:\n{plan}"
            assert not re.search(r"Hash Join|Merge Join|Hash Anti|Hash Semi", plan), f"{name}:\n{plan}"
            for line, below in itertools.pairwise([*lines, ""]):
                found = re.search(r"Index (?:Only )?Scan (?:Backward )?using (\w+) on (\w+)", line)
                if found and found[2] not in small and (name, found[1]) not in WHOLE:
                    by = below.partition("Index Cond: ")[2]
                    assert leading[found[1]] in by, f"{name} reads all of {found[1]}:\n{plan}"
                first = {"claim": "LockRows", "claim_tasks": "LockRows", "hold_unknown": "Limit"}
                if name in first and first[name] in line:
                    assert "Sort" not in below, f"{name} reads all to find the first:\n{plan}"


@behaviour
async def test_runs_that_readers_name_are_found_by_an_index_when_tables_have_grown(stage: PostgresStage) -> None:
    """A client that waits for results asks again and again: scans would cost more with every run there ever was."""
    others = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    connections = await stage.execute(others)
    store = await PostgresStore.connect(stage.dsn)
    runs = [(await store.start(new_run(f"order-{number}", key=f"uid-{number}"))).run_id for number in range(20)]
    await store.terminate(NAMESPACE, "order-4", "enough")

    async def scans() -> int:
        ((count,),) = await stage.execute("SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'run'")
        return int(count)

    async def gone() -> bool:
        return await stage.execute(others) == connections

    before = await scans()
    for _ in range(10):  # PostgreSQL plans a statement anew five times
        assert len(await store.ended(runs)) == 1
        assert len(await store.ended(runs[4:5])) == 1
        assert len(await store.by_key(["uid-1", "uid-2"])) == 2
        assert len(await store.newest([(NAMESPACE, "order-1"), (NAMESPACE, "order-2")])) == 2
        assert len(await store.status_changes(50)) == 1
        assert await store.describe(NAMESPACE, "order-3") is not None
    await store.close()
    await eventually(gone)  # a server process counts at its end at the latest
    assert await scans() == before


def test_parameters_are_numbered_in_the_order_of_first_use() -> None:
    text = "-- About.\n\n-- name: one\n-- why :not\nSELECT :b::int, :a, :b, x::text;\n\n-- name: two\nSELECT 1;\n"
    found = parse(text)
    assert found["one"].statement == b"SELECT $1::int, $2, $1, x::text"
    assert found["one"].parameters == ("b", "a")
    assert (found["two"].statement, found["two"].parameters) == (b"SELECT 1", ())


def test_connecting_to_a_database_that_was_not_migrated_leaves_nothing_open(database: str) -> None:
    users = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"

    async def connect() -> None:
        with pytest.raises(SchemaVersionError):
            await PostgresStore.connect(database)

        async def gone() -> bool:  # a server process takes a moment to notice
            return await asyncio.to_thread(ask, database, users) == [(0,)]

        await eventually(gone)

    asyncio.run(connect())
