"""Whom to wake: a few workers of each kind, not all of them.

What lives here: `Fleets`, which knows the workers of a moment ago. What must not: what is sent (`notices`), and when
(`hints`, which has one).

A start that wakes every idle worker costs each of them a look for a run that one of them takes. The workers that share
their code and their queues are a fleet, and any two of a fleet are as good as all.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from time import monotonic
from typing import Final

import msgspec

from perdure.ending import end
from perdure.errors import StoreError
from perdure.model.hints import Hint
from perdure.model.runs import WorkerId
from perdure.store.postgres.connection import Lane, Patience

FEW: Final = 2
"""Least workers of a fleet that are woken: one may have died, or be busy."""
SHARE: Final = 10
"""Of so many runs or tasks one worker takes all, if it has room: those who find nothing looked for nothing."""
FRESH: Final = 3.0
"""Most seconds for which the workers are believed to be the same. Who goes on sending hints looks twice as often."""


class _Fleet(msgspec.Struct, frozen=True):
    queues: frozenset[str]
    workers: frozenset[WorkerId]


class Fleets:
    """Chooses whom to wake for a hint. ``chance`` decides between workers that are alike.

    ``on_gone`` is called with workers of this process that are no more.
    """

    def __init__(
        self, lane: Lane, chance: random.Random, on_gone: Callable[[AbstractSet[WorkerId]], None] = lambda _: None
    ) -> None:
        self._lane = lane
        self._chance = chance
        self._on_gone = on_gone
        self._fleets: list[_Fleet] = []
        self._known_at = -FRESH
        self._task: asyncio.Task[None] | None = None
        self.own: set[WorkerId] = set()
        """Workers of this process, who hear of everything without being sent it."""

    def few(self, hint: Hint) -> tuple[WorkerId, ...] | None:
        """Return the workers to wake for the runs and tasks of a hint; None: all of them, whoever they are."""
        wanted = hint.queues | hint.tasks
        if not wanted:
            return None
        age = monotonic() - self._known_at
        if age >= FRESH / 2 and self._task is None:
            self._task = asyncio.create_task(self._look(), name="perdure-fleets")
        if age >= FRESH:
            return None
        if not wanted <= frozenset[str]().union(*[fleet.queues for fleet in self._fleets]):
            return None  # a worker of a queue that nobody serves may have come meanwhile
        most = max(FEW, hint.count // SHARE)
        chosen: set[WorkerId] = set()
        everybody: set[WorkerId] = set()
        for fleet in self._fleets:
            others = sorted(fleet.workers - self.own)
            everybody.update(others)
            if not wanted.isdisjoint(fleet.queues):
                chosen.update(self._chance.sample(others, most) if len(others) > most else others)
        return None if chosen == everybody else tuple(sorted(chosen))

    async def close(self) -> None:
        """Stop looking."""
        await end([self._task])

    async def _look(self) -> None:
        try:
            with contextlib.suppress(StoreError):  # then everybody is told
                before = frozenset(self.own)
                rows = await self._lane.fetch("fleets", {}, patience=Patience(0))
                self._fleets = [_Fleet(frozenset(queues), frozenset(workers)) for queues, workers in rows]
                self._known_at = monotonic()
                gone = before.difference(*[fleet.workers for fleet in self._fleets])
                self.own -= gone
                self._on_gone(gone)
        finally:
            self._task = None
