"""The watchdog against real turns: what it interrupts, what it leaves alone, and that it strikes nowhere else."""

import asyncio
import importlib
import logging
import resource
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from perdure import workflow
from perdure.engine.loop import RunLoop, turning
from perdure.engine.run import Run
from perdure.errors import EngineFault, RunEvicted, TurnTimedOutError
from perdure.model.events import TurnHeader, WorkflowExecutionStarted
from perdure.model.runs import RunId, RunInfo
from perdure.runtime.watchdog import Alarm, Watchdog, raise_in
from tests.support.world import run_async

INFO = RunInfo(id="order-1", run_id=RunId(7), namespace="default", workflow="order", queue="default")
BRIEF = 0.02


def run_of(function: Callable[[], Awaitable[str]], instance: str = "order-1") -> Run:
    info = msgspec.structs.replace(INFO, id=instance)
    return Run(workflow.define(name="order")(function), info)  # type: ignore[arg-type]  # an async function


def first_turn(run: Run) -> None:
    try:
        run.turn(TurnHeader(time=1), [WorkflowExecutionStarted("order", msgspec.Raw(b"[]"), "seed")])
    except EngineFault:
        run.evict()
        raise


@asynccontextmanager
async def watched(turn: float = BRIEF, silence: float = 60.0, look: float = 0.002) -> AsyncIterator[Watchdog]:
    watchdog = Watchdog(turn, silence, look)
    watchdog.start()
    try:
        yield watchdog
    finally:
        await watchdog.stop()


def compute(seconds: float) -> None:
    end = computed() + seconds
    while computed() < end:
        pass


def computed() -> float:
    """Return what `time.thread_time` does, which no workflow may ask for."""
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return usage.ru_utime + usage.ru_stime


async def for_ever() -> str:
    number = 0
    while True:
        number += 1


async def stubborn() -> str:
    swallowed = 0
    while swallowed < 3:
        try:
            await for_ever()
        except BaseException:  # noqa: BLE001
            swallowed += 1
    return "at last"


@run_async
async def test_a_turn_that_computes_for_ever_ends_in_a_fault_with_its_stack() -> None:
    async with watched():
        with pytest.raises(TurnTimedOutError) as caught:
            first_turn(run_of(for_ever))
    message = str(caught.value)
    assert "a turn of order-1 (workflow order, run 7) did not end within 0.02 s" in message
    assert message.rstrip().splitlines()[-2].endswith("in for_ever")
    assert "run_ready" not in message, "the worker's own frames are left out"


@run_async
async def test_code_that_swallows_every_exception_is_interrupted_again(caplog: pytest.LogCaptureFixture) -> None:
    async with watched():
        with pytest.raises(TurnTimedOutError):
            first_turn(run_of(stubborn))
    assert "although it was interrupted" in caplog.text


@run_async
async def test_cleanup_that_never_ends_does_not_keep_a_run_from_being_evicted() -> None:
    async def clean() -> str:
        try:
            await asyncio.Event().wait()
        finally:
            await for_ever()
        return ""

    run = run_of(clean)
    first_turn(run)
    async with watched():
        assert run.evict() == []


@run_async
async def test_a_callback_that_never_ends_is_interrupted_too() -> None:
    async def calls() -> str:
        def spin() -> None:
            while True:
                pass

        asyncio.get_running_loop().call_soon(spin)
        await asyncio.sleep(60)
        return ""

    async with watched():
        with pytest.raises(TurnTimedOutError):
            first_turn(run_of(calls))


@run_async
async def test_an_import_is_not_cut_in_the_middle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = (
        f"import time\nend = time.thread_time() + {10 * BRIEF}\nwhile time.thread_time() < end: pass\nwhole = True\n"
    )
    (tmp_path / "slow_to_import.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)

    async def imports() -> str:
        module = importlib.import_module("slow_to_import")
        return str(module.whole)

    run = run_of(imports)
    async with watched():
        first_turn(run)
    assert run.closed


@run_async
async def test_many_turns_that_are_long_together_are_left_alone() -> None:
    async with watched(turn=0.1):
        for number in range(40):

            async def brief() -> str:
                compute(0.01)
                return ""

            first_turn(run_of(brief, f"order-{number}"))


@run_async
async def test_a_process_that_stood_still_is_not_mistaken_for_a_turn_that_does() -> None:
    async def waits() -> str:
        threading.Event().wait(10 * BRIEF)
        return ""

    run = run_of(waits)
    async with watched():
        first_turn(run)
    assert run.closed, "no computing time has passed"


@pytest.mark.filterwarnings(
    "ignore:coroutine .* was never awaited:RuntimeWarning"
)  # it strikes between the two as well
@run_async
async def test_nothing_is_raised_outside_of_a_turn(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL + 1, "perdure.worker")
    ends = Counter[bool]()

    length = 0.0005

    async def edge() -> str:
        compute(length)
        return ""

    # The limit is where the turns end, so that the watchdog strikes at every point of their way out. Where that is
    # depends on the machine, so turns become shorter after one that was cut off and longer after one that ended.
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        async with watched(turn=0.0004, look=0.0001):
            while min(ends[True], ends[False]) < 200:
                run = run_of(edge)
                try:
                    first_turn(run)
                except TurnTimedOutError:
                    ends[False] += 1
                    length *= 0.97
                else:
                    ends[True] += 1
                    length *= 1.03
                assert turning(asyncio.get_running_loop()) is None
                for _ in range(100):
                    str(ends)  # where a late exception would land
                await asyncio.sleep(0)
    finally:
        sys.setswitchinterval(switching)


@run_async
async def test_what_was_decided_while_the_turn_left_stays_within_the_turn() -> None:
    here, thread = asyncio.get_running_loop(), threading.get_ident()
    alarms: list[Alarm] = []

    def raise_late() -> None:
        while not alarms or turning(here) is not None:
            pass
        raise_in(thread, RunEvicted)
        alarms.pop().deciding = False

    async def leaves() -> str:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, RunLoop)
        loop.alarm = Alarm(loop, thread)
        alarms.append(loop.alarm)
        return ""

    for _ in range(100):
        watcher = threading.Thread(target=raise_late)
        watcher.start()
        run = run_of(leaves)
        first_turn(run)
        watcher.join()
        assert run.closed
        assert run.loop.alarm is None


@run_async
async def test_two_watchdogs_of_a_thread_do_not_get_in_each_other_s_way() -> None:
    async with watched(), watched():
        for _ in range(5):
            with pytest.raises(TurnTimedOutError):
                first_turn(run_of(for_ever))


@run_async
async def test_whoever_blocks_the_event_loop_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    async def blocks() -> None:
        compute(0.3)

    async with watched():
        await asyncio.create_task(blocks(), name="activity order-1/3 charge")
    reports = [record.getMessage() for record in caplog.records]
    assert len(reports) == 1
    assert "activity order-1/3 charge is in the way" in reports[0]
    assert "compute(0.3)" in reports[0]
    assert "declare it without async" in reports[0]


@run_async
async def test_an_idle_loop_is_not_reported(caplog: pytest.LogCaptureFixture) -> None:
    async with watched(silence=1.0, look=0.01):
        await asyncio.sleep(1)
    assert caplog.records == []
