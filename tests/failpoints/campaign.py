"""Every cut of a scenario: which ones there are, and a performance for each, several at a time.

What lives here: the enumeration and the campaign. What must not: names of statements. The first performance has no cut
and says which statements there are; statements that only a cut brings about are cut in a performance with both cuts.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Final

from perdure.store.postgres import migrate
from tests.failpoints.stage import Performance, Stage, Stuck
from tests.failpoints.verdict import judge
from tests.support.failpoints import Cut, Kind, Place
from tests.support.postgres import TEST_SETTINGS, EmbeddedServer

SETTINGS: Final = {**TEST_SETTINGS, "max_connections": "800"}
Cuts = tuple[Cut, ...]
Seen = Mapping[str, Counter[str]]
Choice = Callable[[Seen], Iterable[Place]]


@dataclass(frozen=True, slots=True)
class Result:
    """A performance and what was wrong with it."""

    performance: Performance
    complaints: list[str]

    @property
    def complete(self) -> bool:
        """Whether every cut that was asked for was made."""
        return len(self.performance.made) == len(self.performance.cuts)

    def __str__(self) -> str:
        cuts = "; ".join(map(str, self.performance.cuts)) or "no cut"
        return "\n".join([f"=== {cuts} ({self.performance.folder})", *self.complaints])


@dataclass
class Campaign:
    """All performances on one server, on as many databases as there are lanes."""

    folder: Path
    lanes: int
    results: list[Result] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def made(self) -> Counter[tuple[str, Kind]]:
        """How often each statement was cut in each way."""
        return Counter((cut.place.name, cut.kind) for result in self.results for cut in result.performance.made)

    @property
    def baseline(self) -> Result:
        """The performance without a cut."""
        return self.results[0]

    async def fight(self, choose: Choice) -> None:
        """Make every kind of cut at the places that ``choose`` takes out of the performance without a cut."""
        began = time.monotonic()
        server = await asyncio.to_thread(EmbeddedServer, SETTINGS)
        try:
            stages = await asyncio.gather(*(asyncio.to_thread(self._stage, server) for _ in range(self.lanes)))
            await self._perform(stages, [()])
            seen = self.baseline.performance.seen
            await self._perform(stages, [(Cut(place, kind),) for place, kind in product(choose(seen), Kind)])
            known = {name for counted in seen.values() for name in counted}
            while more := list(self._brought_about(known)):
                await self._perform(stages, more)
        finally:
            await asyncio.to_thread(server.stop)
            self.seconds = time.monotonic() - began

    def _stage(self, server: EmbeddedServer) -> Stage:
        dsn = server.create_database()
        migrate(dsn)
        return Stage(dsn, self.folder)

    async def _perform(self, stages: Sequence[Stage], plans: Iterable[Cuts]) -> None:
        """Carry out the plans; a cut whose place was not reached this time gets a second chance."""
        waiting = [(plan, 2) for plan in reversed(list(plans))]

        async def lane(stage: Stage) -> None:
            while waiting:
                plan, chances = waiting.pop()
                result = await self._play(stage, plan)
                if result.complete or result.complaints or chances == 1:
                    self.results.append(result)
                else:
                    waiting.insert(0, (plan, chances - 1))

        await asyncio.gather(*map(lane, stages))

    async def _play(self, stage: Stage, plan: Cuts) -> Result:
        try:
            performance = await stage.perform(*plan)
        except Stuck as stuck:
            return Result(stuck.performance, [str(stuck), stuck.performance.logs()])
        complaints = await asyncio.to_thread(judge, stage.dsn, performance)
        return Result(performance, complaints + ([performance.logs()] if complaints else []))

    def _brought_about(self, known: set[str]) -> Iterator[Cuts]:
        """Yield plans for statements that were sent only because of a cut: that cut, and then each cut of them."""
        for result in [result for result in self.results if result.complete]:
            for role, seen in result.performance.seen.items():
                for name in seen.keys() - known:
                    known.add(name)
                    yield from ((*result.performance.cuts, Cut(Place(role, name, 1), kind)) for kind in Kind)

    def report(self) -> str:
        """Return what was done, in a few lines."""
        made = self.made
        missed = [result for result in self.results if not result.complete]
        names = sorted({name for name, _ in made})
        table = [f"{name:16}" + "".join(f"{made[name, kind]:16}" for kind in Kind) for name in names]
        return "\n".join(
            [
                f"{len(self.results)} performances in {self.seconds:.0f} s, {len(missed)} whose place was not reached",
                f"{'':16}" + "".join(f"{kind.name:>16}" for kind in Kind),
                *table,
                *(f"not reached: {'; '.join(map(str, result.performance.cuts))}" for result in missed),
            ]
        )


def everywhere(seen: Seen) -> Iterator[Place]:
    """Yield every place."""
    for role, counted in seen.items():
        for name, times in counted.items():
            yield from (Place(role, name, nth) for nth in range(1, times + 1))


def somewhere(seen: Seen) -> Iterator[Place]:
    """Yield one place of each statement, in the role that sends it most; more of the one that records turns."""
    for name in sorted({name for counted in seen.values() for name in counted}):
        role = max(seen, key=lambda role: seen[role][name])
        times = seen[role][name]
        places = min(times, 6 if name == "flush" else 1)
        yield from (Place(role, name, 1 + number * times // places) for number in range(places))


LANES: Final = int(os.environ.get("FAILPOINTS_LANES", "8"))
