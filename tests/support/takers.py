"""Workers that take runs in the process that starts them, for the stages.

What lives here: `Taking`, which notes what it is given. What must not: a turn that is really taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from perdure.model.events import ActivityScheduled, Turn, TurnHeader
from perdure.model.runs import ClaimedRun
from perdure.model.workers import Lease
from perdure.store.base import Start


@dataclass
class Taking:
    """A worker that would take runs, and those that it took."""

    lease: Lease
    turn: Turn | None = None
    runs: list[ClaimedRun] = field(default_factory=list)
    drops: int = 0
    begins: int = 0

    @property
    def settled(self) -> bool:
        """Whether each run that it began was taken or dropped."""
        return self.begins == len(self.runs) + self.drops

    def takes_along(self, starts: int) -> bool:
        assert starts > 0
        return False

    def begin(self, starts: Sequence[Start]) -> list[Taking]:
        self.begins += len(starts)
        for new, started in starts:
            assert (started.workflow, started.seed) == (new.workflow, new.seed)
            if self.turn is not None:
                self.turn = Turn(0, self.turn.header, (started, *self.turn.events))
        return [self] * len(starts)

    def took(self, run: ClaimedRun) -> None:
        self.runs.append(run)

    def dropped(self) -> None:
        self.drops += 1


def begun(lease: Lease) -> Taking:
    """Return a worker that takes runs with a first turn of a usual size."""
    events = (ActivityScheduled(1, "charge", msgspec.Raw(b"[]")),)
    return Taking(lease, Turn(0, TurnHeader(time=1_000_000, worker="one", build="build-1"), events))
