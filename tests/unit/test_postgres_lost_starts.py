"""A start whose answer was lost makes one run, even when that run has closed before the start is repeated."""

from __future__ import annotations

import asyncio

from perdure.store.postgres import PostgresStore
from tests.support.stores import NAMESPACE, PostgresStage, behaviour, eventually, new_run
from tests.support.wire import Wire


@behaviour
async def test_a_start_that_is_repeated_after_its_run_has_closed_makes_no_second_run(stage: PostgresStage) -> None:
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        wire.lose_answer_to("perdure.history")
        start = asyncio.create_task(store.start(new_run("order-1", seed="mine")))
        await eventually(wire.has_lost)
        await wire.go_down()
        closed = await stage.store.terminate(NAMESPACE, "order-1", "done already")
        wire.come_up()
        started = await start
        assert (started.run_id, started.created, started.taken) == (closed, True, False)
        assert await stage.store.terminate(NAMESPACE, "order-1", "") is None, "there is an open run"
        await store.close()


@behaviour
async def test_starts_beside_the_one_that_was_made_already_are_made(stage: PostgresStage) -> None:
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        wire.lose_answer_to("perdure.history")
        starts = [
            asyncio.create_task(store.start(new_run(f"order-{number}", seed=f"mine-{number}"))) for number in range(3)
        ]
        await eventually(wire.has_lost)
        await wire.go_down()
        closed = await stage.store.terminate(NAMESPACE, "order-1", "done already")
        wire.come_up()
        started = await asyncio.gather(*starts)
        assert started[1].run_id == closed
        assert len({answer.run_id for answer in started}) == 3
        assert (await stage.store.ended([answer.run_id for answer in started])).keys() == {closed}
        await store.close()


@behaviour
async def test_an_id_that_was_used_before_starts_a_new_run(stage: PostgresStage) -> None:
    first = await stage.start("order-1")
    await stage.store.terminate(NAMESPACE, "order-1", "")
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        await wire.cut()
        second = await store.start(new_run("order-1", seed="mine"))
        assert second.created
        assert second.run_id != first.run_id
        await store.close()
