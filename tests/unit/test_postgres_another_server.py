"""Another server than the one that gave the lease: nothing is recorded there before the owner has made sure of it."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from perdure.model.runs import Commit, Park, RunId, Visible
from perdure.model.workers import Known
from perdure.store.base import ServerChangedError
from tests.support.stores import NAMESPACE, PostgresStage, behaviour, close, commit, signal, turn

NAMES = ["one turn", "last turn", "turns", "park", "what people see"]


def commits(name: str, runs: Sequence[RunId]) -> list[Commit]:
    return {
        "one turn": [commit(runs[0], turn(1))],
        "last turn": [commit(runs[0], turn(1), close())],
        "turns": [commit(run, turn(1)) for run in runs],
        "park": [commit(runs[0], Park(mail=0, wake_at=None)), commit(runs[1], turn(1), close())],
        "what people see": [commit(run, turn(1), visible=Visible(text="half")) for run in runs],
    }[name]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_recorded_on_another_server(stage: PostgresStage, name: str) -> None:
    @behaviour
    async def flush(stage: PostgresStage) -> None:
        lease = await stage.worker()
        runs = [await stage.owned(lease, f"order-{number}") for number in range(2)]
        before = await everything(stage)
        with pytest.raises(ServerChangedError):
            await stage.store.flush(msgspec.structs.replace(lease, server=lease.server - 1), commits(name, runs))
        assert await everything(stage) == before
        assert all(answer.recorded for answer in await stage.store.flush(lease, commits(name, runs)))

    flush(stage)


async def everything(stage: PostgresStage) -> list[Any]:
    return [await stage.execute(f"SELECT * FROM perdure.{table} ORDER BY 1, 2") for table in ("run", "history", "task")]


@behaviour
async def test_a_server_that_has_everything_is_trusted_from_then_on(stage: PostgresStage) -> None:
    lease = await stage.worker()
    run = await stage.owned(lease)
    await stage.store.deliver(NAMESPACE, "order-1", signal("go"))
    stale = msgspec.structs.replace(lease, server=lease.server - 1)
    assert await stage.store.remembers(stale, [Known(run, 0, 1)]) == lease
    assert await stage.store.remembers(stale, []) == lease
    assert (await asyncio.to_thread(stage.store.renew, lease)).server == lease.server


@pytest.mark.parametrize("missing", ["run", "turn", "message"])
def test_a_server_that_lacks_something_is_not_trusted(stage: PostgresStage, missing: str) -> None:
    @behaviour
    async def ask(stage: PostgresStage) -> None:
        lease = await stage.worker()
        run = await stage.owned(lease)
        known = {"run": Known(RunId(run + 1), 0, 0), "turn": Known(run, 1, 0), "message": Known(run, 0, 1)}
        assert await stage.store.remembers(lease, [Known(run, 0, 0), known[missing]]) is None
        assert (await stage.start("order-2")).run_id > run + 10_000, "numbers that were given before do not come again"

    ask(stage)


@behaviour
async def test_what_cannot_be_read_is_held_on_another_server_too(stage: PostgresStage) -> None:
    lease = await stage.worker()
    stale = msgspec.structs.replace(lease, server=lease.server - 1)
    run = (await stage.start()).run_id
    await stage.execute("INSERT INTO perdure.history VALUES (%s, 1, %s)", run, b"\2from the future")
    assert await stage.store.claim(stale, 5) == []
    assert (await stage.summary()).hold_reason == "UnreadableHistory"
