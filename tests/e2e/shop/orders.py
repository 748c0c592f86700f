"""What the workers of the end-to-end tests run: steps that take as long as a test says, each noted as it begins.

The notes are in a table of the same database, so that they outlive every pod. The tests import `answer` and the names
of the workflows; the workers have this file in their image, as a user would.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import psycopg

from perdure import RetryPolicy, activity, workflow

NOTES = "e2e_note"
MAKE_NOTES = (
    f"CREATE TABLE IF NOT EXISTS {NOTES} "
    "(key text, attempt integer, pod text, at timestamptz DEFAULT clock_timestamp())"
)
_RETRY = RetryPolicy(initial_interval=0.1, max_interval=2.0)


def answer(order: int, number: int) -> int:
    """Return what step `number` of an order has to return."""
    return order * 1000 + number


def expected(order: Mapping[str, Any]) -> list[int]:
    """Return what the run with this input has to return."""
    steps = order["steps"] if "pause" in order else 2 * order["steps"]
    return [answer(order["order"], number) for number in range(steps)]


@activity.define(retry=_RETRY, timeout=120)
async def step(order: int, number: int, seconds: float) -> int:
    while not await noted():  # noqa: ASYNC110  # nobody tells when a database is back
        await asyncio.sleep(0.2)
    await asyncio.sleep(seconds)
    return answer(order, number)


async def noted() -> bool:
    """Note that an attempt begins; tell whether the database was there to take it."""
    info = activity.info()
    note = f"INSERT INTO {NOTES} (key, attempt, pod) VALUES (%s, %s, %s)"
    url = os.environ["PERDURE_URL"]
    try:
        # What is on its way to a pod that has just gone is never answered.
        async with asyncio.timeout(3), await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
            await connection.execute(note.encode(), (info.idempotency_key, info.attempt, os.environ["POD_NAME"]))
    except (psycopg.OperationalError, TimeoutError):
        return False
    return True


@workflow.define
async def fulfil(order: int, steps: int, seconds: float) -> list[int]:
    """Take steps one after the other, then as many side by side."""
    results = []
    for number in range(steps):
        workflow.set_status(f"step {number}", f"{number}/{2 * steps}")
        results.append(await step(order, number, seconds))
    return results + list(await asyncio.gather(*(step(order, steps + number, seconds) for number in range(steps))))


@workflow.define
async def linger(order: int, steps: int, seconds: float, pause: float) -> list[int]:
    """Sleep between steps for so long that the run is put away."""
    results = []
    for number in range(steps):
        results.append(await step(order, number, seconds))
        await asyncio.sleep(pause)
    return results
