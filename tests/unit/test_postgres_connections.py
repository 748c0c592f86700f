"""Lost connections, lost answers, poolers: what a lane does when the wire to PostgreSQL fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec
import psycopg
import pytest

from perdure.errors import LeaseLostError, RequestError, SchemaVersionError, StoreError, StoreUnavailableError
from perdure.model.events import WorkflowExecutionStarted
from perdure.model.hints import Hint
from perdure.model.payload import encode
from perdure.model.runs import ClaimAnswer, NewTask, Park, RunId, RunState, TaskDone
from perdure.model.workers import Lease
from perdure.store.base import RunFilter
from perdure.store.postgres import PostgresStore, migrate
from perdure.store.postgres.address import Address
from tests.support.stores import (
    NAMESPACE,
    PostgresStage,
    announced,
    behaviour,
    close,
    commit,
    completed_activity,
    eventually,
    new_run,
    signal,
    turn,
    worker_info,
)
from tests.support.wire import Wire


async def over_wire(stage: PostgresStage, test: Callable[[Wire, PostgresStore], Awaitable[None]]) -> None:
    """Run a test with a store whose connections go through a wire; at the end the answer was lost once."""
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        try:
            await test(wire, store)
            assert wire.lost == 1, "the test lost no answer"
        finally:
            await store.close()


@behaviour
async def test_a_start_whose_answer_is_lost_makes_one_run(stage: PostgresStage) -> None:
    async def test(wire: Wire, store: PostgresStore) -> None:
        wire.lose_answer_to("perdure.history")
        started = await store.start(new_run("order-1"))
        assert (await stage.summary()).run_id == started.run_id
        assert (store.statements["start_one"], store.statements["born"]) == (1, 1)

    await over_wire(stage, test)


@behaviour
async def test_a_claim_whose_answer_is_lost_strands_no_run(stage: PostgresStage) -> None:
    async def test(wire: Wire, store: PostgresStore) -> None:
        runs = [(await stage.start(f"order-{number}")).run_id for number in range(5)]
        lease = await stage.worker()
        wire.lose_answer_to("perdure.status_change")
        assert [run.info.run_id for run in await store.claim(lease, 3)] == runs[:3]
        assert [run.info.run_id for run in await store.claim(lease, 3)] == runs[3:]

    await over_wire(stage, test)


@behaviour
async def test_a_claim_that_gave_up_is_settled_by_the_next_one(stage: PostgresStage) -> None:
    async def test(wire: Wire, store: PostgresStore) -> None:
        run_id = (await stage.start()).run_id
        lease = await stage.worker()
        wire.lose_answer_to("perdure.status_change")
        claim = asyncio.create_task(store.claim(lease, 3))
        await eventually(wire.has_lost)
        await wire.go_down()
        claim.cancel()
        await asyncio.gather(claim, return_exceptions=True)
        wire.come_up()
        assert [run.info.run_id for run in await store.claim(lease, 3)] == [run_id]
        assert await store.claim(lease, 3) == []

    await over_wire(stage, test)


@behaviour
async def test_an_announced_run_whose_claim_is_not_answered_comes_with_the_next_claim(stage: PostgresStage) -> None:
    async def test(wire: Wire, store: PostgresStore) -> None:
        lease = await stage.worker()
        run_id = (await stage.start()).run_id
        run = await announced(stage.store, run_id)
        others = [(await stage.start(f"order-{number}")).run_id for number in (2, 3)]
        wire.lose_answer_to("perdure.status_change")
        another = await announced(stage.store, others[0], "order-2")
        assert await store.claim_announced(lease, run, turn(1)) is ClaimAnswer.UNSURE
        assert await store.claim_announced(lease, another, turn(1)) is ClaimAnswer.UNSURE
        (claimed,) = await store.claim(lease, 3)
        assert (claimed.info.run_id, [turn.seq for turn in claimed.history]) == (run_id, [0, 1])
        assert [run.info.run_id for run in await store.claim(lease, 3)] == others

    await over_wire(stage, test)


@behaviour
async def test_a_claim_that_never_reached_the_server_takes_runs_when_it_is_repeated(stage: PostgresStage) -> None:
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        lease = await stage.worker()
        await stage.start()
        await wire.cut()
        assert len(await store.claim(lease, 3)) == 1
        await store.close()


@behaviour
async def test_a_flush_whose_answer_is_lost_is_answered_as_if_it_were_not(stage: PostgresStage) -> None:
    async def test(wire: Wire, store: PostgresStore) -> None:
        lease = await stage.worker()
        runs = [await stage.owned(lease, f"order-{number}") for number in range(3)]
        await stage.store.deliver(NAMESPACE, "order-2", signal("a"))
        wire.lose_answer_to("perdure.history")
        answers = await store.flush(
            lease,
            [
                commit(runs[0], turn(1)),
                commit(runs[1], turn(1), close()),
                commit(runs[2], turn(1), Park(mail=0, wake_at=None)),
            ],
        )
        assert [(answer.recorded, answer.ended) for answer in answers] == [(True, False), (True, True), (True, False)]
        assert (await stage.summary("order-2")).state is RunState.OWNED

    await over_wire(stage, test)


@behaviour
async def test_tasks_whose_claim_or_end_is_not_answered_are_neither_lost_nor_doubled(stage: PostgresStage) -> None:
    async def test(wire: Wire, store: PostgresStore) -> None:
        lease = await stage.worker()
        run_id = await stage.owned(lease)
        tasks = tuple(NewTask(seq=seq, queue="default", name="a", input=b"[]", options=b"{}") for seq in (1, 2))
        await stage.flush(lease, run_id, turn(1), tasks=tasks)
        wire.lose_answer_to("perdure.task")
        assert [task.seq for task in await store.claim_tasks(lease, 5)] == [1, 2]
        assert wire.lost == 1
        wire.lose_answer_to("perdure.inbox")
        await store.finish_tasks(
            lease, [TaskDone(run_id=run_id, seq=seq, event=completed_activity(seq)) for seq in (1, 2)]
        )
        assert wire.lost == 2
        wire.lost -= 1
        assert [item.number for item in await stage.store.inbox(lease)] == [1, 2]

    await over_wire(stage, test)


@behaviour
async def test_a_termination_whose_answer_is_lost_is_still_a_termination(stage: PostgresStage) -> None:
    async def test(wire: Wire, store: PostgresStore) -> None:
        lease = await stage.worker()
        run_id = await stage.owned(lease)
        wire.lose_answer_to("perdure.inbox")
        assert await store.terminate(NAMESPACE, "order-1", "enough") == run_id
        assert (await stage.types(run_id)).count("WorkflowExecutionTerminated") == 1
        assert len(await stage.store.inbox(lease)) == 1

    await over_wire(stage, test)


@behaviour
async def test_a_heartbeat_whose_answer_is_lost_is_repeated(stage: PostgresStage) -> None:
    async def test(wire: Wire, store: PostgresStore) -> None:
        lease = await stage.worker()
        wire.lose_answer_to("expires_at")
        await asyncio.to_thread(store.renew, lease)
        await asyncio.to_thread(store.renew, lease)
        await stage.store.resign(lease)
        with pytest.raises(LeaseLostError):
            await asyncio.to_thread(store.renew, lease)

    # The first statement of a fresh connection has no older try behind it, so the lane says that nobody answered.
    async def unavailable_at_first(wire: Wire, store: PostgresStore) -> None:
        lease = await stage.worker("two")
        await asyncio.to_thread(store.renew, lease)
        await test(wire, store)

    await over_wire(stage, unavailable_at_first)


@behaviour
async def test_a_server_that_ends_our_connections_is_asked_again(stage: PostgresStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    kill = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'perdure'"
    for seq in range(1, 4):
        await stage.execute(kill + " AND datname = current_database() AND pid <> pg_backend_pid()")
        assert (await stage.flush(lease, run_id, turn(seq))).recorded
        assert (await stage.summary()).run_id == run_id
        await stage.store.deliver(NAMESPACE, "order-1", signal(f"{seq}"))
    assert len(await stage.store.inbox(lease)) == 3


@behaviour
async def test_a_cancelled_statement_leaves_a_lane_that_works(stage: PostgresStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    for seq in range(1, 6):
        flush = asyncio.create_task(stage.flush(lease, run_id, turn(seq)))
        for _ in range(seq):
            await asyncio.sleep(0)
        flush.cancel()
        await asyncio.gather(flush, return_exceptions=True)
        assert (await stage.flush(lease, run_id, turn(seq))).recorded
    assert len(await stage.store.history(run_id)) == 6


@behaviour
async def test_a_cancelled_statement_is_not_carried_out_when_it_comes_to_its_turn_later(stage: PostgresStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    async with await psycopg.AsyncConnection.connect(stage.dsn) as other:
        await other.execute("SELECT FROM perdure.worker FOR UPDATE")
        flush = asyncio.create_task(stage.flush(lease, run_id, turn(1)))
        await eventually(lambda: _waiting(stage.dsn, 1))
        flush.cancel()
        await asyncio.gather(flush, return_exceptions=True)
        await eventually(lambda: _waiting(stage.dsn, 0))
    assert len(await stage.store.history(run_id)) == 1
    assert (await stage.flush(lease, run_id, turn(1))).recorded


async def _waiting(dsn: str, count: int) -> bool:
    """Tell whether so many statements wait for a lock."""
    async with await psycopg.AsyncConnection.connect(dsn) as connection:
        cursor = await connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return await cursor.fetchone() == (count,)


@behaviour
async def test_a_statement_that_is_larger_than_any_buffer_arrives_whole(stage: PostgresStage) -> None:
    large = bytes(encode("x" * 2_000_000, "the input"))
    started = await stage.store.start(msgspec.structs.replace(new_run("large"), input=large))
    (first, *_) = await stage.store.history(started.run_id)
    assert isinstance(first.event, WorkflowExecutionStarted)
    assert bytes(first.event.input) == large


@behaviour
async def test_a_connection_that_ends_while_nobody_uses_it_is_replaced_before_the_next_statement(
    stage: PostgresStage,
) -> None:
    await stage.store.list_runs(NAMESPACE, RunFilter())
    sent = stage.store.statements["list_runs"]
    async with await psycopg.AsyncConnection.connect(stage.dsn, autocommit=True) as other:
        await other.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        )
    for _ in range(3):
        await asyncio.sleep(0)  # the event loop looks at its sockets
    assert await stage.store.list_runs(NAMESPACE, RunFilter()) == []
    assert stage.store.statements["list_runs"] == sent + 1, "it was not sent in vain first"


@behaviour
async def test_a_heartbeat_says_at_once_that_nobody_answers(stage: PostgresStage) -> None:
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        lease = await store.register(worker_info("one"))
        await asyncio.to_thread(store.renew, lease)
        await wire.go_down()
        with pytest.raises(StoreUnavailableError, match="cannot be reached"):
            await asyncio.to_thread(store.renew, lease)
        wire.come_up()
        await asyncio.to_thread(store.renew, lease)
        await store.close()


@behaviour
async def test_the_error_for_a_server_that_is_away_names_the_place_and_not_the_password(stage: PostgresStage) -> None:
    async with Wire(stage.dsn) as wire:
        dsn = wire.dsn(password="s3cret")
        await wire.go_down()
        with pytest.raises(StoreUnavailableError) as caught:
            await PostgresStore.connect(dsn)
        assert "127.0.0.1:" in str(caught.value)
        assert "Check that it runs" in str(caught.value)
        assert "s3cret" not in str(caught.value)
        with pytest.raises(StoreUnavailableError):
            await asyncio.to_thread(migrate, dsn)


@pytest.mark.parametrize("url", ["postgresql://u:s3cret@[::1/db", "postgresql://u:s3cret@host/db?nonsense=1"])
def test_a_url_that_cannot_be_read_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(RequestError, match="postgresql://user@host") as caught:
        Address.parse(url)
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_settings_in_the_url_go_before_our_own() -> None:
    address = Address.parse("postgresql://u@h:6432/shop?application_name=mine&pgbouncer=true&options=-c%20a.b%3D1")
    assert "application_name=mine" in address.conninfo
    assert "pgbouncer" not in address.conninfo
    assert (address.host, address.database, address.pooler) == ("h:6432", "shop", True)
    settings = address.with_settings(hot=True)
    assert settings.index("-c a.b=1") < settings.index("-c default_transaction_isolation") < settings.index("-c plan_")


async def use_everything(store: PostgresStore) -> None:
    """Go through the life of a run on this store."""
    lease: Lease = await store.register(worker_info("one"))
    started = await store.start(new_run("order-1", key="uid-1"))
    await store.deliver(NAMESPACE, "order-1", signal("a"))
    (claimed,) = await store.claim(lease, 5)
    await asyncio.to_thread(store.renew, lease)
    run_id: RunId = claimed.info.run_id
    task = NewTask(seq=1, queue="default", name="a", input=b"[]", options=b"{}")
    for seq in range(1, 8):
        (answer,) = await store.flush(lease, [commit(run_id, turn(seq), consumed=1, tasks=(task,) if seq == 1 else ())])
        assert answer.recorded
        await store.inbox(lease)
    await store.claim_tasks(lease, 5)
    await store.finish_tasks(lease, [TaskDone(run_id=run_id, seq=1, event=completed_activity(1))])
    await store.recover(lease)
    await store.flush(lease, [commit(run_id, turn(8), close())])
    found = await store.describe(NAMESPACE, "order-1")
    assert found is not None
    assert (found.run_id, found.state) == (started.run_id, RunState.COMPLETED)
    assert len(await store.status_changes(10)) == 2
    await store.resign(lease)


@behaviour
async def test_everything_but_listening_works_as_a_pooler_allows(stage: PostgresStage) -> None:
    store = await PostgresStore.connect(stage.dsn + ("&" if "?" in stage.dsn else "?") + "pgbouncer=true")
    try:
        await use_everything(store)
        with pytest.raises(StoreError, match="polling"):
            await anext(aiter(store.listen()))
        store.hint(Hint(queues=frozenset({"default"})))
    finally:
        await store.close()


@behaviour
async def test_a_pooler_that_refuses_our_settings_is_found_out(stage: PostgresStage) -> None:
    async with Wire(stage.dsn, refuses_options=True) as wire:
        store = await PostgresStore.connect(wire.dsn())
        try:
            await use_everything(store)
            assert wire.refused == 1
            with pytest.raises(StoreError, match="PgBouncer"):
                await anext(aiter(store.listen()))
        finally:
            await store.close()


def test_a_database_without_the_schema_says_what_to_run(database: str) -> None:
    async def connect() -> None:
        await PostgresStore.connect(database)

    with pytest.raises(SchemaVersionError, match="perdure migrate"):
        asyncio.run(connect())
