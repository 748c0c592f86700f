"""Hints: who should look again, said between processes.

What lives here: `Hint` and the audiences that it may have. What must not: how hints travel; the stores know that.
Everybody who waits for something listens. Nothing depends on a hint: it may be lost, and polling is the floor.
"""

from collections.abc import Iterable
from enum import StrEnum
from functools import reduce
from operator import or_

import msgspec

from perdure.model.runs import ClaimedRun, RunId, WorkerId

MANY = 1 << 20
"""So many runs or tasks that every worker may have some of them."""


class Audience(StrEnum):
    """Whom a hint is for: it wakes nobody else."""

    WORKERS = "workers"
    CLIENTS = "clients"
    OPERATORS = "operators"


class Hint(msgspec.Struct, frozen=True, gc=False):
    """A wake-up that may be lost: runs or tasks for a queue, mail for a worker, runs that closed, a status.

    ``count`` is how many runs and tasks of the queues there are, or `MANY`: the more, the more workers are woken, and
    never less than a few. What only these few were sent is ``addressed``.

    A run of one of the ``queues`` that was started just now may be ``announced``, as a claim would return it. It may be
    somebody's by now, and whoever sent the hint may have made it up: `Store.claim_announced` finds out.
    """

    queues: frozenset[str] = frozenset()
    tasks: frozenset[str] = frozenset()
    workers: frozenset[WorkerId] = frozenset()
    closed: frozenset[RunId] = frozenset()
    changed: bool = False
    announced: tuple[ClaimedRun, ...] = ()
    count: int = 0
    addressed: bool = False

    def __or__(self, other: "Hint") -> "Hint":
        return Hint(
            queues=self.queues | other.queues,
            tasks=self.tasks | other.tasks,
            workers=self.workers | other.workers,
            closed=self.closed | other.closed,
            changed=self.changed or other.changed,
            announced=self.announced + other.announced,
            count=self.count + other.count,
            addressed=self.addressed or other.addressed,
        )

    def part(self, audience: Audience) -> "Hint":
        """Return what of it is for this audience."""
        match audience:
            case Audience.WORKERS:
                return msgspec.structs.replace(self, closed=frozenset(), changed=False)
            case Audience.CLIENTS:
                return Hint(closed=self.closed)
            case Audience.OPERATORS:
                return Hint(changed=self.changed)

    def only(self, audiences: Iterable[Audience]) -> "Hint":
        """Return what of it is for these audiences."""
        return reduce(or_, map(self.part, audiences), NOTHING)


NOTHING = Hint()
"""A hint to nobody."""
