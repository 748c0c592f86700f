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

# By the moment of each commit the verdict tells what began after it was recorded.
SETTINGS: Final = {**TEST_SETTINGS, "max_connections": "800", "track_commit_timestamp": "on"}
Cuts = tuple[Cut, ...]
Sent = Mapping[str, Mapping[str, Sequence[int]]]
Choice = Callable[[Sent], Iterable[Cut]]


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
        """Make the cuts that ``choose`` finds in the performance without a cut, and those that they bring about."""
        began = time.monotonic()
        server = await asyncio.to_thread(EmbeddedServer, SETTINGS)
        try:
            stages = await asyncio.gather(*(asyncio.to_thread(self._stage, server) for _ in range(self.lanes)))
            await self._perform(stages, [()])
            sent = self.baseline.performance.sent
            await self._perform(stages, [(cut,) for cut in choose(sent)])
            tried: Counter[tuple[str, Kind]] = Counter()
            while more := list(self._brought_about(tried)):
                await self._perform(stages, more)
        finally:
            await asyncio.to_thread(server.stop)
            self.seconds = time.monotonic() - began

    def _stage(self, server: EmbeddedServer) -> Stage:
        dsn = server.create_database()
        migrate(dsn)
        return Stage(dsn, self.folder)

    async def _perform(self, stages: Sequence[Stage], plans: Iterable[Cuts]) -> None:
        """Carry out the plans; a cut whose place was not reached this time gets another chance."""
        waiting = [(plan, CHANCES) for plan in reversed(list(plans))]

        async def lane(stage: Stage) -> None:
            while waiting:
                plan, chances = waiting.pop()
                result = await self._play(stage, plan)
                if result.complaints:
                    print(result, flush=True)  # a long campaign may be stopped before its report
                if result.complete or result.complaints or chances == 1:
                    self.results.append(result)
                else:
                    # How much a statement does is not the same each time: in the end any place will do.
                    again = plan if chances > 2 else tuple(cut.anywhere() for cut in plan)
                    waiting.insert(0, (again, chances - 1))

        await asyncio.gather(*map(lane, stages))

    async def _play(self, stage: Stage, plan: Cuts) -> Result:
        try:
            performance = await stage.perform(*plan)
        except Stuck as stuck:
            return Result(stuck.performance, [str(stuck), stuck.performance.logs()])
        complaints = await asyncio.to_thread(judge, stage.dsn, performance)
        return Result(performance, complaints + ([performance.logs()] if complaints else []))

    def _brought_about(self, tried: Counter[tuple[str, Kind]]) -> Iterator[Cuts]:
        """Yield plans for statements that were sent only because of a cut: that cut, and then each cut of them.

        A cut that brought a statement about by chance may not do so again; then it is the turn of the next that did.
        """
        usual = {name for times in self.baseline.performance.sent.values() for name in times}
        brought: dict[str, list[tuple[Cuts, str]]] = {}
        complete = [result.performance for result in self.results if result.complete]
        for performance in sorted(complete, key=lambda performance: len(performance.cuts)):
            for role, sent in performance.sent.items():
                for name in sent.keys() - usual:
                    brought.setdefault(name, []).append((tuple(performance.cuts), role))
        for name, kind in product(brought, Kind):
            if not self.made[name, kind] and tried[name, kind] < min(len(brought[name]), CHANCES):
                cuts, role = brought[name][tried[name, kind]]
                tried[name, kind] += 1
                yield (*cuts, Cut(Place(role, name, 1), kind))

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


def everywhere(sent: Sent) -> Iterator[Cut]:
    """Yield every cut at every place."""
    for role, names in sent.items():
        for name, times in names.items():
            yield from (Cut(Place(role, name, nth + 1), kind) for nth, kind in product(range(len(times)), Kind))


def somewhere(sent: Sent) -> Iterator[Cut]:
    """Yield every cut of each statement where it did much, and more of the statement that records turns."""
    for name in sorted({name for names in sent.values() for name in names}):
        role = max(sent, key=lambda role: max(sent[role].get(name, [0])))
        times = sent[role][name]
        much = (min(times) + max(times)) // 2
        yield from (Cut(Place(role, name, 1, much if kind.carried_out else 0), kind) for kind in Kind)
        if name.startswith("flush"):
            some = range(2, len(times), 1 + len(times) // 6)
            yield from (Cut(Place(role, name, nth), kind) for nth, kind in product(some, Kind))


CHANCES: Final = 6
LANES: Final = int(os.environ.get("FAILPOINTS_LANES", "10"))
