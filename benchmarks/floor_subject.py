"""The floors under measure: bare rows and bare core, in one process.

What lives here: the program around `floor` and `core`. What must not: Perdure's engine.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import Any

import psycopg

from benchmarks.core import CoreRun, Writer, chain, fan_out
from benchmarks.floor import connect, write_rows
from benchmarks.loops import runner
from benchmarks.measure import Meter, Sample
from benchmarks.talk import Arguments, Setup, in_flight, serve, timed


class Floors:
    """One connection with the floor's tables, and the meter."""

    def __init__(self, connection: psycopg.AsyncConnection[Any], meter: Meter) -> None:
        self._connection = connection
        self._meter = meter
        self._numbers = itertools.count()

    async def handle(self, scenario: str, arguments: Arguments) -> Sample:
        """Carry out one request."""
        scenarios = {"rows": self.rows, "sequential": self.sequential, "single": self.single, "fan-out": self.fan_out}
        return await scenarios[scenario](arguments)

    async def rows(self, asked: Arguments) -> Sample:
        """Write the rows that somebody else's operations became; throughput counts those operations."""
        first = next(self._numbers) * 100_000_000
        before = self._meter.read()
        await write_rows(self._connection, range(first, first + asked["rows"]), asked["size"], asked["batch"])
        return self._meter.sample(before, asked["operations"])

    async def sequential(self, asked: Arguments) -> Sample:
        """Run chains on the bare core."""
        writer, length = Writer(self._connection), asked["length"]

        async def one(_: int) -> float:
            return await timed(CoreRun(next(self._numbers), chain(length), writer).done)

        before = self._meter.read()
        latencies = await in_flight(asked["in_flight"], asked["workflows"], one)
        return self._meter.sample(before, asked["workflows"] * length, latencies, flushes=writer.flushes)

    async def single(self, asked: Arguments) -> Sample:
        """Run one chain at a time on the bare core, with a pause between them."""
        writer, total, length, pause = Writer(self._connection), asked["workflows"], asked["length"], asked["pause"]

        async def one(_: int) -> float:
            await asyncio.sleep(pause)
            return await timed(CoreRun(next(self._numbers), chain(length), writer).done)

        before = self._meter.read()
        latencies = await in_flight(1, total, one)
        return self._meter.sample(before, total * length, latencies, flushes=writer.flushes, paused=pause * total)

    async def fan_out(self, asked: Arguments) -> Sample:
        """Run many activities in one workflow on the bare core."""
        writer, before = Writer(self._connection), self._meter.read()
        await CoreRun(next(self._numbers), fan_out(asked["width"]), writer).done
        return self._meter.sample(before, asked["width"], flushes=writer.flushes)


async def main(setup: Setup) -> None:
    connection = await connect(setup.dsn)
    with Meter(setup.monitor, {"process": os.getpid()}) as meter:
        await serve(Floors(connection, meter).handle)
    await connection.close()


if __name__ == "__main__":
    started_with = Setup.from_command_line()
    with runner(uvloop=started_with.options.get("uvloop", False)) as event_loop:
        event_loop.run(main(started_with))
