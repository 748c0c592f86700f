"""A heartbeat whose answer was lost: what it took from vanished workers is found all the same."""

from __future__ import annotations

import asyncio

import pytest

from perdure.errors import StoreUnavailableError
from perdure.store.postgres import PostgresStore
from tests.support.stores import PostgresStage, behaviour
from tests.support.wire import Wire


@behaviour
async def test_a_heartbeat_that_was_repeated_says_that_workers_may_be_gone(stage: PostgresStage) -> None:
    lease = await stage.worker("two")
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        try:
            assert not (await asyncio.to_thread(store.renew, lease)).reaped
            wire.lose_answer_to("last_notes")
            assert (await asyncio.to_thread(store.renew, lease)).reaped
            assert wire.lost == 1
            assert not (await asyncio.to_thread(store.renew, lease)).reaped
        finally:
            await store.close()


@behaviour
async def test_the_first_heartbeat_after_one_that_failed_says_that_workers_may_be_gone(stage: PostgresStage) -> None:
    lease = await stage.worker("two")
    async with Wire(stage.dsn) as wire:
        store = await PostgresStore.connect(wire.dsn())
        try:
            assert not (await asyncio.to_thread(store.renew, lease)).reaped
            await wire.go_down()
            with pytest.raises(StoreUnavailableError):
                await asyncio.to_thread(store.renew, lease)
            wire.come_up()
            assert (await asyncio.to_thread(store.renew, lease)).reaped
        finally:
            await store.close()
