"""Workflows for tests of the program: each stops where a test wants to look, and goes on when it is told to."""

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from perdure import NonRetryableError, RetryPolicy, activity, workflow


def folder() -> Path:
    return Path(os.environ["PERDURE_SAMPLES"])


@dataclass
class Greeting:
    text: str
    attempts: int


@activity.define
def note(text: str) -> int:
    """Write a line, so that a test can count the attempts."""
    with (folder() / "notes").open("a") as notes:
        notes.write(f"{text}\n")
    return activity.info().attempt


@activity.define
async def gate(name: str) -> str:
    """Wait until the test opens the gate."""
    with (folder() / "notes").open("a") as notes:
        notes.write(f"{name}\n")
    path = folder() / name
    while not path.exists():  # noqa: ASYNC110  # the test that opens the gate is another process
        await asyncio.sleep(0.01)
    return name


@activity.define
async def bookmark(name: str) -> int:
    """Return the page at which the attempt before stood; the first one stays at page 3 while the gate is closed."""
    page = activity.info().heartbeat_details
    if page is None:
        activity.heartbeat(3)
        await gate(name)
    return int(page or 0)


@activity.define(retry=RetryPolicy(initial_interval=0.05, max_attempts=3))
async def stubborn() -> str:
    raise ConnectionError("nobody answers")


@activity.define(retry=RetryPolicy(initial_interval=3600))
async def slow_to_retry() -> str:
    raise ConnectionError("come back tomorrow")


slower = slow_to_retry.options(timeout=1)
"""The same activity under a second name of the module: a worker takes it once."""


@workflow.define
async def greet(name: str = "world", times: int = 1) -> Greeting:
    return Greeting(f"hello {name}" * times, await note(name))


@workflow.define
async def conversation(name: str) -> str:
    await note(name)
    workflow.set_status("talking", "1/2")
    answer: str = await workflow.signal("answer", str).receive()
    return f"{name} said {answer}"


@workflow.define
async def guarded(name: str) -> list[str]:
    await note(f"before {name}")
    return [await gate(name), f"after {await note(f'after {name}')}"]


@workflow.define
async def reading(name: str) -> int:
    return await bookmark(name)


@workflow.define
async def failing() -> str:
    return await stubborn()


@workflow.define
async def refusing() -> str:
    raise NonRetryableError("this is not to be")


@workflow.define
async def patient() -> str:
    return await slow_to_retry()
