"""What a run waits for at a moment that is known: timers, retries, its own timeout.

What lives here: an agenda, a heap of moments (microseconds of the store's clock) and numbers of commands, and free
functions of one. What must not: waiting; `execution` keeps an agenda for each run and does that.
"""

import heapq
from collections.abc import Sequence

from perdure.engine.run import Run
from perdure.model.events import Event, Microseconds, TimerStarted
from perdure.model.policies import MICROSECONDS

Agenda = list[tuple[Microseconds, int]]

DEADLINE = 0
"""The agenda's number for the run's own timeout; commands count from 1."""


def add_timers(agenda: Agenda, commands: Sequence[Event]) -> None:
    """Enter the timers that were started."""
    for command in commands:
        if type(command) is TimerStarted:
            heapq.heappush(agenda, (command.fire_at, command.seq))


def until_next(agenda: Agenda, run: Run, now: Microseconds) -> float | None:
    """Return the seconds until the next entry that counts, and strike out those before it; None: there is none."""
    while agenda:
        at, seq = agenda[0]
        if seq == DEADLINE or seq in run.timers or seq in run.activities:
            return (at - now) / MICROSECONDS
        heapq.heappop(agenda)
    return None
