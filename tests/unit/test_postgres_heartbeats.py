"""Details of heartbeats on PostgreSQL: rows that are gone when their run has closed, however it closes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest

from perdure.model.runs import Heartbeat, RunId, Visible
from perdure.model.workers import Lease
from perdure.store.postgres import migrate
from tests.support.stores import NAMESPACE, PostgresStage, behaviour, close, commit, scheduled, turn

Closer = Callable[[PostgresStage, Lease, RunId], Awaitable[object]]


async def last_turn(stage: PostgresStage, lease: Lease, run_id: RunId) -> None:
    await stage.flush(lease, run_id, turn(2), close())


async def turns(stage: PostgresStage, lease: Lease, run_id: RunId) -> None:
    company = await stage.owned(lease, "order-3")
    await stage.store.flush(lease, [commit(run_id, turn(2), close()), commit(company, turn(1))])


async def more_than_turns(stage: PostgresStage, lease: Lease, run_id: RunId) -> None:
    await stage.flush(lease, run_id, turn(2), close(), visible=Visible(text="done"))


async def terminate(stage: PostgresStage, lease: Lease, run_id: RunId) -> None:
    del lease, run_id
    await stage.store.terminate(NAMESPACE, "order-1", "enough")


@pytest.mark.parametrize("closing", [last_turn, turns, more_than_turns, terminate])
def test_a_run_that_closes_keeps_no_details_and_takes_no_more(database: str, closing: Closer) -> None:
    migrate(database)

    @behaviour
    async def close_it(stage: PostgresStage) -> None:
        async def kept() -> list[tuple[object, ...]]:
            return await stage.execute("SELECT run_id, seq FROM perdure.heartbeat ORDER BY run_id")

        lease = await stage.worker()
        run_id, other = await stage.owned(lease), await stage.owned(lease, "order-2")
        for run in (run_id, other):
            await stage.flush(lease, run, turn(1, scheduled(1)))
        beats = [Heartbeat(run_id, 1, b"7"), Heartbeat(other, 1, b"8")]
        await stage.store.heartbeat(lease, beats)
        assert await kept() == [(run_id, 1), (other, 1)]
        await closing(stage, lease, run_id)
        assert await kept() == [(other, 1)]
        await stage.store.heartbeat(lease, beats)
        assert await kept() == [(other, 1)]

    close_it(PostgresStage(database))
