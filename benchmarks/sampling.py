"""`python -m benchmarks.sampling`: where the CPU time of a worker goes, 50 workflows of five activities in flight.

What lives here: a sampling profiler (a signal after every millisecond of CPU time) and its table. What must not:
anything of the report; what was found this way is written down by people, in docs/explanation/performance.md.
"""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

from benchmarks.__main__ import SETTINGS
from benchmarks.perdure_subject import bench, sequential
from benchmarks.programs import ROOT
from benchmarks.talk import Setup
from perdure.store.postgres.migrate import migrate
from tests.support.postgres import EmbeddedServer

INTERVAL: Final = 0.001
TOP: Final = 30


class Samples:
    """What was running when the clock struck: by function, alone (``own``) and with everything above it (``all``)."""

    def __init__(self) -> None:
        self.count = 0
        self.own: Counter[str] = Counter()
        self.all: Counter[str] = Counter()
        self.layers: Counter[str] = Counter()

    def take(self, _: int, frame: FrameType | None) -> None:
        """Note one moment; time in C counts for the Python function that called it."""
        if frame is None:
            return
        self.count += 1
        self.own[place(frame)] += 1
        self.layers[layer(file(frame))] += 1
        seen = set()
        while frame is not None:
            seen.add(place(frame))
            frame = frame.f_back
        self.all.update(seen)

    def table(self) -> str:
        """Return what took most of the time."""
        lines = [f"{self.count} samples", "", "   own  part"]
        lines += [f"{times / self.count:6.1%}  {name}" for name, times in self.layers.most_common(TOP)]
        lines += ["", "   own    all  function"]
        for name, times in self.own.most_common(TOP):
            lines.append(f"{times / self.count:6.1%} {self.all[name] / self.count:6.1%}  {name}")
        return "\n".join(lines)


def file(frame: FrameType) -> str:
    """Return where a frame's code is, from the project or the package on."""
    parts = Path(frame.f_code.co_filename).parts
    for root in ("site-packages", "worker", ROOT.name):
        if root in parts:
            return "/".join(parts[parts.index(root) + 1 :])
    return "/".join(parts[-2:])


def layer(name: str) -> str:
    """Return the part of the system that a file belongs to."""
    parts = name.split("/")
    if parts[0] == "perdure":
        return "/".join(parts[:2])
    return parts[0] if len(parts) > 1 and not parts[0].startswith(("python3", "lib")) else "standard library"


def place(frame: FrameType) -> str:
    """Return the name of a frame's function."""
    return f"{file(frame)}:{frame.f_code.co_qualname}"


@contextmanager
def sampled() -> Iterator[Samples]:
    """Take samples of this thread."""
    samples = Samples()
    signal.signal(signal.SIGPROF, samples.take)
    signal.setitimer(signal.ITIMER_PROF, INTERVAL, INTERVAL)
    try:
        yield samples
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


async def main(dsn: str, monitor: str) -> None:
    async with bench(Setup(dsn, monitor, {})) as on:
        work = {"in_flight": 50, "workflows": 1_000, "length": 5}
        await sequential(on, work)
        with sampled() as samples:
            sample = await sequential(on, work | {"workflows": 15_000})
    print(f"{sample.rate:,.0f} activities a second while sampled")
    print(samples.table())


if __name__ == "__main__":
    server = EmbeddedServer(SETTINGS)
    try:
        fresh = server.create_database()
        migrate(fresh)
        asyncio.run(main(fresh, server.create_database()))
    finally:
        server.stop()
