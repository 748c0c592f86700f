"""Perdure under measure: scenarios that push work through, in one process.

What lives here: the program that is asked for them. What must not: scenarios about state that is large or lost
(`perdure_states`), and choosing scenarios (`plan`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import psycopg

from benchmarks.loops import runner
from benchmarks.measure import POSTGRES, Meter, Sample, resident
from benchmarks.programs import Program
from benchmarks.talk import Arguments, Setup, in_flight, serve, timed
from benchmarks.workloads import ACTIVITIES, WORKFLOWS, carrier, chain, fan_out, listener
from perdure import Client, Limits, Worker
from perdure.store.postgres import PostgresStore

RECORDED = """
SELECT (SELECT count(*) FROM perdure.history) + (SELECT count(*) FROM perdure.payload),
       (SELECT coalesce(sum(length(events)), 0) FROM perdure.history)
     + (SELECT coalesce(sum(length(data)), 0) FROM perdure.payload)
"""

WRITES: Final = ("flush", "flush_turns", "turn_one", "close_one", "start", "start_one", "start_own")
"""The statements that record starts and turns."""


@dataclass(frozen=True)
class Bench:
    """A connected client, a worker here or elsewhere (or none), and the meter."""

    setup: Setup
    client: Client
    meter: Meter
    reader: psycopg.Connection[Any]

    def statements(self, name: str) -> int:
        """Return how many statements of this name this process has sent."""
        assert isinstance(self.client.store, PostgresStore)
        return self.client.store.statements[name]

    def writes(self) -> int:
        """Return how many statements of this process have recorded starts and turns."""
        return sum(map(self.statements, WRITES))

    async def measured(self, operations: int, work: Callable[[], Awaitable[list[float]]], **extra: float) -> Sample:
        """Do ``work``; what it recorded goes to the floor that writes the same rows."""
        (rows, size), writes, before = self.recorded(), self.writes(), self.meter.read()
        latencies = await work()
        sample = self.meter.sample(before, operations, latencies, **extra)
        rows_after, size_after = self.recorded()
        sample.extra.update(rows=rows_after - rows, bytes=size_after - size, flushes=self.writes() - writes)
        return sample

    def recorded(self) -> tuple[int, int]:
        """Return how many rows of history there are, and how many bytes are in them."""
        row = self.reader.execute(RECORDED).fetchone()
        assert row is not None
        return int(row[0]), int(row[1])

    def value(self, query: str) -> Any:
        """Return the only value of a query."""
        row = self.reader.execute(query.encode()).fetchone()
        assert row is not None
        return row[0]


@contextlib.asynccontextmanager
async def bench(setup: Setup) -> AsyncIterator[Bench]:
    """Open a client with its worker: here, in ``processes`` others, or nowhere."""
    options = setup.options
    processes = options.get("processes", 0)
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(Client.connect(setup.dsn))
        here = processes == 0 and options.get("worker", True)
        measured = {"client+worker" if here else "client": os.getpid()}
        for number in range(processes):
            worker = stack.enter_context(Program("benchmarks.perdure_worker", setup))
            measured[f"worker {number + 1}"] = worker.pid
        if here:
            await stack.enter_async_context(serving(client, options))
        meter = stack.enter_context(Meter(setup.monitor, measured))
        yield Bench(setup, client, meter, stack.enter_context(psycopg.connect(setup.dsn, autocommit=True)))


@contextlib.asynccontextmanager
async def serving(client: Client, options: Arguments) -> AsyncIterator[Worker]:
    """Run a worker of everything here, as soon as it takes work."""
    limits = Limits(**options.get("limits", {}))
    async with Worker(client, workflows=WORKFLOWS, activities=ACTIVITIES, limits=limits) as worker:
        while not worker.ready:  # noqa: ASYNC110  # as a probe would ask
            await asyncio.sleep(0.01)
        yield worker


async def run_chain(client: Client, length: int) -> None:
    handle = await client.start(chain, length)
    assert await handle.result() == sum(range(length))


async def sequential(on: Bench, asked: Arguments) -> Sample:
    """Workflows of activities one after the other, a number of workflows at a time."""
    count, total, length = asked["in_flight"], asked["workflows"], asked["length"]
    return await on.measured(
        total * length, lambda: in_flight(count, total, lambda _: timed(run_chain(on.client, length)))
    )


async def single(on: Bench, asked: Arguments) -> Sample:
    """One workflow at a time, with a pause between them in which everything comes to rest."""
    total, length, pause = asked["workflows"], asked["length"], asked["pause"]

    async def one(_: int) -> float:
        await asyncio.sleep(pause)
        return await timed(run_chain(on.client, length))

    return await on.measured(total * length, lambda: in_flight(1, total, one), paused=pause * total)


async def fanned(on: Bench, asked: Arguments) -> Sample:
    """Many activities at once in one workflow."""
    width = asked["width"]

    async def all_of_it() -> None:
        handle = await on.client.start(fan_out, width)
        assert await handle.result() == sum(range(width))

    async def work() -> list[float]:
        return [await timed(all_of_it())]

    return await on.measured(width, work)


async def signals(on: Bench, asked: Arguments) -> Sample:
    """Every run takes its messages while 50 senders send, each the next message when the last one is accepted."""
    runs, messages = asked["runs"], asked["messages"]
    handles = [await on.client.start(listener, messages) for _ in range(runs)]

    async def work() -> list[float]:
        latencies = await in_flight(
            50, runs * messages, lambda number: timed(handles[number % runs].signal("message", number // runs))
        )
        results = [await handle.result() for handle in handles]
        assert results == [sum(range(messages))] * runs
        return latencies

    return await on.measured(runs * messages, work)


async def payloads(on: Bench, asked: Arguments) -> Sample:
    """Workflows of activities whose results are large."""
    count, total, size, steps = (asked[name] for name in ("in_flight", "workflows", "size", "length"))

    async def carry() -> None:
        handle = await on.client.start(carrier, size, steps)
        assert await handle.result() == size * steps

    return await on.measured(total * steps, lambda: in_flight(count, total, lambda _: timed(carry())))


async def starts(on: Bench, asked: Arguments) -> Sample:
    """How fast runs can be handed in where no worker is."""
    count, total = asked["in_flight"], asked["workflows"]
    return await on.measured(total, lambda: in_flight(count, total, lambda _: timed(on.client.start(chain, 1))))


async def idle(on: Bench, asked: Arguments) -> Sample:
    """A worker with nothing to do; operations are the statements that the server saw."""
    await asyncio.sleep(asked["settle"])
    sent = dict(on.client.store.statements) if isinstance(on.client.store, PostgresStore) else {}
    seen, before = on.meter.transactions(on.setup.dsn), on.meter.read()
    await asyncio.sleep(asked["seconds"])
    statements = on.meter.transactions(on.setup.dsn) - seen
    sample = on.meter.sample(before, statements, resident_mb=resident(os.getpid()))
    del sample.cpu[POSTGRES]  # somebody else may be idle beside us
    for name in sorted(sent.keys() | {"claim"}):
        if on.statements(name) != sent.get(name, 0):
            sample.extra[name] = on.statements(name) - sent.get(name, 0)
    return sample


SCENARIOS: dict[str, Callable[[Bench, Arguments], Awaitable[Sample]]] = {
    "sequential": sequential,
    "single": single,
    "fan-out": fanned,
    "signals": signals,
    "payloads": payloads,
    "start": starts,
    "idle": idle,
}


async def main(setup: Setup) -> None:
    async with bench(setup) as on:
        await serve(lambda scenario, asked: SCENARIOS[scenario](on, asked))


if __name__ == "__main__":
    started_with = Setup.from_command_line()
    with runner(uvloop=started_with.options.get("uvloop", False)) as event_loop:
        event_loop.run(main(started_with))
