"""The runs of the scenario: every primitive that there is, in workflows whose results are known beforehand.

What lives here: workflows and activities. Every activity notes each attempt in a journal, so that what ran can be
compared with what was recorded. `programs` are the processes around them.
"""

import asyncio
import os
import time
from pathlib import Path
from typing import Any

from perdure import ActivityError, NonRetryableError, RetryPolicy, activity, workflow
from perdure.activity import Activity
from perdure.workflow import Workflow

LARGE = 40_000
"""Characters of a payload that is kept out of its turn."""
PATIENT = RetryPolicy(initial_interval=0.02)

left = workflow.signal("left", int)
right = workflow.signal("right", str)
never = workflow.signal("never")


class Process:
    """What the activities know of the process that they run in."""

    journal = Path(os.devnull)
    leave = asyncio.Event()
    broken: set[str] = set()  # noqa: RUF012  # one process, one set


def write(*words: object) -> None:
    """Add a line to the journal; one short write is atomic."""
    with Process.journal.open("a") as journal:
        journal.write(" ".join(map(str, (*words, os.getpid(), f"{time.time():.6f}"))) + "\n")


def note() -> int:
    """Write down that an attempt begins, and return its number."""
    info = activity.info()
    write("attempt", info.workflow_id, f"{info.run_id}/{info.seq}", info.attempt)
    return info.attempt


@activity.define(retry=PATIENT)
async def step(number: int) -> int:
    note()
    await asyncio.sleep(0.005)
    return number * 10


@activity.define(retry=PATIENT)
def pack(number: int) -> int:
    note()
    return number * 10


@activity.define(retry=PATIENT)
async def flaky(number: int) -> int:
    if note() < 3:
        raise ConnectionError("try again")
    return number * 10


@activity.define(retry=RetryPolicy(initial_interval=0.02, max_attempts=2))
async def hopeless() -> None:
    note()
    raise ValueError("never")


@activity.define(retry=PATIENT)
async def refused() -> None:
    note()
    raise NonRetryableError("no")


@activity.define(retry=PATIENT)
async def elsewhere(number: int) -> int:
    activity.heartbeat({"number": number})
    if note() < 2:
        raise ConnectionError("try again elsewhere")
    return number * 10


@activity.define(retry=PATIENT)
async def echo(text: str) -> str:
    note()
    return text


@activity.define(retry=PATIENT)
async def leave() -> None:
    """Ask the worker of this process to drain and go."""
    note()
    Process.leave.set()


@activity.define(retry=PATIENT)
async def stuck() -> None:
    """Never end."""
    note()
    await asyncio.Event().wait()


@activity.define(retry=PATIENT)
async def stuck_twice() -> str:
    """Never end, but for the third time that this is tried anywhere."""
    before = Process.journal.read_text().count(f"attempt {activity.info().workflow_id} ")
    activity.heartbeat({"before": before})
    note()
    if before < 2:
        await asyncio.Event().wait()
    return "free"


@activity.define(retry=PATIENT)
async def hang() -> None:
    """End when the caller has done most of what it does: until then somebody owns a run that works."""
    note()
    while True:
        if Process.journal.with_name("quiet").exists():
            return
        await asyncio.sleep(0.05)


def coin() -> int:
    write("side-effect", workflow.info().id)
    return 7


@workflow.define
async def everything(big: str) -> dict[str, Any]:
    workflow.set_status("begun", "0/2")
    identity, dice, begun = str(workflow.uuid4()), workflow.random().random(), workflow.now()
    value = workflow.side_effect(coin, int)
    few = await asyncio.gather(step(1), pack(2), flaky(3), elsewhere.options(queue="other")(4))
    caught = []
    for call in (hopeless, refused):
        try:
            await call()
        except ActivityError as error:
            caught.append(error.__class__.__name__)
    many = await asyncio.gather(*(step(number) for number in range(10, 26)))
    workflow.set_status("counted", "2/2")
    same = (await echo(identity), await echo(str(dice))) == (identity, str(dice)) and workflow.now() >= begun
    return {
        "few": few,
        "caught": caught,
        "many": many,
        "value": value,
        "same": same and str(workflow.uuid4()) != identity,
        "big": await echo(big) == big,
    }


@workflow.define
async def sleeper() -> int:
    await asyncio.sleep(0.5)
    return await step(5)


@workflow.define
async def conversation() -> list[Any]:
    heard: list[Any] = []
    try:
        async with asyncio.timeout(0.3):
            await never.receive()
    except TimeoutError:
        heard.append("silence")
    heard += [await left.receive() for _ in range(3)]
    heard += [await right.receive() for _ in range(2)]
    return heard


@workflow.define
async def cancellable() -> None:
    try:
        await asyncio.sleep(3600)
    finally:
        await step(9)


@workflow.define
async def busy() -> None:
    await stuck()


@workflow.define
async def guest() -> None:
    await hang()


@workflow.define
async def waiting() -> None:
    await never.receive()


@workflow.define
async def fragile() -> int:
    if workflow.info().id not in Process.broken:
        Process.broken.add(workflow.info().id)
        time.time()  # reading the clock holds the run, once in each process
    return await step(3)


@workflow.define
async def late() -> int:
    return await step(4)


@workflow.define
async def drifter() -> int:
    await leave()
    await asyncio.sleep(0.05)
    return await step(6)


@workflow.define
async def stolen() -> str:
    found = await stuck_twice()
    await asyncio.sleep(0.7)  # long enough to be seen to survive
    return found


@workflow.define
async def keyed(name: str) -> str:
    workflow.set_status(name, "1/2")
    await step(1)
    workflow.set_status(name, "2/2")
    return name


WORKFLOWS: list[Workflow[..., Any]] = [
    everything, sleeper, conversation, cancellable, busy, guest, waiting, fragile, late, drifter, stolen, keyed
]  # fmt: skip
ACTIVITIES: list[Activity[..., Any]] = [
    step,
    pack,
    flaky,
    hopeless,
    refused,
    elsewhere,
    echo,
    leave,
    stuck,
    stuck_twice,
    hang,
]
