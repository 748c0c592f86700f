"""Perdure under measure: scenarios about state that is large, old or lost.

What lives here: the program that is asked for them; it makes the state, then measures what it costs. What must not:
the flow of ordinary work (`perdure_subject`).
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import psycopg

from benchmarks.copies import copy_run
from benchmarks.loops import runner
from benchmarks.measure import Meter, Sample, percentile, process_cpu, resident
from benchmarks.perdure_subject import Bench, serving
from benchmarks.programs import Program
from benchmarks.talk import Arguments, Setup, in_flight, serve, timed
from benchmarks.workloads import STAMPS, chain, listener, marked_chain, sleeper, waiter
from perdure import Client
from perdure.engine.replay import replay
from perdure.model.codec import decode_turn
from perdure.model.runs import RunId, RunInfo
from perdure.model.workers import WorkerInfo
from perdure.runtime import guard
from perdure.workflow import Workflow

OPEN = "SELECT count(*) FROM perdure.run WHERE state < 10"
PARKED = "SELECT count(*) FROM perdure.run WHERE state = 2"
HELD = "SELECT count(*) FROM perdure.history WHERE position('\"held\"'::bytea IN events) > 0"
"""How many runs have come to the activity that ends only where the gate is open."""
LATE = "SELECT 1000 * extract(epoch FROM closed_at)::float8 - %s FROM perdure.run WHERE closed_at IS NOT NULL"


async def until(on: Bench, query: str, count: int, *, pause: float = 0.1) -> None:
    """Wait until a query counts so many."""
    while on.value(query) != count:  # noqa: ASYNC110  # the state of other processes
        await asyncio.sleep(pause)


async def timers(on: Bench, asked: Arguments) -> Sample:
    """Sleeping runs that are all due at one moment; latencies tell how late each ended."""
    count = asked["sleepers"]
    due = time.time() + asked["lead"]
    async with serving(on.client, {}):
        await on.client.start(sleeper, due, id="asleep")
        await until(on, PARKED, 1)
    copy_run(on.reader, "asleep", count - 1)
    loaded_early = due - time.time()
    async with serving(on.client, {}):
        await asyncio.sleep(max(0.0, due - time.time()))
        before = on.meter.read()
        await until(on, OPEN, 0)
    late = [row[0] for row in on.reader.execute(LATE, [due * 1000])]
    sample = on.meter.sample(before, count, late, seconds_to_spare=loaded_early)
    on.reader.execute("TRUNCATE perdure.run, perdure.history")
    return sample


async def backlog(on: Bench, asked: Arguments) -> Sample:
    """Claims of 100 runs from a queue in which many are ready; everything is given back afterwards."""
    if on.value(OPEN) == 0:
        await on.client.start(chain, 1, id="ready")
        copy_run(on.reader, "ready", asked["open"] - 1)
    info = WorkerInfo(
        namespace="default", name="claimer", build="bench", queues=("default",), workflows=(chain.name,), lease=60.0
    )
    store = on.client.store
    lease = await store.register(info)
    before, taken, latencies = on.meter.read(), 0, []
    for _ in range(9):
        began = time.perf_counter()
        taken += len(await store.claim(lease, 100))
        latencies.append((time.perf_counter() - began) * 1000)
    sample = on.meter.sample(before, taken, latencies)
    await store.resign(lease)
    return sample


async def takeover(on: Bench, asked: Arguments) -> Sample:
    """A worker is killed with all runs in its hands; latencies tell when each was ended by another worker."""
    count = asked["runs"]
    options = {"limits": {"runs": count, "activities": count, "lease": asked["lease"]}}
    with Program("benchmarks.perdure_worker", elsewhere(on, {**options, "open": False})) as victim:
        await in_flight(100, count, lambda number: timed(on.client.start(waiter, number)))
        await until(on, HELD, count)
        with Program("benchmarks.perdure_worker", elsewhere(on, options)) as heir:
            before = on.meter.read()
            killed = on.value("SELECT extract(epoch FROM clock_timestamp())::float8")
            victim.kill()
            await until(on, OPEN, 0, pause=0.05)
            sample = on.meter.sample(before, count, [row[0] for row in on.reader.execute(LATE, [killed * 1000])])
            sample.cpu["heir"] = process_cpu(heir.pid)
    sample.extra["lease_s"] = asked["lease"]
    sample.extra["first_after_s"] = percentile_of(on, killed, 0.0)
    sample.extra["last_after_s"] = percentile_of(on, killed, 1.0)
    return sample


def percentile_of(on: Bench, since: float, share: float) -> float:
    """Return the seconds after ``since`` when this share of the runs was closed."""
    late = [row[0] for row in on.reader.execute(LATE, [since * 1000])]
    return (percentile(late, share) or 0.0) / 1000


def elsewhere(on: Bench, options: dict[str, Any]) -> Setup:
    """Return what a worker in another process is started with."""
    return Setup(on.setup.dsn, on.setup.monitor, options)


async def memory(on: Bench, asked: Arguments) -> Sample:
    """What a worker process keeps: at rest, with 1,000 runs in hand, and after many were parked."""
    active, parked = asked["active"], asked["parked"]
    options = {"open": False, "limits": {"runs": active, "activities": active}}
    before = on.meter.read()
    with Program("benchmarks.perdure_worker", elsewhere(on, options)) as worker:
        await asyncio.sleep(3)
        idle = resident(worker.pid)
        handles = [await on.client.start(chain, 5) for _ in range(20)]
        for handle in handles:
            await handle.result()
        served = resident(worker.pid)
        waiting = [await on.client.start(waiter, number) for number in range(active)]
        await until(on, HELD, active)
        await asyncio.sleep(1)
        busy = resident(worker.pid)
        worker.tell("open")
        for handle in waiting:
            await handle.result()
        after = resident(worker.pid)
        await park(on, 2 * parked, listener, 1)
        warm = resident(worker.pid)
        await park(on, parked, listener, 1)
        waiters = resident(worker.pid)
        await park(on, parked, sleeper, time.time() + 86_400)
        sleepers = resident(worker.pid)
        sample = on.meter.sample(before, active + 4 * parked)
    sample.extra.update(
        idle_mb=idle,
        after_20_runs_mb=served,
        active_adds_mb=busy - served,
        after_active_mb=after,
        after_parking_mb=warm,
        parked_run_adds_kb=max(0.0, (waiters - warm) * 1024 / parked),
        sleeping_run_adds_kb=max(0.0, (sleepers - waiters) * 1024 / parked),
    )
    return sample


async def park(on: Bench, count: int, workflow: Workflow[[Any], int], argument: float) -> None:
    """Start runs and wait until the worker has put all of them to sleep."""
    there = on.value(PARKED)
    await in_flight(100, count, lambda _: timed(on.client.start(workflow, argument)))
    await until(on, PARKED, there + count)


async def long_run(on: Bench, asked: Arguments) -> Sample:
    """One run that does not end for long: what an event costs in each tenth of its life."""
    length = asked["length"]
    STAMPS.clear()
    async with serving(on.client, {}):
        before = on.meter.read()
        handle = await on.client.start(marked_chain, length, length // 10)
        assert await handle.result() == length
        sample = on.meter.sample(before, length)
    STAMPS.append((time.perf_counter(), time.process_time()))
    events = 2 * length // 10
    tenths = [1e6 * (after[1] - prior[1]) / events for prior, after in itertools.pairwise(STAMPS)]
    sample.extra.update(events=2 * length + 2)
    sample.extra.update({f"tenth_{place}_us": cost for place, cost in enumerate(tenths, start=1)})
    return sample


async def record(on: Bench, asked: Arguments) -> Sample:
    """Write the history that `cold_replay` reads."""
    async with serving(on.client, {}):
        before = on.meter.read()
        handle = await on.client.start(chain, asked["length"], id=f"chain-{asked['length']}")
        await handle.result()
        return on.meter.sample(before, asked["length"])


async def cold_replay(on: Bench, asked: Arguments) -> Sample:
    """From the bytes of a history to a run that could go on: decode, match, and the author's code; in CPU time."""
    guard.install()
    instance = f"chain-{asked['length']}"
    run_id = RunId((await on.client.handle(instance).describe()).run_id)
    info = RunInfo(id=instance, run_id=run_id, namespace="default", workflow=chain.name, queue="default")
    rows = on.reader.execute(
        "SELECT seq, events FROM perdure.history WHERE run_id = %s ORDER BY seq", [run_id]
    ).fetchall()
    before, began = on.meter.read(), time.thread_time()
    turns = [decode_turn(seq, data) for seq, data in rows]
    decoded = time.thread_time()
    run = replay(chain, info, turns)
    ended = time.thread_time()
    events = sum(len(turn.events) for turn in turns)
    sample = on.meter.sample(before, events)
    run.evict()
    sample.extra.update(
        us_per_event=1e6 * (ended - began) / events,
        decode_us=1e6 * (decoded - began) / events,
        replay_us=1e6 * (ended - decoded) / events,
    )
    return sample


SCENARIOS: dict[str, Callable[[Bench, Arguments], Awaitable[Sample]]] = {
    "timers": timers,
    "backlog": backlog,
    "takeover": takeover,
    "memory": memory,
    "long run": long_run,
    "record": record,
    "cold replay": cold_replay,
}


@contextlib.asynccontextmanager
async def bench(setup: Setup) -> AsyncIterator[Bench]:
    """Open a client; workers come and go with the scenarios."""
    async with Client.connect(setup.dsn) as client:
        with (
            Meter(setup.monitor, {"client+worker": os.getpid()}) as meter,
            psycopg.connect(setup.dsn, autocommit=True) as reader,
        ):
            yield Bench(setup, client, meter, reader)


async def main(setup: Setup) -> None:
    async with bench(setup) as on:
        await serve(lambda scenario, asked: SCENARIOS[scenario](on, asked))


if __name__ == "__main__":
    with runner(uvloop=False) as event_loop:
        event_loop.run(main(Setup.from_command_line()))
