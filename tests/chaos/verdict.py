"""The verdict on a chaos: every run ended right, every recorded step is there once, and nothing is left over.

What lives here: the checks, and how long recovery took, both read from what was recorded. What must not: faults.
Each check returns complaints; an empty list is a pass.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import psycopg

from perdure.model.events import (
    ActivityAttemptFailed,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    SideEffectRecorded,
    SignalReceived,
    TimerCancelled,
    TimerFired,
    TimerStarted,
)
from perdure.model.runs import HistoryEvent
from tests.chaos.faults import Fault, Frozen, Silence

LEFTOVERS: Final = {
    "open runs": "SELECT id FROM perdure.run WHERE state < 10",
    "messages of closed runs": "SELECT i.run_id FROM perdure.inbox i JOIN perdure.run r ON r.id = i.run_id "
    "WHERE r.state >= 10",
    "tasks of closed runs": "SELECT t.run_id FROM perdure.task t JOIN perdure.run r ON r.id = t.run_id "
    "WHERE r.state >= 10",
    "heartbeats of closed runs": "SELECT b.run_id FROM perdure.heartbeat b JOIN perdure.run r ON r.id = b.run_id "
    "WHERE r.state >= 10",
    "messages, tasks and heartbeats without a run": "SELECT run_id FROM (SELECT run_id FROM perdure.inbox UNION ALL "
    "SELECT run_id FROM perdure.task UNION ALL SELECT run_id FROM perdure.heartbeat) m "
    "WHERE NOT EXISTS (SELECT FROM perdure.run r WHERE r.id = m.run_id)",
    "payloads without a turn": "SELECT p.run_id FROM perdure.payload p WHERE NOT EXISTS "
    "(SELECT FROM perdure.history h WHERE h.run_id = p.run_id AND h.seq = p.seq)",
    "histories without a run": "SELECT DISTINCT run_id FROM perdure.history h WHERE NOT EXISTS "
    "(SELECT FROM perdure.run r WHERE r.id = h.run_id)",
    "histories with a gap": "SELECT run_id FROM perdure.history GROUP BY run_id HAVING max(seq) + 1 <> count(*)",
    "instances with two runs": "SELECT min(id) FROM perdure.run GROUP BY namespace, instance HAVING count(*) > 1",
}

CLOCKS: Final = 0.05
"""Seconds by which a worker's idea of the database's clock may be off: half the time that a heartbeat took."""

_ENDS = (ActivityCompleted, ActivityFailed, TimerFired, TimerCancelled)


class Wait(NamedTuple):
    """A time in which nothing happened to a run."""

    seconds: float
    run: int
    what: str
    since: float


@dataclass
class Attempts:
    """What the journal says: for each activity, when which attempt began and in which process."""

    begun: dict[str, list[tuple[float, int, int]]] = field(default_factory=lambda: defaultdict(list))

    @classmethod
    def read(cls, journal: Path, offset: float, frozen: Sequence[Frozen] = ()) -> "Attempts":
        """Read the journal; ``offset`` turns its clock into the database's.

        A process may be frozen between the look at the lease, after which an attempt may begin, and the note. So the
        first note of a thread right after a thaw may be of an attempt that began before the frost.
        """
        attempts, last = cls(), dict[str, float]()
        for line in journal.read_text().splitlines():
            stamp, pid, thread, key, attempt = line.split()
            moment, before = float(stamp) + offset, last.get(thread, 0.0)
            last[thread] = moment
            for frost in frozen:
                if frost.pid == int(pid) and before < frost.until and abs(moment - frost.until) <= CLOCKS:
                    moment = frost.since
            attempts.begun[key].append((moment, int(attempt), int(pid)))
        return attempts


def check_history(run_id: int, history: Sequence[HistoryEvent], attempts: Attempts) -> list[str]:
    """Check that every step of a run was recorded once, in order, and that what was recorded did not run again."""
    found: list[str] = []
    if [event.id for event in history] != list(range(1, len(history) + 1)):
        found.append("its events do not count up")
    if any((later.time, later.turn) < (sooner.time, sooner.turn) for sooner, later in pairwise(history)):
        found.append("its time or its turns go back")
    if history[-1].type != "WorkflowExecutionCompleted":
        found.append(f"it ends with {history[-1].type}")
    twice = [key for key, times in Counter(map(_key, history)).items() if key is not None and times > 1]
    if twice:
        found.append(f"recorded more than once: {twice}")
    asked = {event.event.seq for event in history if isinstance(event.event, ActivityScheduled | TimerStarted)}
    ended = {event.event.seq for event in history if isinstance(event.event, _ENDS)}
    if asked != ended:
        found.append(f"asked for and never ended, or the other way round: {asked ^ ended}")
    return [f"run {run_id}: {what}" for what in [*found, *_ran_again(run_id, history, attempts)]]


def _key(event: HistoryEvent) -> tuple[object, ...] | None:
    """Return what may occur only once in a history."""
    match event.event:
        case ActivityScheduled(seq=seq) | TimerStarted(seq=seq) | SideEffectRecorded(seq=seq):
            return "begun", seq
        case ActivityAttemptFailed(seq=seq, attempt=attempt):
            return "failed", seq, attempt
        case SignalReceived(id=message):
            return "message", message
        case ActivityCompleted(seq=seq) | ActivityFailed(seq=seq) | TimerFired(seq=seq) | TimerCancelled(seq=seq):
            return "ended", seq
    return None


def _ran_again(run_id: int, history: Sequence[HistoryEvent], attempts: Attempts) -> Iterable[str]:
    for event in history:
        end = event.event
        if not isinstance(end, ActivityCompleted | ActivityAttemptFailed):
            continue
        began = sorted(attempts.begun.get(f"{run_id}/{end.seq}", ()))
        itself = next((one for one in began if one[1] == end.attempt), None)
        if itself is None:
            yield f"attempt {end.attempt} of activity {end.seq} is recorded and never ran"
        for one in began:
            moment, attempt, pid = one
            late = moment - event.time.timestamp()
            repeated = isinstance(end, ActivityCompleted) or attempt == end.attempt
            if repeated and one != itself and late > CLOCKS:
                yield (
                    f"attempt {attempt} of activity {end.seq} began in process {pid} {late:.3f} s after "
                    f"{type(end).__name__} of attempt {end.attempt} was recorded by {event.worker}"
                )


def measure_recovery(history: Sequence[HistoryEvent], faults: Iterable[Fault]) -> None:
    """Note for each fault that affected this run how long it took until it went on, if it had something to do."""
    for fault in faults:
        before = [event.event for event in history if event.time.timestamp() <= fault.began]
        pending = {event.seq for event in before if isinstance(event, ActivityScheduled)}
        pending -= {event.seq for event in before if isinstance(event, _ENDS)}
        later = next((at for event in history if (at := event.time.timestamp()) > fault.over), None)
        if pending and later is not None:
            fault.recovered.append(later - fault.over)


def check_silences(run_id: int, history: Sequence[HistoryEvent], silences: Sequence[Silence]) -> list[str]:
    """Check that no worker recorded anything while it had no lease."""
    return [
        f"run {run_id}: {worker} recorded turn {turn} {at - silence.after:.3f} s after the end of its lease"
        for turn, worker, at in {(event.turn, event.worker, event.time.timestamp()) for event in history}
        for silence in silences
        if worker == silence.worker and silence.after + CLOCKS < at < silence.before - CLOCKS
    ]


def longest_wait(run_id: int, history: Sequence[HistoryEvent]) -> Wait:
    """Return the longest time in which nothing happened to a run that had something to do, that is an open activity."""
    longest, pending = Wait(0.0, run_id, "", 0.0), set[int]()
    for sooner, later in pairwise(history):
        if isinstance(sooner.event, ActivityScheduled):
            pending.add(sooner.event.seq)
        elif isinstance(sooner.event, _ENDS):
            pending.discard(sooner.event.seq)
        seconds = (later.time - sooner.time).total_seconds()
        if pending and seconds > longest.seconds:
            what = f"{later.type} by {later.worker} after {sooner.type} by {sooner.worker}, open: {sorted(pending)[:5]}"
            longest = Wait(seconds, run_id, what, sooner.time.timestamp())
    return longest


def by_run(faults: Iterable[Fault]) -> Mapping[int, list[Fault]]:
    """Return the faults that affected each run."""
    affecting: dict[int, list[Fault]] = defaultdict(list)
    for fault in faults:
        for run_id in fault.affected:
            affecting[run_id].append(fault)
    return affecting


def mark_company(faults: Sequence[Fault]) -> None:
    """Find out which faults had the time of their recovery to themselves."""
    for fault in faults:
        until = max([fault.ended, *(fault.over + seconds for seconds in fault.recovered)])
        others = [other for other in faults if other is not fault and other.began < until]
        fault.alone = all(other.ended <= fault.began for other in others)


def check_leftovers(url: str) -> list[str]:
    """Check that nothing is left of runs that are closed."""
    with psycopg.connect(url, autocommit=True) as connection:
        found = {what: connection.execute(query.encode()).fetchall() for what, query in LEFTOVERS.items()}
    return [f"{len(rows)} {what}: {[row[0] for row in rows[:10]]}" for what, rows in found.items() if rows]


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which ``share`` of the values are."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=1000, method="inclusive")[round(share * 1000) - 1]
