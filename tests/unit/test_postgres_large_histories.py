"""Claims bring whole histories, and looks into the inbox all mail: only as much at a time as a worker has room for."""

from __future__ import annotations

import pytest

from perdure.model.runs import Park
from perdure.model.workers import Lease
from perdure.store.postgres import rows
from tests.support.stores import NAMESPACE, PostgresStage, behaviour, completed_activity, signal, turn

LARGE = f'"{1000 * "x"}"'


@pytest.fixture(autouse=True)
def _little_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "ENOUGH_FOR_A_CLAIM", 2000)
    monkeypatch.setattr(rows, "ENOUGH_FOR_A_LOOK", 2000)


async def claim(stage: PostgresStage, lease: Lease) -> list[tuple[str, bool]]:
    """Return which runs one claim takes, and what each says of others."""
    return [(run.info.id, run.left_others) for run in await stage.store.claim(lease, 10)]


@behaviour
async def test_a_claim_that_has_enough_bytes_leaves_the_other_runs_to_the_next_one(stage: PostgresStage) -> None:
    lease = await stage.worker()
    for number in range(5):
        await stage.start(f"order-{number}", input=f"[{LARGE}]".encode())
    assert await claim(stage, lease) == [("order-0", True), ("order-1", True)]
    other = await stage.worker("two")
    assert await claim(stage, other) == [("order-2", True), ("order-3", True)]
    assert await claim(stage, lease) == [("order-4", False)]
    assert await claim(stage, lease) == []


@behaviour
async def test_a_run_that_is_larger_than_enough_is_claimed_alone(stage: PostgresStage) -> None:
    lease = await stage.worker()
    for instance, size in (("small", 1), ("large", 5), ("last", 1)):
        await stage.start(instance, input=f"[{','.join(size * [LARGE])}]".encode())
    assert await claim(stage, lease) == [("small", True), ("large", True)]
    assert await claim(stage, lease) == [("last", False)]


@behaviour
async def test_messages_and_turns_weigh_as_much_as_input(stage: PostgresStage) -> None:
    lease = await stage.worker()
    for instance in ("order-1", "order-2", "order-3"):
        run_id = await stage.owned(lease, instance)
        end = completed_activity(1, LARGE)
        assert (await stage.flush(lease, run_id, turn(1, end), Park(mail=0, wake_at=None))).ended
    for instance in ("order-1", "order-2", "order-3"):
        await stage.store.deliver(NAMESPACE, instance, signal("1", LARGE))
    assert await claim(stage, lease) == [("order-1", True)]
    assert await claim(stage, lease) == [("order-2", True)]
    assert await claim(stage, lease) == [("order-3", False)]


@behaviour
async def test_a_look_that_has_enough_bytes_leaves_later_messages_to_the_next_one(stage: PostgresStage) -> None:
    lease = await stage.worker()
    runs = [await stage.owned(lease, f"order-{number}") for number in range(2)]
    for number in range(3):
        for instance in ("order-0", "order-1"):
            await stage.store.deliver(NAMESPACE, instance, signal(str(number), LARGE))

    async def look() -> list[tuple[int, int]]:
        return [(runs.index(item.run_id), item.number) for item in await stage.store.inbox(lease)]

    assert await look() == await look() == [(0, 1), (0, 2)]
    await stage.flush(lease, runs[0], turn(1), consumed=2)
    assert await look() == [(0, 3), (1, 1)]
    await stage.flush(lease, runs[0], turn(2), consumed=3)
    assert await look() == [(1, 1), (1, 2)]
    await stage.store.suspend(NAMESPACE, "order-0", suspended=True)
    assert await look() == [(0, 0), (1, 1), (1, 2)], "what holds a run up is no matter of bytes"
