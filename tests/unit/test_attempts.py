"""Attempts and their tasks: whatever an activity does to its task or its context is felt by no other."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import ContextVar
from itertools import pairwise
from typing import Any

import msgspec
import pytest

from perdure import Limits, activity
from perdure.activity import Activity
from perdure.model.events import ActivityCompleted, ActivityFailed
from perdure.model.policies import ActivityOptions, RetryPolicy
from perdure.runtime.attempts import Attempts, Job, Verdict
from perdure.runtime.carriers import MOST
from perdure.telemetry.tally import Tally
from tests.support.world import eventually, run_async

ONCE = RetryPolicy(max_attempts=1)
colour: ContextVar[Any] = ContextVar("colour", default="none")


class Incomparable:
    """Like an array: to ask whether it equals another is an error."""

    def __eq__(self, other: object) -> bool:
        raise ValueError(f"ambiguous: {other}")

    __hash__ = None  # type: ignore[assignment]  # as whatever has an own equality


class Bench:
    """Attempts of one function, and what was reported of them, in order."""

    def __init__(self, function: Callable[..., Any], places: int = 100) -> None:
        self.activity: Activity[..., Any] = activity.define(retry=ONCE)(function)
        self.attempts = Attempts({self.activity.name: self.activity}, Limits(activities=places), Tally())
        self.told: list[tuple[int, Verdict]] = []
        self.on_verdict: Callable[[int], object] = lambda _: None
        """Called as the owner of a run is: in the context of the attempt."""
        self._news = asyncio.Event()

    def submit(self, seq: int, *args: object) -> None:
        """Ask for one attempt."""
        options = ActivityOptions(retry=ONCE)
        payload = msgspec.Raw(msgspec.json.encode(args))
        self.attempts.submit(Job(self.activity.name, 1, "default", "order", 7, seq, payload, options), self._note)

    def _note(self, job: Job, verdict: Verdict) -> None:
        self.told.append((job.seq, verdict))
        self._news.set()
        self.on_verdict(job.seq)

    async def results(self, count: int) -> dict[int, Any]:
        """Wait for so many verdicts; return what the attempts returned, or the messages of their failures."""
        async with asyncio.timeout(10):
            while len(self.told) < count:
                self._news.clear()
                await self._news.wait()
        return {seq: _plain(verdict) for seq, verdict in self.told}


async def until(seen: Callable[[], bool]) -> None:
    async def look() -> bool:
        return seen()

    await eventually(look)


def _plain(verdict: Verdict) -> Any:
    match verdict:
        case ActivityCompleted(result=result):
            return msgspec.json.decode(result)
        case ActivityFailed(failure=failure):
            return failure.message
    raise AssertionError(verdict)


@pytest.mark.parametrize("waits", [False, True], ids=["not waiting", "waiting"])
@pytest.mark.parametrize("value", ["red", Incomparable()], ids=["text", "incomparable"])
@run_async
async def test_an_activity_does_not_see_what_another_one_left_in_its_context(waits: bool, value: object) -> None:
    async def paint(seq: int) -> str:
        found = "none" if colour.get() == "none" else "another's"
        colour.set(value)
        if waits:
            await asyncio.sleep(0)
        return f"{seq} {found}"

    bench = Bench(paint)
    bench.on_verdict = lambda seq: bench.submit(seq + 1, seq + 1) if 2 < seq < 5 else None
    for seq in (1, 2, 3):
        bench.submit(seq, seq)
    assert await bench.results(5) == {seq: f"{seq} none" for seq in (1, 2, 3, 4, 5)}


@run_async
async def test_many_activities_that_never_wait_let_the_event_loop_breathe() -> None:
    """Those that wait for a place become ready while others are made, and would all be made in one go."""
    made: list[int] = []
    breaths: list[int] = []
    loop = asyncio.get_running_loop()

    async def note(seq: int) -> None:
        made.append(seq)

    def breathe() -> None:
        breaths.append(len(made))
        if len(made) < 100:
            loop.call_soon(breathe)

    bench = Bench(note, places=40)
    for seq in range(100):
        bench.submit(seq, seq)
    breathe()
    await bench.results(100)
    assert made == list(range(100))
    assert max(after - before for before, after in pairwise(breaths)) <= MOST


@run_async
async def test_activities_that_never_wait_are_made_one_after_the_other_in_one_task() -> None:
    tasks: set[asyncio.Task[Any] | None] = set()

    async def add(one: int) -> int:
        tasks.add(asyncio.current_task())
        return one + 1

    bench = Bench(add)
    for seq in range(20):
        bench.submit(seq, seq)
    assert await bench.results(20) == {seq: seq + 1 for seq in range(20)}
    assert [seq for seq, _ in bench.told] == list(range(20))
    assert len(tasks) == 1


@pytest.mark.parametrize("known", [False, True], ids=["at first", "later"])
@run_async
async def test_an_activity_that_waits_holds_up_no_other_and_has_a_task_of_its_own(known: bool) -> None:
    names: list[str] = []

    async def wait(seq: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        await gate.wait()
        names.append(task.get_name())
        return seq

    def waiting() -> int:
        return len(getattr(gate, "_waiters"))  # noqa: B009  # asyncio tells nobody who waits

    gate = asyncio.Event()
    bench = Bench(wait)
    if known:
        bench.submit(0, 0)
        await until(lambda: bool(bench.attempts.under_way) and waiting() == 1)
    for seq in (1, 2, 3):
        bench.submit(seq, seq)
    await until(lambda: waiting() == 3 + known)
    gate.set()
    await bench.results(3 + known)
    assert names[known:] == ["activity order/1 wait", "activity order/2 wait", "activity order/3 wait"]


@run_async
async def test_to_cancel_an_attempt_reaches_that_one_alone() -> None:
    ends: dict[int, str] = {}

    async def wait(seq: int, until_cancelled: bool) -> int:
        try:
            if until_cancelled:
                await asyncio.Event().wait()
        except asyncio.CancelledError:
            ends[seq] = "cancelled"
            raise
        ends[seq] = "done"
        return seq

    bench = Bench(wait)
    for seq in (1, 2, 3, 4):
        bench.submit(seq, seq, seq in (2, 3))
    await bench.results(2)
    bench.attempts.cancel(7, 2)
    await until(lambda: 2 in ends)
    bench.submit(5, 5, False)
    await bench.results(3)
    await bench.attempts.stop()
    assert ends == {1: "done", 4: "done", 2: "cancelled", 5: "done", 3: "cancelled"}


@run_async
async def test_an_activity_that_cancels_its_own_task_and_returns_harms_no_other() -> None:
    async def add(seq: int) -> int:
        task = asyncio.current_task()
        assert task is not None
        if seq == 1:
            task.cancel()
        else:
            await asyncio.sleep(0)
        return seq

    bench = Bench(add)
    for seq in (1, 2, 3):
        bench.submit(seq, seq)
    assert await bench.results(3) == {1: 1, 2: 2, 3: 3}


@pytest.mark.parametrize("why", ["cancelled", "timed out"])
@pytest.mark.parametrize("kind", ["on the event loop", "in a thread"])
@run_async
async def test_an_attempt_that_is_over_before_it_began_gives_its_place_back(kind: str, why: str) -> None:
    begun: list[int] = []

    async def note(seq: int) -> int:
        begun.append(seq)
        return seq

    def note_in_thread(seq: int) -> int:
        begun.append(seq)
        return seq

    bench = Bench(note if kind == "on the event loop" else note_in_thread)
    slots = bench.attempts.slots_of[bench.activity.name]
    free, room = slots.free, slots.room
    bench.submit(1, 1)
    if why == "cancelled":
        bench.attempts.cancel(7, 1)
    else:
        bench.attempts.under_way[7, 1]._expire("its time is up")  # as its timer does
    bench.submit(2, 2)
    assert (await bench.results(1 if why == "cancelled" else 2))[2] == 2
    await until(lambda: (slots.free, slots.room) == (free, room))
    await bench.attempts.stop()
    assert begun == [2]


@run_async
async def test_attempts_that_were_cancelled_while_they_waited_for_a_place_take_none() -> None:
    gate = asyncio.Event()

    async def wait(seq: int) -> int:
        await gate.wait()
        return seq

    bench = Bench(wait, places=1)
    slots = bench.attempts.slots_of["wait"]
    for seq in (1, 2, 3):
        bench.submit(seq, seq)
    assert (slots.free, slots.room, len(slots.queue)) == (0, 0, 2)
    bench.attempts.cancel(7, 2)
    gate.set()
    assert await bench.results(2) == {1: 1, 3: 3}
    await until(lambda: (slots.free, slots.room) == (1, 3))


class Stop(BaseException):
    """As pytest's `fail`: no `Exception`."""


ODD = (StopIteration, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError, SystemExit, Stop)


@pytest.mark.parametrize("error", ODD)
@run_async
async def test_a_thread_may_raise_what_no_future_takes(error: type[BaseException]) -> None:
    def find(name: str) -> str:
        if name == "nothing":
            raise error
        return name

    bench = Bench(find)
    bench.submit(1, "nothing")
    bench.submit(2, "tea")
    await bench.results(2)
    failed, completed = (verdict for _, verdict in sorted(bench.told, key=lambda told: told[0]))
    assert isinstance(failed, ActivityFailed)
    assert failed.failure.type.endswith(error.__name__)
    assert isinstance(completed, ActivityCompleted)
    await bench.attempts.stop()


@pytest.mark.parametrize("error", [asyncio.CancelledError, SystemExit, Stop])
@run_async
async def test_an_async_activity_may_raise_what_is_no_exception(error: type[BaseException]) -> None:
    async def find(name: str) -> str:
        if name == "nothing":
            raise error
        return name

    bench = Bench(find)
    for seq in range(4):
        bench.submit(seq, "nothing" if seq == 1 else "tea")
    await bench.results(4)
    kinds = {seq: type(verdict) for seq, verdict in bench.told}
    assert kinds == {seq: ActivityFailed if seq == 1 else ActivityCompleted for seq in range(4)}
    await bench.attempts.stop()


@run_async
async def test_a_failed_attempt_is_logged_with_the_place_where_it_failed(caplog: pytest.LogCaptureFixture) -> None:
    async def find(name: str) -> str:
        raise LookupError(name)

    bench = Bench(find)
    bench.submit(1, "tea")
    await bench.results(1)
    [record] = caplog.records
    said = record.getMessage()
    assert record.levelname == "WARNING"
    assert said.startswith("attempt 1 of activity find of order failed, no other follows: LookupError: tea\n")
    assert "raise LookupError(name)" in said
    await bench.attempts.stop()
