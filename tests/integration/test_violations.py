"""Workflow code that touches the outside world: the run is held, and the message says what to use instead."""

import random
import secrets
import socket
import sqlite3
import subprocess
import threading
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from perdure import Worker, workflow
from perdure.model.runs import RunState
from tests.support.world import World, eventually, run_async


async def thread() -> str:
    threading.Thread(target=print).start()
    return ""


async def process() -> str:
    return str(subprocess.run(["true"], check=True))  # noqa: ASYNC221


async def network() -> str:
    return socket.gethostbyname("localhost")


async def entropy() -> str:
    return secrets.token_hex()


async def nap() -> str:
    time.sleep(0.001)  # noqa: ASYNC251
    return ""


async def clock() -> str:
    return str(time.time())


async def system_clock() -> str:
    return str(time.clock_gettime(time.CLOCK_REALTIME))


async def date() -> str:
    return time.strftime("%Y", time.gmtime(0)) + time.strftime("%Y")


async def effort() -> str:
    return str(time.process_time())


async def host() -> str:
    return socket.gethostname()


async def database() -> str:
    sqlite3.connect(":memory:").close()
    return ""


async def chance() -> str:
    return str(random.random())


async def identity() -> str:
    return str(uuid.uuid4())


async def swallowing() -> str:
    try:
        with open("/etc/hostname") as stream:  # noqa: ASYNC230, PTH123
            return stream.read()
    except Exception:  # noqa: BLE001
        return "swallowed"


ADVICE: dict[Any, str] = {
    thread: "started a thread; call a synchronous activity instead",
    process: "started a process; do that in an activity",
    network: "looked up a host name; use the network in an activity",
    entropy: "os.urandom() differs on replay; use workflow.random().randbytes()",
    nap: "use await asyncio.sleep(); it is a durable timer in a workflow",
    clock: "time.time() differs on replay; use workflow.now()",
    system_clock: "time.clock_gettime() differs on replay; use workflow.now()",
    date: "time.strftime() differs on replay; use workflow.now()",
    effort: "time.process_time() differs on replay; use workflow.now()",
    host: "asked for the name of the host, which differs between workers; ask in an activity",
    database: "opened the database ':memory:'; do that in an activity",
    chance: "random.random() differs on replay; use workflow.random().random()",
    identity: "uuid.uuid4() differs on replay; use workflow.uuid4()",
    swallowing: "opened the file '/etc/hostname'; read and write files in an activity",
}


@pytest.mark.parametrize("function", ADVICE, ids=lambda function: function.__name__)
def test_a_violation_holds_the_run_and_says_what_to_use(function: Callable[[], Awaitable[str]]) -> None:
    @run_async
    async def violate() -> None:
        client = await World("memory://").client()
        async with Worker(client, workflows=[workflow.define(name="violating")(function)]):  # type: ignore[arg-type]  # an async function
            handle = await client.start("violating", id="v")

            async def held() -> Any:
                summary = await handle.describe()
                return summary if summary.state is RunState.HELD else None

            summary = await eventually(held)
        assert summary.hold_reason == "DeterminismViolation"
        assert ADVICE[function] in summary.hold_message

    violate()
