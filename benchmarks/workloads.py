"""The workflows and activities that are measured.

What lives here: definitions that do as little as possible, so that what is measured is the engine.
"""

import asyncio
import time

from benchmarks.measure import text
from perdure import activity, workflow


@activity.define
async def nothing(value: int) -> int:
    return value


@activity.define
async def blob(size: int) -> str:
    return text(size)


STAMPS: list[tuple[float, float]] = []
"""When `stamp` ran in this process: wall clock and CPU clock."""


@activity.define
async def stamp(value: int) -> int:
    STAMPS.append((time.perf_counter(), time.process_time()))
    return value


class Gate:
    """Lets `held` pass, in this process only."""

    open = True
    event = asyncio.Event()


@activity.define
async def held(value: int) -> int:
    """Return at once where the gate is open, and never elsewhere."""
    if not Gate.open:
        await Gate.event.wait()
    return value


@workflow.define
async def chain(length: int) -> int:
    """Run activities one after the other."""
    total = 0
    for number in range(length):
        total += await nothing(number)
    return total


@workflow.define
async def marked_chain(length: int, every: int) -> int:
    """Run activities one after the other, and note the time at equal distances."""
    for number in range(length):
        await (stamp(number) if number % every == 0 else nothing(number))
    return length


@workflow.define
async def fan_out(width: int) -> int:
    """Run activities at once."""
    return sum(await asyncio.gather(*(nothing(number) for number in range(width))))


@workflow.define
async def listener(messages: int) -> int:
    """Take messages until all have come."""
    channel = workflow.signal("message", int)
    total = 0
    for _ in range(messages):
        total += await channel.receive()
    return total


@workflow.define
async def sleeper(until: float) -> int:
    """Sleep until a moment, as seconds of the epoch."""
    await asyncio.sleep(max(0.0, until - workflow.now().timestamp()))
    return 1


@workflow.define
async def waiter(value: int) -> int:
    """One activity that ends, and one that ends where the gate is open."""
    return await nothing(value) + await held(value)


@workflow.define
async def carrier(size: int, steps: int) -> int:
    """Activities whose results are large."""
    total = 0
    for _ in range(steps):
        total += len(await blob(size))
    return total


WORKFLOWS = (chain, marked_chain, fan_out, listener, sleeper, waiter, carrier)
ACTIVITIES = (nothing, stamp, blob, held)
