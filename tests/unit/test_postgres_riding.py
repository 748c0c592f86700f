"""Starts that go along with turns: one transaction for both, and neither suffers from the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import psycopg
import pytest

from perdure.model.events import Turn
from perdure.model.runs import ClaimedRun, Committed, Ending, NewRun, RunId, Started
from perdure.model.workers import Lease
from perdure.store.base import Start
from perdure.store.postgres import PostgresStore, connection
from tests.support.stores import NAMESPACE, PostgresStage, behaviour, commit, eventually, new_run, turn
from tests.support.wire import Wire


class Crowd:
    """A worker that writes the turns of many runs, as it says."""

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.crowded = True
        self.turn: Turn | None = None
        self.took_runs: list[RunId] = []

    def takes_along(self, starts: int) -> bool:
        return self.crowded and starts > 0

    def begin(self, starts: Sequence[Start]) -> list[Crowd]:
        return [self] * len(starts)

    def took(self, run: ClaimedRun) -> None:
        self.took_runs.append(run.info.run_id)

    def dropped(self) -> None:
        pass


@asynccontextmanager
async def riders(stage: PostgresStage, dsn: str) -> AsyncIterator[tuple[PostgresStore, Crowd, RunId]]:
    """Lend a store of its own, a crowd of workers, and a run that it owns."""
    store = await PostgresStore.connect(dsn)
    try:
        crowd = Crowd(await stage.worker())
        run_id = await stage.owned(crowd.lease, "owned")
        await store.flush(crowd.lease, [commit(run_id, turn(1))])  # connects the lane
        yield store, crowd, run_id
    finally:
        await store.close()


async def both(
    store: PostgresStore, crowd: Crowd, run_id: RunId, new: NewRun, seq: int = 2, *endings: Ending
) -> tuple[list[Committed], Started]:
    """Start a run while a turn is about to be written."""

    async def flush() -> list[Committed]:
        await asyncio.sleep(0)  # the start is packed by then
        await asyncio.sleep(0)
        return await store.flush(crowd.lease, [commit(run_id, turn(seq), *endings)])

    start: Awaitable[Started] = store.start(new, crowd)
    started, committed = await asyncio.gather(start, flush())
    return committed, started


async def transactions(stage: PostgresStage, run_id: RunId, seq: int, started: RunId) -> set[str]:
    """Return which transactions wrote a turn and a run."""
    rows = await stage.execute(
        "SELECT xmin::text FROM perdure.history WHERE run_id = %s AND seq = %s "
        "UNION SELECT xmin::text FROM perdure.run WHERE id = %s",
        run_id,
        seq,
        started,
    )
    return {row[0] for row in rows}


@behaviour
async def test_a_start_goes_along_with_a_turn(stage: PostgresStage) -> None:
    async with riders(stage, stage.dsn) as (store, crowd, run_id):
        (committed,), started = await both(store, crowd, run_id, new_run("order-1"))
        assert committed.recorded
        assert (started.created, started.taken) == (True, True)
        assert crowd.took_runs == [started.run_id]
        assert len(await transactions(stage, run_id, 2, started.run_id)) == 1


@behaviour
async def test_a_start_that_nothing_goes_along_with_goes_alone(stage: PostgresStage) -> None:
    async with riders(stage, stage.dsn) as (store, crowd, _):
        started = await store.start(new_run("order-1"), crowd)
        assert (started.created, started.taken) == (True, True)


@behaviour
async def test_a_turn_that_is_refused_leaves_the_start_to_itself(stage: PostgresStage) -> None:
    async with riders(stage, stage.dsn) as (store, crowd, run_id):
        (committed,), started = await both(store, crowd, run_id, new_run("order-1"), seq=1)  # it is there already
        assert committed.recorded, "by the try before"
        assert (started.created, started.taken) == (True, True)


@behaviour
async def test_a_start_that_is_refused_leaves_the_turn_to_itself(stage: PostgresStage) -> None:
    async with riders(stage, stage.dsn) as (store, crowd, run_id):
        async with await psycopg.AsyncConnection.connect(stage.dsn) as other:
            await other.execute(
                "INSERT INTO perdure.run (id, namespace, instance, workflow, queue, state, claims) "
                "VALUES (nextval('perdure.run_id'), %s, 'order-1', 'order', 'default', 0, 0)",
                [NAMESPACE],
            )
            going = asyncio.create_task(both(store, crowd, run_id, new_run("order-1")))
            await eventually(lambda: blocked(stage))
            await other.commit()
        (committed,), started = await going
        assert committed.recorded
        assert (started.created, started.taken) == (False, False)
        assert crowd.took_runs == []
        assert len(await transactions(stage, run_id, 2, started.run_id)) == 2


@behaviour
async def test_what_went_along_when_the_answer_was_lost_is_found(stage: PostgresStage) -> None:
    async with Wire(stage.dsn) as wire, riders(stage, wire.dsn()) as (store, crowd, run_id):
        wire.lose_answer_to("INSERT INTO perdure.run (")
        (committed,), started = await both(store, crowd, run_id, new_run("order-1", seed="mine"))
        assert await wire.has_lost()
        assert committed.recorded
        assert (started.created, started.taken) == (True, True)
        assert len(await transactions(stage, run_id, 2, started.run_id)) == 1
        assert await stage.execute("SELECT count(*) FROM perdure.run WHERE instance = 'order-1'") == [(1,)]


@behaviour
async def test_a_start_survives_the_end_of_the_turn_that_it_goes_along_with(stage: PostgresStage) -> None:
    async with riders(stage, stage.dsn) as (store, crowd, run_id):
        async with await psycopg.AsyncConnection.connect(stage.dsn) as other:
            await other.execute("SELECT FROM perdure.worker FOR UPDATE")
            start = asyncio.create_task(store.start(new_run("order-1"), crowd))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            flush = asyncio.create_task(store.flush(crowd.lease, [commit(run_id, turn(2))]))
            await eventually(lambda: blocked(stage))
            flush.cancel()
            with pytest.raises(asyncio.CancelledError):
                await flush
            await other.rollback()
        started = await start
        assert (started.created, started.taken) == (True, True)
        assert (await store.flush(crowd.lease, [commit(run_id, turn(2))]))[0].recorded


@behaviour
async def test_a_pair_of_which_the_server_has_half_keeps_nobody_from_taking_over(stage: PostgresStage) -> None:
    async with AsyncExitStack() as stack:
        stack.enter_context(pytest.MonkeyPatch.context()).setattr(connection, "TRANSACTION", 1)
        wire = await stack.enter_async_context(Wire(stage.dsn))
        store, crowd, run_id = await stack.enter_async_context(riders(stage, wire.dsn()))
        other = await stage.worker("other")
        wire.halve_pair_with("INSERT INTO perdure.run (")
        going = asyncio.create_task(both(store, crowd, run_id, new_run("order-1")))
        await wire.halved.wait()
        await stage.execute("UPDATE perdure.worker SET expires_at = now() WHERE id = %s", crowd.lease.worker)

        async def reaped() -> bool:
            return (await asyncio.to_thread(stage.store.renew, other)).reaped

        await eventually(reaped)
        await stage.store.recover(other)
        assert run_id in [run.info.run_id for run in await stage.store.claim(other, 10)]
        going.cancel()
        await asyncio.gather(going, return_exceptions=True)


@behaviour
async def test_to_an_old_server_only_goes_a_pair_that_is_sent_at_once(stage: PostgresStage) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connection, "GIVES_UP", 1_000_000)
        async with riders(stage, stage.dsn) as (store, crowd, run_id):
            _, small = await both(store, crowd, run_id, new_run("order-1"))
            large = new_run("order-2", input=b'"' + b"x" * connection.ONE_SEND + b'"')
            _, alone = await both(store, crowd, run_id, large, seq=3)
            assert len(await transactions(stage, run_id, 2, small.run_id)) == 1
            assert alone.created
            assert len(await transactions(stage, run_id, 3, alone.run_id)) == 2


async def blocked(stage: PostgresStage) -> bool:
    """Tell whether a statement waits for another one's transaction."""
    (row,) = await stage.execute("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted")
    return bool(row[0])
