"""When commits are written: in step with the turns that they come from, and never later than the last of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

import pytest

from perdure.errors import RunEvicted
from perdure.model.runs import Commit, Committed, Release, RunId, WorkerId
from perdure.model.workers import Lease
from perdure.runtime import flush
from perdure.runtime.flush import CROWD, FEW, PATIENCE, Answer, Flusher
from perdure.runtime.pace import ENOUGH
from perdure.runtime.turns import SLICE, TurnQueue
from perdure.store.memory import MemoryStore
from perdure.telemetry.tally import Tally
from tests.support.world import run_async

LEASE = Lease(WorkerId(1), 1, "default", "here")


def commit() -> Commit:
    """Return one that is easy to make."""
    return Commit(run_id=RunId(1), ending=Release())


class Recording(MemoryStore):
    """Takes note of what each flush brings, and holds it until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.error: Exception | None = None

    async def flush(self, lease: Lease, commits: Sequence[Commit]) -> list[Committed]:
        del lease
        self.batches.append(len(commits))
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return [Committed(recorded=True, ended=False) for _ in commits]


class Bench:
    """A flusher and a queue of turns, each of which submits one commit or none."""

    def __init__(self) -> None:
        self.store = Recording()
        self.turns = TurnQueue()
        self.lost = asyncio.Event()
        self.flusher = Flusher(self.store, LEASE, self.turns, Tally(), self.lost.set)
        self.answers: list[Answer] = []
        self.told: list[int] = []
        """For each answer that was noted, how many batches had been written by then."""
        self.news = asyncio.Event()

    def turn(self) -> None:
        self.flusher.submit(commit(), self.keep)

    def keep(self, answer: Answer) -> None:
        self.answers.append(answer)
        self.news.set()

    def note(self, answer: Answer) -> None:
        self.told.append(len(self.store.batches))
        self.keep(answer)

    async def answered(self, count: int) -> None:
        while len(self.answers) < count:
            self.news.clear()
            await self.news.wait()


@run_async
async def test_a_commit_alone_is_written_at_once() -> None:
    bench = Bench()
    bench.turns.add(bench.turn)
    await bench.answered(1)
    assert bench.store.batches == [1]


@run_async
async def test_turns_go_on_while_commits_are_written() -> None:
    bench = Bench()
    bench.store.gate.clear()
    for _ in range(9 * SLICE):
        bench.turns.add(bench.turn)
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(bench.turns) == 0
    assert bench.store.batches == [6 * SLICE], "two thirds, so that there are two groups"
    bench.store.gate.set()
    await bench.answered(9 * SLICE)
    assert bench.store.batches == [6 * SLICE, 3 * SLICE]


@run_async
async def test_the_next_group_is_written_before_the_last_one_is_told() -> None:
    bench = Bench()
    bench.store.gate.clear()
    for _ in range(3 * SLICE):
        bench.flusher.submit(commit(), bench.note)
    await asyncio.sleep(0)
    assert bench.store.batches == [2 * SLICE]
    bench.store.gate.set()
    await bench.answered(3 * SLICE)
    assert bench.told == [2] * (3 * SLICE)


@run_async
async def test_a_third_of_a_crowd_is_a_group() -> None:
    """Told first, they would join the others: everything would wait for the database, and then it for everything."""
    bench = Bench()
    bench.store.gate.clear()
    for _ in range(39):
        bench.flusher.submit(commit(), bench.note)
    await asyncio.sleep(0)
    bench.store.gate.set()
    await bench.answered(39)
    assert bench.store.batches == [26, 13]
    assert bench.told == [2] * 39


@run_async
async def test_a_crowd_moves_as_one_where_a_write_takes_longer_than_all_its_turns() -> None:
    """A slow disk, or a network between: with groups, each run would wait for the writes of the others, too."""
    bench = Bench()
    for _ in range(ENOUGH):
        bench.flusher.pace.wrote(30, seconds=0.004, computed=0.001)
    again = [39]

    def note(answer: Answer) -> None:
        bench.keep(answer)
        if again[0]:
            again[0] -= 1
            bench.turns.add(bench.turn)

    for _ in range(39):
        bench.flusher.submit(commit(), note)
    await bench.answered(2 * 39)
    assert bench.store.batches == [39, 39]


@run_async
async def test_a_crowd_that_grows_moves_in_groups_when_its_turns_take_as_long_as_a_write() -> None:
    bench = Bench()
    bench.store.gate.clear()
    for _ in range(ENOUGH):
        bench.flusher.pace.wrote(30, seconds=0.004, computed=0.001)
    for _ in range(120):
        bench.flusher.submit(commit(), bench.keep)
    await asyncio.sleep(0)
    bench.store.gate.set()
    await bench.answered(120)
    assert bench.store.batches == [80, 40]


@run_async
async def test_starts_that_wait_belong_to_the_group_that_is_written_next() -> None:
    """Where many runs end in step, the database would wait until as many others have been started."""
    bench = Bench()
    bench.store.gate.clear()
    for _ in range(20):
        bench.flusher.submit(commit(), bench.note)
    await asyncio.sleep(0)
    bench.flusher.starting = 12
    for _ in range(4):
        bench.flusher.submit(commit(), bench.keep)
    bench.store.gate.set()
    await bench.answered(24)
    assert bench.store.batches == [20, 4]
    assert bench.told == [2] * 20


@pytest.mark.parametrize(
    ("moving", "waiting", "starts", "along"),
    [(0, 0, 1, False), (0, 1, 1, True), (FEW, 0, FEW - 1, True), (3 * FEW, 0, FEW, False), (0, 1, 3 * FEW, True)],
)
@run_async
async def test_starts_go_along_with_turns_unless_they_are_many_and_none_waits(
    moving: int, waiting: int, starts: int, along: bool
) -> None:
    bench = Bench()
    bench.store.gate.clear()
    bench.flusher.starting = starts
    for _ in range(moving):
        bench.turns.add(lambda: None)
    for _ in range(waiting):
        bench.flusher.submit(commit(), bench.keep)
    assert bench.flusher.takes_along(starts) is along
    bench.store.gate.set()
    await bench.answered(waiting)


@run_async
async def test_runs_that_are_no_crowd_move_as_one_group() -> None:
    bench = Bench()
    again = [CROWD - 1]

    def note(answer: Answer) -> None:
        bench.keep(answer)
        if again[0]:
            again[0] -= 1
            bench.turns.add(bench.turn)

    for _ in range(CROWD - 1):
        bench.flusher.submit(commit(), note)
    await bench.answered(2 * (CROWD - 1))
    assert bench.store.batches == [CROWD - 1, CROWD - 1]


@run_async
async def test_a_few_that_wait_are_told_first_and_written_with_what_follows() -> None:
    bench = Bench()
    bench.store.gate.clear()
    for _ in range(3):
        bench.flusher.submit(commit(), lambda _: bench.turns.add(bench.turn))
    await asyncio.sleep(0)
    bench.flusher.submit(commit(), bench.keep)
    bench.store.gate.set()
    await bench.answered(4)
    assert bench.store.batches == [3, 4]


@run_async
async def test_what_the_first_answers_set_in_motion_begins_before_the_last_are_told() -> None:
    bench = Bench()
    begun: list[int] = []

    def note(answer: Answer) -> None:
        bench.keep(answer)
        if len(bench.answers) == 1:
            asyncio.get_running_loop().call_soon(lambda: begun.append(len(bench.answers)))

    bench.store.gate.clear()
    for _ in range(2 * SLICE):
        bench.flusher.submit(commit(), note)
    await asyncio.sleep(0)
    bench.store.gate.set()  # for the first group; the second one is still in flight when the first is told
    bench.store.gate.clear()
    await bench.answered(1)
    bench.store.gate.set()
    await bench.answered(2 * SLICE)
    assert bench.store.batches[0] > SLICE
    assert begun == [SLICE]


@run_async
async def test_answers_do_not_wait_long_for_slow_turns() -> None:
    bench = Bench()
    bench.store.gate.clear()
    for _ in range(SLICE):
        bench.flusher.submit(commit(), bench.keep)
    await asyncio.sleep(0)
    for _ in range(100 * SLICE):
        bench.turns.add(lambda: time.sleep(PATIENCE / SLICE))
    bench.store.gate.set()
    await bench.answered(SLICE)
    assert len(bench.turns) > 50 * SLICE


@run_async
async def test_commits_do_not_wait_for_turns_that_record_nothing() -> None:
    bench = Bench()
    bench.turns.add(bench.turn)
    for _ in range(3 * SLICE):
        bench.turns.add(lambda: None)
    await bench.answered(1)


@run_async
async def test_a_turn_that_raises_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()

    def broken() -> None:
        raise RuntimeError("a bug")

    for take_turn in (bench.turn, broken, bench.turn):
        bench.turns.add(take_turn)
    await bench.answered(2)
    assert "a run could not take its turn" in caplog.text


@run_async
async def test_a_turn_that_ends_as_no_turn_may_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()

    def evicted() -> None:
        raise RunEvicted

    for take_turn in (evicted, bench.turn):
        bench.turns.add(take_turn)
    await bench.answered(1)
    assert "Exception in callback" in caplog.text


@run_async
async def test_a_write_that_fails_as_nobody_foresaw_ends_the_tenure_instead_of_losing_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bench = Bench()
    bench.store.error = TypeError("a bug")
    bench.turns.add(bench.turn)
    await bench.lost.wait()
    assert bench.answers == []
    assert "the worker starts afresh" in caplog.text


@run_async
async def test_an_answer_that_is_taken_as_nobody_foresaw_ends_the_tenure(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()

    def broken(_: Answer) -> None:
        raise RuntimeError("a bug")

    bench.flusher.submit(commit(), broken)
    await bench.lost.wait()
    assert "the worker starts afresh" in caplog.text


@run_async
async def test_nothing_is_written_once_the_flusher_has_stopped() -> None:
    bench = Bench()
    await bench.flusher.stop()
    bench.flusher.submit(commit(), bench.keep)
    for _ in range(5):
        await asyncio.sleep(0)
    assert bench.store.batches == []


@run_async
async def test_a_write_without_an_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flush, "STALL", 0.05)
    bench = Bench()
    seen = [bench.flusher.stalled]
    bench.store.gate.clear()
    bench.turns.add(bench.turn)
    await asyncio.sleep(0)
    seen.append(bench.flusher.stalled)
    while not bench.flusher.stalled:  # noqa: ASYNC110  # as the tenure asks
        await asyncio.sleep(0.01)
    bench.store.gate.set()
    await bench.answered(1)
    seen.append(bench.flusher.stalled)
    assert seen == [False, False, False]
