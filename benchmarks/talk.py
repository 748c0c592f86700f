"""How a measured program is asked: lines of JSON on its standard input, lines of JSON back.

What lives here: the side of the program (`serve`), and helpers that all programs share. What must not: imports of
Perdure, because the program for DBOS uses this in an environment of its own. `programs` has the other side.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks.measure import Sample

ANSWER: Final = "@@ "
"""What lines to the asker begin with; libraries may print other lines."""

Arguments = Mapping[str, Any]
Handler = Callable[[str, Arguments], Awaitable[Sample]]


@dataclass(frozen=True)
class Setup:
    """What a program is started with. ``monitor`` is a database in which nothing is measured."""

    dsn: str
    monitor: str
    options: dict[str, Any]

    @classmethod
    def from_command_line(cls) -> Setup:
        """Read the only argument."""
        return cls(**json.loads(sys.argv[1]))


def say(text: str) -> None:
    """Send one line to the asker."""
    print(ANSWER + text, flush=True)


async def serve(handler: Handler) -> None:
    """Answer requests, one at a time, until the asker closes our standard input."""
    say("ready")
    while line := await asyncio.to_thread(sys.stdin.readline):
        asked = json.loads(line)
        say((await handler(asked["scenario"], asked["arguments"])).to_json())


async def in_flight(count: int, total: int, one: Callable[[int], Awaitable[float]]) -> list[float]:
    """Run ``one`` ``total`` times, ``count`` at a time; return the milliseconds that each took."""
    numbers = iter(range(total))
    latencies: list[float] = []

    async def lane(mine: Iterator[int]) -> None:
        latencies.extend([await one(number) for number in mine])

    await asyncio.gather(*(lane(numbers) for _ in range(count)))
    return latencies


async def timed(work: Awaitable[object]) -> float:
    """Return the milliseconds that ``work`` takes."""
    began = time.perf_counter()
    await work
    return (time.perf_counter() - began) * 1000
