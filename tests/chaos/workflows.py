"""What the workers of the chaos run: steps that leave a line in a journal, so that what ran can be counted."""

import asyncio
import os
from typing import Any

from perdure import RetryPolicy, activity, workflow

go = workflow.signal("go", int)


@activity.define(retry=RetryPolicy(initial_interval=0.05), timeout=20)
async def step(run: int, number: int) -> int:
    write(f"{activity.info().idempotency_key} {run} {number}")
    await asyncio.sleep(0.01)
    if activity.info().attempt == 1 and (run + number) % 7 == 0:
        raise ConnectionError("try again")
    return run * 1000 + number


@activity.define(timeout=20)
def thread_step(run: int, number: int) -> int:
    write(f"{activity.info().idempotency_key} {run} {number}")
    return run * 1000 + number


@workflow.define
async def journey(run: int) -> dict[str, Any]:
    results = [await step(run, number) for number in range(4)]
    results += await asyncio.gather(*(step(run, number) for number in range(4, 8)), thread_step(run, 8))
    await asyncio.sleep(0.3)
    try:
        async with asyncio.timeout(1 if run % 3 == 0 else 600):
            signalled = await go.receive()
    except TimeoutError:
        signalled = -1
    results.append(await step(run, 9))
    return {"results": results, "signalled": signalled}


def write(line: str) -> None:
    with open(os.environ["CHAOS_JOURNAL"], "a", encoding="utf-8") as journal:  # noqa: PTH123  # one short line is atomic
        journal.write(line + "\n")
