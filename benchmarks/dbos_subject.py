"""DBOS under measure: the same work, in the environment that `environment` makes for it.

What lives here: DBOS as its documentation uses it, asynchronous workflows and steps, defaults throughout. What must
not: imports of Perdure.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from benchmarks.measure import POSTGRES, Meter, Sample, resident, text
from benchmarks.talk import Arguments, Setup, in_flight, serve, timed

library: Any = importlib.import_module("dbos")  # is not there where types are checked
DBOS: Any = library.DBOS
QUEUE = "bench"


async def _nothing(value: int) -> int:
    return value


async def _blob(size: int) -> str:
    return text(size)


nothing = DBOS.step(name="nothing")(_nothing)
blob = DBOS.step(name="blob")(_blob)


async def _chain(length: int) -> int:
    total = 0
    for number in range(length):
        total += await nothing(number)
    return total


async def _fan_out(width: int) -> int:
    return sum(await asyncio.gather(*(nothing(number) for number in range(width))))


async def _listener(messages: int) -> int:
    total = 0
    for _ in range(messages):
        total += await DBOS.recv_async("message", timeout_seconds=600)
    return total


async def _carrier(size: int, steps: int) -> int:
    total = 0
    for _ in range(steps):
        total += len(await blob(size))
    return total


SPANS: list[float] = []
"""How long each replay took, inside the workflow."""


async def _replayed(length: int) -> int:
    began = time.perf_counter()
    total = await _chain(length)
    SPANS.append(time.perf_counter() - began)
    return total


async def _sleeper(until: float) -> float:
    await DBOS.sleep_async(max(0.0, until - time.time()))
    return time.time()


replayed = DBOS.workflow(name="replayed")(_replayed)
sleeper = DBOS.workflow(name="sleeper")(_sleeper)
chain = DBOS.workflow(name="chain")(_chain)
fan_out = DBOS.workflow(name="fan_out")(_fan_out)
listener = DBOS.workflow(name="listener")(_listener)
carrier = DBOS.workflow(name="carrier")(_carrier)


async def run(workflow: Any, expected: int, *arguments: int) -> None:
    """Start a workflow, wait for its result and check it."""
    handle = await DBOS.start_workflow_async(workflow, *arguments)
    assert await handle.get_result() == expected


async def sequential(asked: Arguments, meter: Meter) -> Sample:
    count, total, length = asked["in_flight"], asked["workflows"], asked["length"]
    before = meter.read()
    latencies = await in_flight(count, total, lambda _: timed(run(chain, sum(range(length)), length)))
    return meter.sample(before, total * length, latencies)


async def single(asked: Arguments, meter: Meter) -> Sample:
    total, length, pause = asked["workflows"], asked["length"], asked["pause"]

    async def one(_: int) -> float:
        await asyncio.sleep(pause)
        return await timed(run(chain, sum(range(length)), length))

    before = meter.read()
    latencies = await in_flight(1, total, one)
    return meter.sample(before, total * length, latencies, paused=pause * total)


async def fanned(asked: Arguments, meter: Meter) -> Sample:
    before = meter.read()
    latency = await timed(run(fan_out, sum(range(asked["width"])), asked["width"]))
    return meter.sample(before, asked["width"], [latency])


async def signals(asked: Arguments, meter: Meter) -> Sample:
    runs, messages = asked["runs"], asked["messages"]
    handles = [await DBOS.start_workflow_async(listener, messages) for _ in range(runs)]

    async def one(number: int) -> float:
        return await timed(DBOS.send_async(handles[number % runs].workflow_id, number // runs, "message"))

    before = meter.read()
    latencies = await in_flight(50, runs * messages, one)
    assert [await handle.get_result() for handle in handles] == [sum(range(messages))] * runs
    return meter.sample(before, runs * messages, latencies)


async def payloads(asked: Arguments, meter: Meter) -> Sample:
    count, total, size, steps = (asked[name] for name in ("in_flight", "workflows", "size", "length"))
    before = meter.read()
    latencies = await in_flight(count, total, lambda _: timed(run(carrier, size * steps, size, steps)))
    return meter.sample(before, total * steps, latencies)


async def timers(asked: Arguments, meter: Meter) -> Sample:
    due: float = time.time() + asked["lead"]
    handles = [await DBOS.start_workflow_async(sleeper, due) for _ in range(asked["sleepers"])]
    spare = due - time.time()
    await asyncio.sleep(max(0.0, spare))
    before = meter.read()

    async def late(number: int) -> float:
        ended: float = await handles[number].get_result()
        return (ended - due) * 1000

    latencies = await in_flight(len(handles), len(handles), late)
    return meter.sample(before, len(handles), latencies, seconds_to_spare=spare)


async def record(asked: Arguments, meter: Meter) -> Sample:
    """Write the outputs that `cold_replay` reads."""
    with_id = library.SetWorkflowID(f"replayed-{asked['length']}")
    before = meter.read()
    with with_id:
        handle = await DBOS.start_workflow_async(replayed, asked["length"])
    await handle.get_result()
    return meter.sample(before, asked["length"])


async def cold_replay(asked: Arguments, meter: Meter) -> Sample:
    """A fork that begins after the last step finds every output and runs none."""
    length = asked["length"]
    before = meter.read()
    handle = await DBOS.fork_workflow_async(f"replayed-{length}", length + 1)
    assert await handle.get_result() == sum(range(length))
    events = 2 * length
    sample = meter.sample(before, events)
    sample.extra["us_per_event"] = 1e6 * SPANS[-1] / events
    return replace(sample, seconds=SPANS[-1])


async def starts(asked: Arguments, meter: Meter) -> Sample:
    """A client of its own hands workflows to a queue that nobody serves."""
    client = library.DBOSClient(system_database_url=asked["dsn"])
    options = {"workflow_name": "chain", "queue_name": "nobody"}
    await in_flight(1, 5, lambda _: timed(client.enqueue_async(options, 1)))
    before = meter.read()
    latencies = await in_flight(
        asked["in_flight"], asked["workflows"], lambda _: timed(client.enqueue_async(options, 1))
    )
    sample = meter.sample(before, asked["workflows"], latencies)
    client.destroy()
    return sample


async def idle(asked: Arguments, meter: Meter) -> Sample:
    """A process with a queue and nothing to do; operations are the transactions that the server saw."""
    await DBOS.register_queue_async(QUEUE)
    await asyncio.sleep(asked["settle"])
    seen, before = meter.transactions(asked["dsn"]), meter.read()
    await asyncio.sleep(asked["seconds"])
    sample = meter.sample(before, meter.transactions(asked["dsn"]) - seen)
    sample.extra["resident_mb"] = resident(os.getpid())
    del sample.cpu[POSTGRES]  # somebody else may be idle beside us
    return sample


SCENARIOS: dict[str, Callable[[Arguments, Meter], Awaitable[Sample]]] = {
    "sequential": sequential,
    "single": single,
    "fan-out": fanned,
    "signals": signals,
    "payloads": payloads,
    "timers": timers,
    "record": record,
    "cold replay": cold_replay,
    "start": starts,
    "idle": idle,
}


async def main(setup: Setup) -> None:
    DBOS(config={"name": "bench", "system_database_url": setup.dsn, "log_level": "ERROR"})
    DBOS.launch()
    with Meter(setup.monitor, {"client+worker": os.getpid()}) as meter:
        await serve(lambda scenario, asked: SCENARIOS[scenario]({**asked, "dsn": setup.dsn}, meter))


if __name__ == "__main__":
    asyncio.run(main(Setup.from_command_line()))
    os._exit(0)  # threads of DBOS that still poll are of no interest any more
