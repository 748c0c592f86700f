"""The moments at which a worker looks for runs whose time has come."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from perdure.runtime.alarm import MOST, Alarm
from tests.support.stores import LIMIT
from tests.support.world import run_async


class Calls:
    """Takes note of when it is called, and tells whoever waits for something."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._came = asyncio.Event()

    def __call__(self) -> None:
        self.times.append(asyncio.get_running_loop().time())
        self._came.set()

    async def until(self, what: Callable[[], bool]) -> None:
        """Wait for calls until ``what`` is true."""
        async with asyncio.timeout(LIMIT):
            while not what():
                self._came.clear()
                await self._came.wait()


@run_async
async def test_it_calls_at_every_moment_in_whatever_order_they_were_set() -> None:
    calls = Calls()
    alarm = Alarm(calls)
    began = asyncio.get_running_loop().time()
    for delay in (0.2, 0.1, 0.15):
        alarm.set(delay)
    await calls.until(lambda: not alarm.left)
    assert calls.times[0] >= began + 0.1
    assert calls.times[-1] >= began + 0.2


@run_async
async def test_what_has_passed_already_is_called_for_at_once() -> None:
    calls = Calls()
    alarm = Alarm(calls)
    alarm.set(3600)
    alarm.set(-1)
    await calls.until(lambda: bool(calls.times))
    assert alarm.left == 1


@run_async
async def test_one_call_is_enough_for_all_moments_that_have_come() -> None:
    calls = Calls()
    alarm = Alarm(calls)
    for _ in range(100):
        alarm.set(-1)
    await calls.until(lambda: not alarm.left)
    assert len(calls.times) == 1


@run_async
async def test_of_very_many_moments_the_next_ones_are_kept() -> None:
    calls = Calls()
    alarm = Alarm(calls)
    for number in range(5 * MOST):
        alarm.set(3600 + (number * 7919) % (5 * MOST))
    assert MOST <= alarm.left <= 2 * MOST
    alarm.set(-1)
    left = alarm.left
    await calls.until(lambda: bool(calls.times))
    assert alarm.left == left - 1


@run_async
async def test_once_stopped_it_calls_no_more() -> None:
    calls, other = Calls(), Calls()
    alarm = Alarm(calls)
    alarm.set(0.01)
    alarm.stop()
    Alarm(other).set(0.05)
    await other.until(lambda: bool(other.times))
    assert calls.times == []
