"""What is asked of a run happens once when the answer is lost, and to no other run than the one that was open then."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from perdure.model.events import Incoming, SignalReceived, WorkflowExecutionCancelRequested
from perdure.model.runs import RunId
from perdure.model.workers import Lease
from perdure.store.postgres import PostgresStore
from tests.support.stores import NAMESPACE, PostgresStage, behaviour, close, eventually, names, raw, turn
from tests.support.wire import Wire

T = TypeVar("T")

SIGNAL = SignalReceived("approve", raw("true"), "5eb63bbbe01eeed093cb22bb8f5acdc3")
CANCEL = WorkflowExecutionCancelRequested("enough", "6f5902ac237024bdd0c176cb93063dc4")


@behaviour
async def test_a_signal_that_its_run_consumed_before_it_closed_is_delivered(stage: PostgresStage) -> None:
    await deliver_to_a_run_that_closes(stage, SIGNAL)


@behaviour
async def test_a_request_to_cancel_that_its_run_consumed_before_it_closed_is_delivered(stage: PostgresStage) -> None:
    await deliver_to_a_run_that_closes(stage, CANCEL)


async def deliver_to_a_run_that_closes(stage: PostgresStage, message: Incoming) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)

    async def consume() -> None:
        await stage.flush(lease, run_id, turn(1, message), close(), consumed=1)

    assert await unanswered(stage, lambda store: store.deliver(NAMESPACE, "order-1", message), consume) == run_id


async def unanswered(
    stage: PostgresStage,
    ask: Callable[[PostgresStore], Coroutine[Any, Any, T]],
    meanwhile: Callable[[], Coroutine[Any, Any, object]],
    statement: str = "perdure.inbox",
) -> T:
    """Ask, lose the answer, do something before the repeat, and return what the repeat says."""
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        wire.lose_answer_to(statement)
        asked = asyncio.create_task(ask(store))
        await eventually(wire.has_lost)
        await wire.go_down()
        await meanwhile()
        wire.come_up()
        answer = await asked
        await store.close()
        return answer


@behaviour
async def test_a_repeated_message_does_not_reach_another_run_of_the_same_id(stage: PostgresStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)

    async def consume_and_start_another() -> None:
        await stage.flush(lease, run_id, turn(1, CANCEL), close(), consumed=1)
        await stage.owned(lease)

    asked = unanswered(stage, lambda store: store.deliver(NAMESPACE, "order-1", CANCEL), consume_and_start_another)
    assert await asked == run_id
    assert await stage.store.inbox(lease) == []
    assert not (await stage.summary()).cancel_requested


@behaviour
async def test_a_message_that_was_delivered_is_not_put_into_the_inbox_a_second_time(stage: PostgresStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        wire.lose_answer_to("perdure.inbox")
        assert await store.deliver(NAMESPACE, "order-1", SIGNAL) == run_id
        assert wire.lost == 1
        assert names(await stage.store.inbox(lease)) == [(1, "approve")]
        await store.close()


@behaviour
async def test_a_message_that_never_arrived_is_delivered_by_the_repeat(stage: PostgresStage) -> None:
    lease = await stage.worker()
    run_id = await stage.owned(lease)
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        await wire.cut()
        assert await store.deliver(NAMESPACE, "order-1", SIGNAL) == run_id
        assert names(await stage.store.inbox(lease)) == [(1, "approve")]
        await store.close()


@behaviour
async def test_a_repeated_termination_does_not_end_another_run_of_the_same_id(stage: PostgresStage) -> None:
    first = await stage.start()
    asked = unanswered(stage, lambda store: store.terminate(NAMESPACE, "order-1", "enough"), stage.start)
    assert await asked == first.run_id
    second = await stage.summary()
    assert second.run_id != first.run_id
    assert not second.state.closed


@behaviour
async def test_a_repeated_suspension_does_not_hold_up_another_run_of_the_same_id(stage: PostgresStage) -> None:
    first = await stage.start()

    async def start_another() -> None:
        await stage.store.terminate(NAMESPACE, "order-1", "enough")
        await stage.start()

    def suspend(store: PostgresStore) -> Coroutine[Any, Any, RunId | None]:
        return store.suspend(NAMESPACE, "order-1", first.run_id, suspended=True)

    assert await unanswered(stage, suspend, start_another, "SET suspended") is None
    assert not (await stage.summary()).suspended


@behaviour
async def test_a_termination_is_not_mistaken_for_an_earlier_one_of_the_same_reason(stage: PostgresStage) -> None:
    await stage.start()
    await stage.store.terminate(NAMESPACE, "order-1", "enough")
    second = await stage.start()
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        await wire.cut()
        assert await store.terminate(NAMESPACE, "order-1", "enough") == second.run_id
        await store.close()


@behaviour
async def test_a_worker_that_takes_the_name_of_one_that_was_expelled_keeps_its_lease(stage: PostgresStage) -> None:
    await stage.owned(await stage.worker("shop-0"), key="uid-1")
    lease: Lease

    async def come_again() -> None:
        nonlocal lease
        lease = await stage.worker("shop-0")

    expelled = await unanswered(
        stage, lambda store: store.expire(NAMESPACE, "shop-0"), come_again, "DELETE FROM perdure.worker"
    )
    assert (expelled.workers, expelled.keys) == (1, ("uid-1",))
    assert len(await stage.store.claim(lease, 5)) == 1
