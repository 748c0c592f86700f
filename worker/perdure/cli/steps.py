"""The steps of a run: its activities as the history tells them, one object for each.

What lives here: pure functions from events to steps. What must not: clocks, the
store, rendering. `portrait` shows what a run is doing with them, and the demo
proves with them what ran how often.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

from perdure.model.events import (
    ActivityAttemptFailed,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    Failure,
    Microseconds,
)
from perdure.model.runs import HistoryEvent


class Outcome(Enum):
    """Where a step stands."""

    UNDER_WAY = "under way"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Step:
    """One activity call of a run.

    ``attempts`` counts the attempts whose end is recorded, ``results`` how often
    a result is (it must be at most once), ``worker`` is who recorded the last of them.
    """

    scheduled: ActivityScheduled
    outcome: Outcome = Outcome.UNDER_WAY
    attempts: int = 0
    results: int = 0
    worker: str = ""
    failure: Failure | None = None
    retry_at: Microseconds = 0

    @property
    def seq(self) -> int:
        """The number of the step in its run."""
        return self.scheduled.seq

    @property
    def name(self) -> str:
        """The name of the activity."""
        return self.scheduled.name


def steps_of(history: Iterable[HistoryEvent]) -> dict[int, Step]:
    """Return every step of a history by its number, in the order in which they were scheduled."""
    steps: dict[int, Step] = {}
    for recorded in history:
        event = recorded.event
        if isinstance(event, ActivityScheduled):
            steps[event.seq] = Step(event)
            continue
        if not isinstance(event, ActivityCompleted | ActivityAttemptFailed | ActivityFailed | ActivityCancelRequested):
            continue
        step = steps.get(event.seq)
        if step is None:
            continue  # its beginning is in a turn that only a newer release can read
        if isinstance(event, ActivityCancelRequested):
            step.outcome = Outcome.CANCELLED
            continue
        step.attempts += 1
        step.worker = recorded.worker
        if isinstance(event, ActivityAttemptFailed):
            step.failure, step.retry_at = event.failure, event.retry_at
        elif isinstance(event, ActivityFailed):
            step.outcome, step.failure = Outcome.FAILED, event.failure
        else:
            step.outcome = Outcome.COMPLETED
            step.results += 1
    return steps
