"""A hint wakes few workers. When those cannot take what there is, the others hear of it all the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeVar

import pytest

from perdure import Client, Limits, Worker, WorkflowHandle, activity, workflow
from perdure.model.hints import Hint
from perdure.runtime import claiming, relay, tenure
from perdure.store.postgres import PostgresStore
from tests.support.world import LIMIT, eventually, run_async

T = TypeVar("T")


class Door:
    """Where activities wait; made anew on the event loop of each test."""

    open: asyncio.Event


class FirstOnes(random.Random):
    """No chance: the workers that came first are chosen."""

    def sample(self, population: Sequence[T], k: int, *, counts: Any = None) -> list[T]:
        assert counts is None
        return list(population[:k])


@activity.define
async def wait_at_the_door() -> None:
    await Door.open.wait()


@activity.define
async def double(number: int) -> int:
    return 2 * number


@workflow.define
async def waits() -> None:
    await wait_at_the_door()


@workflow.define
async def doubles(number: int) -> int:
    return await double(number)


@pytest.fixture(autouse=True)
def no_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody look who has not heard of anything."""
    monkeypatch.setattr(claiming, "CLAIM_POLL", 3600.0)
    monkeypatch.setattr(tenure, "TASK_POLL", 3600.0)
    monkeypatch.setattr(tenure, "RECOVER_POLL", 3600.0)
    monkeypatch.setattr(relay, "LEAST", 0.0)


@asynccontextmanager
async def two_workers_and_an_idle_one(dsn: str, runs: int) -> AsyncIterator[tuple[Client, list[Worker]]]:
    """Lend a client that wakes the first two, and these, which have something to do."""
    Door.open = asyncio.Event()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client.connect(dsn))
        clients = [await stack.enter_async_context(Client.connect(dsn)) for _ in range(3)]
        busy: list[Worker] = []
        held: list[WorkflowHandle[None]] = []
        for there in clients[:2]:
            kinds: dict[str, Any] = {"workflows": [waits, doubles], "activities": [wait_at_the_door, double]}
            limits = Limits(runs=runs, drain=2 * LIMIT)
            busy.append(await stack.enter_async_context(Worker(there, limits=limits, **kinds)))
            await eventually(partial(_serves, busy[-1]))
            held.append(await there.start(waits))  # its own worker takes it
        idle = await stack.enter_async_context(Worker(clients[2], **kinds))
        await eventually(partial(_known, client, clients[2], idle))
        yield client, busy
        Door.open.set()
        for handle in held:
            await handle.result()


async def _serves(worker: Worker) -> bool:
    return worker.ready


async def _known(client: Client, there: Client, idle: Worker) -> bool:
    """Whether the last worker listens and the client would wake the first two."""
    assert isinstance(client.store, PostgresStore)
    assert isinstance(there.store, PostgresStore)
    hints = client.store._hints
    hints._fleets._chance = FirstOnes()
    client.store.hint(Hint(queues=frozenset({"default"})))
    ears = there.store._hints._ears
    listens = any(channel.startswith("perdure_worker_") for ear in ears for channel in ear._heard)
    fleets = hints._fleets._fleets
    return idle.ready and listens and sum(len(fleet.workers) for fleet in fleets) == 3


@run_async
async def test_a_run_goes_to_a_worker_that_has_room(migrated: str) -> None:
    async with two_workers_and_an_idle_one(migrated, runs=1) as (client, _):
        for number in range(5):
            assert await (await client.start(doubles, number)).result() == 2 * number


@run_async
async def test_a_run_goes_to_a_worker_that_stays(migrated: str) -> None:
    async with two_workers_and_an_idle_one(migrated, runs=10) as (client, busy):
        for worker in busy:
            worker.stop()

        async def leaving() -> bool:
            return all(worker._tenure is not None and worker._tenure.draining for worker in busy)

        await eventually(leaving)
        for number in range(5):
            assert await (await client.start(doubles, number)).result() == 2 * number
