"""Whether a performance went right: results, histories, effects, and what is left in the tables.

What lives here: `judge`, which reads the database and the journal and returns every complaint. What must not: opinions
on how it came to that; the same rules hold for a performance without a cut and for one in which a process died.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

import psycopg

from perdure.engine.replay import replay
from perdure.errors import EngineFault
from perdure.model import codec
from perdure.model.events import (
    ActivityAttemptFailed,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    ClosedFromOutside,
    Event,
    SideEffectRecorded,
    SignalReceived,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    Turn,
    WorkflowExecutionCancelRequested,
)
from perdure.model.runs import RunId, RunInfo, RunState
from tests.failpoints import workflows
from tests.failpoints.stage import Performance

EXPECTED: Final[dict[str, Any]] = {
    "everything": {
        "few": [10, 20, 30, 40],
        "caught": ["ActivityError", "ActivityError"],
        "many": [number * 10 for number in range(10, 26)],
        "value": 7,
        "same": True,
        "big": True,
    },
    "conversation": ["silence", 1, 2, 3, "a", "b"],
    "drifter": 60,
    "sleeper": 50,
    "cancellable": "WorkflowCancelledError",
    "busy": "WorkflowTerminatedError",
    "guest": None,
    "waiting": "WorkflowTerminatedError",
    "expiring": "WorkflowTimedOutError",
    "fragile": 30,
    "late": 40,
    "keyed": "object",
    "stolen": "free",
}
"""What each instance comes to: a result, or the name of the error that its caller gets."""

LEFT_OVER: Final = {
    "worker": "namespace = %(namespace)s",
    "task": "namespace = %(namespace)s",
    "inbox": "run_id IN (SELECT id FROM perdure.run WHERE namespace = %(namespace)s)",
    "status_change": "run_id IN (SELECT id FROM perdure.run WHERE namespace = %(namespace)s)",
    "payload": (
        "run_id IN (SELECT id FROM perdure.run WHERE namespace = %(namespace)s)"
        " AND NOT EXISTS (SELECT FROM perdure.history h WHERE h.run_id = payload.run_id AND h.seq = payload.seq)"
    ),
}
"""Rows that nobody needs any more when every run is closed and every worker has gone."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as the tables have it."""

    info: RunInfo
    state: RunState
    turns: list[Turn]
    committed: list[float]
    """When the server committed each turn, in seconds since 1970."""

    @property
    def events(self) -> list[Event]:
        """Every event, in order."""
        return [event for turn in self.turns for event in turn.events]


def judge(dsn: str, performance: Performance) -> list[str]:
    """Return what is wrong."""
    complaints = list(_outcomes(performance.outcomes))
    with psycopg.connect(dsn, autocommit=True) as connection:
        runs = list(_runs(connection, performance.namespace))
        left_over = _left_over(connection, performance.namespace)
        # A worker that a starved machine kept from moving gives its lease up; its row stays for the next one to remove.
        starved = "giving the lease up" in performance.logs(sys.maxsize)
        complaints += [row for row in left_over if not (starved and row.startswith("left over in worker"))]
    complaints += _one_run_each(runs)
    effects = _Effects(performance)
    for run in runs:
        for complaint in (*_history(run), *_replayed(run), *effects.compared(run)):
            complaints.append(f"{run.info.id}: {complaint}")
    return [*complaints, *effects.doubled(), *_strays(performance)]


def _strays(performance: Performance) -> Iterator[str]:
    """A lost answer is asked for again; the sweep for runs that nobody knows of is for longer outages."""
    for line in performance.logs(sys.maxsize).splitlines():
        if "owned here but not known" in line:
            yield line


def _outcomes(found: dict[str, list[Any]]) -> Iterator[str]:
    for instance, (kind, value) in found.items():
        result = value if kind == "result" else kind
        if result != EXPECTED[instance]:
            yield f"{instance} came to {kind} {value!r}, not to {EXPECTED[instance]!r}"


def _one_run_each(runs: Sequence[Run]) -> Iterator[str]:
    if sorted(run.info.id for run in runs) != sorted(EXPECTED):
        yield f"these ran: {sorted(run.info.id for run in runs)}"
    yield from (f"{run.info.id} is {run.state.name}" for run in runs if not run.state.closed)


def _left_over(connection: psycopg.Connection[Any], namespace: str) -> Iterator[str]:
    for table, which in LEFT_OVER.items():
        query = f"SELECT * FROM perdure.{table} WHERE {which}"
        for row in connection.execute(query.encode(), {"namespace": namespace}).fetchall():
            yield f"left over in {table}: {row!s:.200}"


def _runs(connection: psycopg.Connection[Any], namespace: str) -> Iterator[Run]:
    runs = connection.execute(
        "SELECT id, instance, workflow, queue, state FROM perdure.run WHERE namespace = %s ORDER BY id", [namespace]
    ).fetchall()
    for run_id, instance, workflow, queue, state in runs:
        turns, committed = [], []
        for seq, events, moment, payloads in connection.execute(
            "SELECT seq, events, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8,"
            " (SELECT array_agg(data ORDER BY ordinal) FROM perdure.payload p"
            " WHERE p.run_id = h.run_id AND p.seq = h.seq)"
            " FROM perdure.history h WHERE run_id = %s ORDER BY seq",
            [run_id],
        ):
            turn = codec.decode_turn(seq, events)
            turns.append(codec.join_payloads(turn, payloads) if payloads else turn)
            committed.append(moment)
        info = RunInfo(id=instance, run_id=RunId(run_id), namespace=namespace, workflow=workflow, queue=queue)
        yield Run(info, RunState(state), turns, committed)


def _history(run: Run) -> Iterator[str]:
    """No gap and no double: turns count up, time never goes back, and everything is recorded once."""
    if [turn.seq for turn in run.turns] != list(range(len(run.turns))):
        yield f"turns {[turn.seq for turn in run.turns]}"
    if any(later.header.time < earlier.header.time for earlier, later in pairwise(run.turns)):
        yield "time goes back"
    recorded = Counter(mark for event in run.events if (mark := _once(event)) is not None)
    yield from (f"{mark} is recorded {times} times" for mark, times in recorded.items() if times > 1)
    begun = {event.seq for event in run.events if isinstance(event, ActivityScheduled | TimerStarted)}
    ended = {event.seq for event in run.events if isinstance(event, ActivityCompleted | ActivityFailed | TimerFired)}
    if not ended <= begun:
        yield f"{ended - begun} ended and never began"
    spoken = [event.id for event in run.events if isinstance(event, SignalReceived)]
    for name in ("left", "right"):
        heard = [message for message in spoken if message.startswith(name)]
        if heard != sorted(heard):
            yield f"messages in the order {heard}"


def _once(event: Event) -> tuple[object, ...] | None:
    """Return what an event may be recorded for only once."""
    match event:
        case ActivityCompleted(seq=seq) | ActivityFailed(seq=seq):
            return "end of activity", seq
        case ActivityAttemptFailed(seq=seq, attempt=attempt):
            return "failed attempt", seq, attempt
        case TimerFired(seq=seq) | TimerCancelled(seq=seq):
            return "end of timer", seq
        case ActivityScheduled(seq=seq) | TimerStarted(seq=seq) | SideEffectRecorded(seq=seq):
            return "command", seq
        case SignalReceived(id=message):
            return "message", message
        case WorkflowExecutionCancelRequested():
            return ("cancellation",)
    return None


def _replayed(run: Run) -> Iterator[str]:
    """The code writes this history again, down to its last command."""
    definition = next(known for known in workflows.WORKFLOWS if known.name == run.info.workflow)
    outside = isinstance(run.events[-1], ClosedFromOutside)
    try:
        again = replay(definition, run.info, run.turns[:-1] if outside else run.turns)
    except EngineFault as fault:
        yield f"does not replay: {fault}"
        return
    if again.closed == outside:
        yield "replays to another end"
    again.evict()


class _Effects:
    """What ran, by the journal."""

    def __init__(self, performance: Performance) -> None:
        self._killed = {str(pid) for pid in performance.killed}
        self._lost: dict[str, float] = {}
        self._attempts: dict[tuple[str, ...], list[tuple[str, float]]] = defaultdict(list)
        for *words, pid, time in performance.journal:
            if words == ["lost-lease"]:
                self._lost[pid] = float(time)
            else:
                self._attempts[tuple(words)].append((pid, float(time)))

    def compared(self, run: Run) -> Iterator[str]:
        """Every attempt that was recorded ran, and none began after it was recorded."""
        for turn, committed in zip(run.turns, run.committed, strict=True):
            for event in turn.events:
                if isinstance(event, ActivityCompleted | ActivityFailed | ActivityAttemptFailed):
                    for attempt in range(1, event.attempt + 1):
                        yield from self._attempt(run, event.seq, attempt, committed)

    def _attempt(self, run: Run, seq: int, attempt: int, recorded_at: float) -> Iterator[str]:
        began = self._attempts.get(("attempt", run.info.id, f"{run.info.run_id}/{seq}", str(attempt)))
        if not began:
            yield f"attempt {attempt} of activity {seq} is recorded and never ran"
        elif began[-1][1] > recorded_at:
            yield f"attempt {attempt} of activity {seq} began {began[-1][1] - recorded_at:.3f} s after it was recorded"

    def doubled(self) -> Iterator[str]:
        """Nothing runs twice, but what was under way in a process that died or lost its lease."""
        for what, times in self._attempts.items():
            for (earlier, began), _ in pairwise(times):
                if earlier not in self._killed and self._lost.get(earlier, 0.0) < began:
                    yield f"{' '.join(what)} ran {len(times)} times, though process {earlier} lived on"
