"""Starts that are asked for together begin together, and what goes wrong with some is no matter of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from perdure.errors import PayloadError
from perdure.model.events import Turn
from perdure.model.runs import ClaimedRun, RunId, Started
from perdure.model.workers import Lease
from perdure.store.base import Start
from tests.support.stores import NAMESPACE, PostgresStage, behaviour, new_run, scheduled, signal, turn


class Taking:
    """A worker that takes runs and notes how many begin at a time."""

    turn: Turn | None = None

    def __init__(self, lease: Lease) -> None:
        self.lease = lease
        self.begun: list[int] = []
        self.taken: list[str] = []
        self.drops = 0

    def takes_along(self, starts: int) -> bool:
        assert starts > 0
        return False

    def begin(self, starts: Sequence[Start]) -> list[Taking]:
        self.begun.append(len(starts))
        return [self] * len(starts)

    def took(self, run: ClaimedRun) -> None:
        self.taken.append(run.info.id)

    def dropped(self) -> None:
        self.drops += 1


class Broken(Taking):
    """A worker with a bug."""

    def begin(self, starts: Sequence[Start]) -> list[Taking]:
        raise RuntimeError(f"a bug met by {len(starts)}")


@behaviour
async def test_starts_that_are_asked_for_in_one_round_of_the_event_loop_begin_together(stage: PostgresStage) -> None:
    one, other = Taking(await stage.worker()), Taking(await stage.worker())
    asked = [stage.store.start(new_run(f"order-{number}"), one if number < 7 else other) for number in range(10)]
    started = await asyncio.gather(*asked)
    assert all(each.created for each in started)
    assert (one.begun, other.begun) == ([7], [3])
    assert one.taken == [f"order-{number}" for number in range(7)]


@behaviour
async def test_a_first_turn_that_cannot_be_recorded_fails_its_own_start_and_no_other(stage: PostgresStage) -> None:
    taker = Taking(await stage.worker())
    broken = Taking(taker.lease)
    broken.turn = turn(0, scheduled(1, "half \ud800"))
    taker.begin = lambda starts: [broken if new.id == "order-1" else taker for new, _ in starts]  # type: ignore[method-assign]  # a turn for one of them
    asked = [stage.store.start(new_run(f"order-{number}"), taker) for number in range(3)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [type(result) for result in results] == [Started, PayloadError, Started]
    assert (taker.taken, broken.drops) == (["order-0", "order-2"], 1)


@behaviour
async def test_a_message_that_cannot_be_packed_fails_alone(stage: PostgresStage) -> None:
    started = await stage.start()
    asked = [
        stage.store.deliver(NAMESPACE, "order-1", signal(name), run) for name, run in (("a", None), ("b", RunId(2**70)))
    ]
    told, refused = await asyncio.gather(*asked, return_exceptions=True)
    assert told == started.run_id
    assert isinstance(refused, PayloadError)


@behaviour
async def test_a_start_that_was_given_up_before_it_began_is_not_made(stage: PostgresStage) -> None:
    taker = Taking(await stage.worker())
    starts = [asyncio.create_task(stage.store.start(new_run(f"order-{number}"), taker)) for number in range(3)]
    asyncio.get_running_loop().call_soon(starts[1].cancel)  # after it has asked, before anything begins
    results = await asyncio.gather(*starts, return_exceptions=True)
    assert [type(result) for result in results] == [Started, asyncio.CancelledError, Started]
    assert (taker.begun, taker.taken) == ([2], ["order-0", "order-2"])
    assert await stage.execute("SELECT instance FROM perdure.run ORDER BY instance") == [("order-0",), ("order-2",)]


@behaviour
async def test_a_start_that_is_given_up_alone_leaves_nothing_to_write(stage: PostgresStage) -> None:
    start = asyncio.create_task(stage.store.start(new_run("order-0"), Taking(await stage.worker())))
    asyncio.get_running_loop().call_soon(start.cancel)
    with pytest.raises(asyncio.CancelledError):
        await start
    assert (await stage.store.start(new_run("order-0"))).created


@behaviour
async def test_whoever_asked_a_worker_with_a_bug_is_told_and_nobody_else(stage: PostgresStage) -> None:
    taker, broken = Taking(await stage.worker()), Broken(await stage.worker())
    asked = [stage.store.start(new_run(f"order-{number}"), (taker, broken)[number % 2]) for number in range(4)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert [repr(result) for result in results[1::2]] == ["RuntimeError('a bug met by 2')"] * 2
    assert taker.taken == ["order-0", "order-2"]
