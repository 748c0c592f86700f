"""What the workers of the chaos run: every step leaves a line in a journal, so that what really ran can be counted.

What lives here: the workflows, their activities, and what each run has to return. What must not: faults. Worker
processes serve this module; the clients of the chaos import it for `shape` and `expected`.
"""

import asyncio
import hashlib
import os
import threading
import time
from typing import Any

from perdure import RetryPolicy, activity, workflow

JOURNAL = "CHAOS_JOURNAL"
"""The environment variable that names the journal's file."""
FAR = "far"
"""The task queue that only some of the workers serve."""
LETTERS = 4
"""Numbered messages that each run of `letters` waits for."""
WIDTH = 120
"""Activities at a time in a run of `fan`: more than a worker has slots for."""
LARGE = 60_000
"""Characters of a large payload."""

letter = workflow.signal("letter", int)
go = workflow.signal("go", int)

_RETRY = RetryPolicy(initial_interval=0.05)


def answer(run: int, number: int) -> int:
    """Return what step ``number`` of a run has to return."""
    return run * 1000 + number


@activity.define(retry=_RETRY, timeout=30)
async def step(run: int, number: int) -> int:
    write()
    if number == 2:
        activity.heartbeat({"run": run})
    await asyncio.sleep(0.01 * (1 + (3 * run + number) % 8))
    if activity.info().attempt == 1 and (run + number) % 7 == 0:
        raise ConnectionError("try again")
    return answer(run, number)


@activity.define(retry=_RETRY, timeout=30)
def thread_step(run: int, number: int) -> int:
    write()
    return answer(run, number)


@activity.define(retry=_RETRY, timeout=30)
async def stamp(run: int, text: str) -> str:
    write()
    return text[::-1]


@workflow.define
async def steps(run: int) -> list[int]:
    """Take steps one after the other, beside each other and in a thread."""
    results = [await step(run, number) for number in range(4)]
    results += await asyncio.gather(*(step(run, number) for number in range(4, 7)), thread_step(run, 7))
    return results


@workflow.define
async def timers(run: int) -> list[int]:
    """Sleep shortly, wait in vain, and sleep so long that the run is parked."""
    results = [await step(run, 0)]
    await asyncio.sleep(0.2)
    results.append(await step(run, 1))
    try:
        async with asyncio.timeout(0.3):
            results.append(await go.receive())
    except TimeoutError:
        results.append(await step(run, 2))
    await asyncio.sleep(2.5)
    results.append(await step(run, 3))
    return results


@workflow.define
async def letters(run: int) -> list[int]:
    """Wait for numbered messages, with steps in between; return the numbers as they came."""
    got = []
    for number in range(LETTERS):
        got.append(await letter.receive())
        await step(run, number)
    got.append(await go.receive())
    return got


@workflow.define
async def far(run: int) -> list[int]:
    """Have steps carried out by the workers of another queue."""
    results = await asyncio.gather(*(step.options(queue=FAR)(run, number) for number in range(3)))
    results.append(await step(run, 3))
    return [*results, await thread_step.options(queue=FAR)(run, 4)]


@workflow.define
async def large(run: int) -> str:
    """Carry payloads that are too large for their row."""
    text = workflow.side_effect(lambda: f"{run}." * (LARGE // len(f"{run}.")), str)
    turned = await stamp(run, text)
    again = await stamp(run, turned)
    return hashlib.sha256((turned + again).encode()).hexdigest()


@workflow.define
async def fan(run: int) -> int:
    """Ask for more at a time than a worker carries out itself."""
    return sum(await asyncio.gather(*(step(run, number) for number in range(WIDTH))))


_WHICH = (steps, timers, steps, letters, steps, far, steps, letters, steps, large)


def shape(run: int) -> Any:
    """Return the workflow of a run: each kind in its turn, the widest one rarely."""
    return fan if run % 101 == 50 else _WHICH[run % len(_WHICH)]


def expected(run: int) -> Any:
    """Return what the run has to return."""
    which = shape(run)
    if which is steps:
        return [answer(run, number) for number in range(8)]
    if which is timers:
        return [answer(run, number) for number in range(4)]
    if which is letters:
        return [*range(LETTERS), run]
    if which is far:
        return [answer(run, number) for number in range(5)]
    if which is large:
        text = f"{run}." * (LARGE // len(f"{run}."))
        return hashlib.sha256((text[::-1] + text).encode()).hexdigest()
    return sum(answer(run, number) for number in range(WIDTH))


def write() -> None:
    """Note that an attempt begins: when (a clock that nobody sets), who, which activity, which attempt."""
    info = activity.info()
    who = f"{os.getpid()} {threading.get_native_id()}"
    line = f"{time.monotonic():.6f} {who} {info.run_id}/{info.seq} {info.attempt}\n"
    # One short write to a file that is open for appending is never mixed with others.
    journal = os.open(os.environ[JOURNAL], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(journal, line.encode())
    finally:
        os.close(journal)
