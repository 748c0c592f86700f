"""Workflows that do harm to their worker, and some that must not notice."""

import asyncio
import ctypes
import itertools
import os
from datetime import timedelta

from perdure import RetryPolicy, activity, workflow


@activity.define
async def echo(text: str) -> str:
    """Return what came."""
    return text


@activity.define(retry=RetryPolicy(initial_interval=1.0, max_attempts=2))
async def fails_once() -> int:
    """Return the number of the attempt that went well."""
    if activity.info().attempt == 1:
        message = "at first"
        raise RuntimeError(message)
    return activity.info().attempt


@workflow.define
async def exits() -> None:
    """End the process."""
    await echo("before")
    os._exit(9)


@workflow.define
async def crashes() -> None:
    """End the process as broken native code does."""
    ctypes.string_at(0)


@workflow.define
async def harmless() -> str:
    """Do a few steps."""
    return "".join([await echo("a"), await echo("b"), await echo("c")])


@workflow.define
async def measures(text: str) -> int:
    """Return how long the input is."""
    return len(text)


@workflow.define
async def repeats(times: int) -> str:
    """Return a text of so many characters."""
    return times * "x"


@workflow.define
async def keeps_time() -> list[float]:
    """Return how long a timer, a retry and a timeout took, by the durable clock."""
    moments = [workflow.now()]
    await asyncio.sleep(2)
    moments.append(workflow.now())
    await fails_once()
    moments.append(workflow.now())
    try:
        async with asyncio.timeout(1):
            await workflow.signal("never", bool).receive()
    except TimeoutError:
        moments.append(workflow.now())
    return [(later - sooner) / timedelta(seconds=1) for sooner, later in itertools.pairwise(moments)]


@workflow.define
async def waits_for_ever() -> None:
    """Wait."""
    await workflow.signal("never", bool).receive()
