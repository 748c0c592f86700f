"""A server that refuses statements for a reason that passes: a lock, somebody who cancels them, a full queue."""

from __future__ import annotations

import asyncio
import random
import string
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress

import psycopg
import pytest

from perdure.errors import PayloadError, StoreUnavailableError
from perdure.model.runs import NewTask, RunState
from perdure.store.base import CommitRefusedError
from perdure.store.postgres import PostgresStore, connection, migrate
from tests.support.postgres import TEST_SETTINGS, EmbeddedServer
from tests.support.stores import (
    NAMESPACE,
    PostgresStage,
    behaviour,
    close,
    commit,
    eventually,
    new_run,
    signal,
    turn,
    worker_info,
)
from tests.unit.test_postgres_riding import both, riders

ASKED: dict[str, Callable[[PostgresStore], Awaitable[object]]] = {
    "register": lambda store: store.register(worker_info("two")),
    "signal": lambda store: store.deliver(NAMESPACE, "order-1", signal("1")),
    "start": lambda store: store.start(new_run("order-2")),
    "terminate": lambda store: store.terminate(NAMESPACE, "order-1", "enough"),
}
LONG = "".join(random.Random(1).choices(string.ascii_letters, k=9000))
"""A name that no index takes, nor compresses to what it takes."""


@asynccontextmanager
async def all_locked(stage: PostgresStage) -> AsyncIterator[None]:
    """Lock what every statement that writes needs."""
    async with await psycopg.AsyncConnection.connect(stage.dsn) as other:
        await other.execute("SET lock_timeout = 0")
        await other.execute("LOCK TABLE perdure.run, perdure.worker IN ACCESS EXCLUSIVE MODE")
        yield


async def wait_at_most(stage: PostgresStage, milliseconds: int) -> PostgresStore:
    """Return a store whose statements wait for locks for so long."""
    name = psycopg.conninfo.conninfo_to_dict(stage.dsn)["dbname"]
    await stage.execute(f'ALTER DATABASE "{name}" SET lock_timeout = {milliseconds}')
    return await stage.another()


@pytest.mark.parametrize("what", sorted(ASKED))
def test_what_runs_into_a_lock_timeout_is_repeated(stage: PostgresStage, what: str) -> None:
    @behaviour
    async def test(stage: PostgresStage) -> None:
        await stage.start("order-1")
        store = await wait_at_most(stage, 20)
        async with all_locked(stage):
            asked = asyncio.ensure_future(ASKED[what](store))

            async def tried_again() -> bool:
                return asked.done() or sum(store.statements.values()) >= 5

            await eventually(tried_again)
            assert not asked.done()
        await asked

    test(stage)


@pytest.mark.parametrize("what", sorted(ASKED))
def test_who_runs_into_a_lock_timeout_for_long_is_told_what_to_look_for(
    stage: PostgresStage, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.3)

    @behaviour
    async def test(stage: PostgresStage) -> None:
        await stage.start("order-1")
        store = await wait_at_most(stage, 20)
        async with all_locked(stage):
            with pytest.raises(StoreUnavailableError, match="Look for who holds a lock"):
                await ASKED[what](store)

    test(stage)


@behaviour
async def test_a_statement_that_somebody_cancels_is_repeated(stage: PostgresStage) -> None:
    async with all_locked(stage):
        started = asyncio.ensure_future(stage.start("order-1"))

        async def tried_again() -> bool:
            await stage.execute(
                "SELECT pg_cancel_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return started.done() or stage.store.statements["born"] > 1

        await eventually(tried_again)
    assert (await started).created


@behaviour
async def test_what_is_too_large_for_an_index_is_refused_alone(stage: PostgresStage) -> None:
    lease = await stage.worker()
    bad, good = await stage.owned(lease, "bad"), await stage.owned(lease, "good")
    task = NewTask(seq=1, queue=LONG, name="charge", input=b"[]", options=b"{}")
    with pytest.raises(CommitRefusedError, match="index") as refused:
        await stage.store.flush(lease, [commit(bad, turn(1), tasks=(task,)), commit(good, turn(1))])
    assert [answer is not None and answer.recorded for answer in refused.value.answers] == [False, True]
    starts = [stage.start("fine"), stage.start("wrong", queue=LONG)]
    fine, wrong = await asyncio.gather(*starts, return_exceptions=True)
    assert not isinstance(fine, BaseException)
    assert fine.created
    assert isinstance(wrong, PayloadError)


@pytest.fixture(scope="module")
def noisy() -> Iterator[EmbeddedServer]:
    """A server with room for few notifications."""
    server = EmbeddedServer({**TEST_SETTINGS, "max_notify_queue_pages": "64"}, major=18)
    yield server
    server.stop()


@asynccontextmanager
async def queue_full(dsn: str) -> AsyncIterator[None]:
    """Keep the queue of notifications full: somebody listens, and does not read."""
    async with (
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as idle,
        await psycopg.AsyncConnection.connect(dsn, autocommit=True) as full,
    ):
        await idle.execute("LISTEN nothing")
        await idle.execute("BEGIN; SELECT 1")
        for size in (7900, 10):
            with suppress(psycopg.errors.ProgramLimitExceeded):
                while True:
                    await full.execute("SELECT pg_notify('elsewhere', repeat('x', %s) || random())", (size,))
        yield


def test_a_full_queue_of_notifications_costs_hints_alone(noisy: EmbeddedServer) -> None:
    dsn = noisy.create_database()
    migrate(dsn)

    @behaviour
    async def test(stage: PostgresStage) -> None:
        lease = await stage.worker()
        async with queue_full(stage.dsn):
            runs = [await stage.owned(lease, f"order-{number}") for number in range(3)]
            assert (await stage.flush(lease, runs[0], turn(1), close())).ended
            closing = [commit(run_id, turn(1), close()) for run_id in runs[1:]]
            assert all(answer.ended for answer in await stage.store.flush(lease, closing))
            assert await stage.store.terminate(NAMESPACE, "order-0", "too late") is None
            assert (await stage.summary("order-2")).state is RunState.COMPLETED

    test(PostgresStage(dsn))


def test_a_full_queue_of_notifications_keeps_no_start_from_going_along(noisy: EmbeddedServer) -> None:
    dsn = noisy.create_database()
    migrate(dsn)

    @behaviour
    async def test(stage: PostgresStage) -> None:
        async with queue_full(stage.dsn), riders(stage, stage.dsn) as (store, crowd, run_id):
            (committed,), started = await both(store, crowd, run_id, new_run("order-1"), 2, close())
            assert (committed.ended, started.created, started.taken) == (True, True, True)

    test(PostgresStage(dsn))
