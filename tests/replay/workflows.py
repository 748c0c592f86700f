"""The workflows behind the golden histories. Changing what one of them does breaks the promise of its history."""

import asyncio
from typing import Any

from perdure import ActivityError, activity, workflow

go = workflow.signal("go", int)


@activity.define
async def work(number: int) -> int:
    return number * 2


@workflow.define
async def every_primitive(count: int) -> dict[str, object]:
    first = await work(count)
    spread = await asyncio.gather(*(work(number) for number in range(count)))
    name = workflow.side_effect(lambda: "recorded")
    identity, chance = workflow.uuid4(), workflow.random().randint(1, 6)
    await asyncio.sleep(10)
    try:
        async with asyncio.timeout(60):
            signalled = await go.receive()
    except TimeoutError:
        signalled = -1
    return {
        "first": first,
        "spread": list(spread),
        "name": name,
        "identity": str(identity),
        "chance": chance,
        "signalled": signalled,
    }


@workflow.define
async def races(width: int) -> list[int]:
    async def one(number: int) -> int:
        async with lock:
            return await work(number)

    lock = asyncio.Semaphore(2)
    finished = []
    waiting = {asyncio.create_task(one(number)) for number in range(width)}
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finished += [task.result() for task in done]
    return finished


@workflow.define
async def cancelled_with_cleanup() -> str:
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(work(1))
            group.create_task(asyncio.sleep(3600))
    finally:
        await asyncio.shield(work(99))
    return "not reached"


@workflow.define
async def failing() -> str:
    try:
        await work(1)
    except ActivityError as error:
        raise LookupError(error.type) from error
    return "not reached"


ALL: list[workflow.Workflow[..., Any]] = [every_primitive, races, cancelled_with_cleanup, failing]
