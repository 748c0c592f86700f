"""The tables of the store in memory, and how it shows them to readers.

What lives here: plain mutable rows and `MemoryReads`, the `ReadStore` half of `memory.MemoryStore`. What must not:
transitions; those are in `memory`.
"""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from perdure.model import codec
from perdure.model.events import Failure, Incoming, Microseconds, Turn
from perdure.model.runs import Ended, HistoryEvent, RunId, RunInfo, RunState, RunSummary, WorkerId
from perdure.model.workers import WorkerInfo
from perdure.store import records
from perdure.store.base import Census, Poller, Queue, RunFilter, StatusChange


@dataclass
class WorkerRow:
    """A worker whose lease was not found expired yet."""

    id: WorkerId
    epoch: int
    info: WorkerInfo
    expires_at: Microseconds


@dataclass
class InboxRow:
    """A message; ``owner`` is who owned the run when it came."""

    body: bytes
    owner: WorkerId | None


@dataclass
class TaskRow:
    """An activity for any worker of ``queue``; it disappears when it is done or its run closes."""

    run_id: RunId
    seq: int
    queue: str
    name: str
    input: bytes
    options: bytes
    attempt: int
    available_at: Microseconds
    owner: WorkerId | None = None
    last_failure: Failure | None = None


@dataclass
class RunRow:
    """A run with all that belongs to it."""

    id: RunId
    namespace: str
    instance: str
    workflow: str
    queue: str
    key: str | None
    priority: int
    created_at: Microseconds
    deadline: Microseconds | None
    state: RunState = RunState.READY
    owner: WorkerId | None = None
    mail: int = 0
    started_at: Microseconds | None = None
    closed_at: Microseconds | None = None
    wake_at: Microseconds | None = None
    waiting_for: str = ""
    status_text: str = ""
    progress: str = ""
    hold_reason: str = ""
    hold_message: str = ""
    held_builds: set[str] = field(default_factory=set)
    cancel_requested: bool = False
    suspended: bool = False
    build: str | None = None
    claimed_at: Microseconds = 0
    claims: int = 0
    takeovers: int = 0
    taken_turn: int | None = None
    outcome: bytes | None = None
    history: dict[int, bytes] = field(default_factory=dict)
    inbox: dict[int, InboxRow] = field(default_factory=dict)
    tasks: dict[int, TaskRow] = field(default_factory=dict)
    details: dict[int, bytes] = field(default_factory=dict)

    def turns(self) -> tuple[Turn, ...]:
        """Return the history, in order."""
        return tuple(codec.decode_turn(seq, data) for seq, data in sorted(self.history.items()))

    @property
    def info(self) -> RunInfo:
        """What it knows about itself."""
        return RunInfo(
            id=self.instance, run_id=self.id, namespace=self.namespace, workflow=self.workflow, queue=self.queue
        )

    def is_for(self, worker: WorkerInfo) -> bool:
        """Tell whether a worker serves the queue, knows the workflow and is of the right build."""
        return (
            worker.namespace == self.namespace
            and self.queue in worker.queues
            and self.workflow in worker.workflows
            and self.build in {None, worker.build}
        )

    def put_mail(self, event: Incoming) -> None:
        """Number a message and wake the run if it sleeps."""
        self.mail += 1
        self.inbox[self.mail] = InboxRow(codec.encode_message(event), self.owner)
        if self.state is RunState.PARKED:
            self.state, self.wake_at = RunState.READY, None


class MemoryReads:
    """Everything that looks at runs in memory."""

    def __init__(self, clock: Callable[[], Microseconds] | None = None) -> None:
        self.clock = clock or (lambda: time.time_ns() // 1000)
        self.lock = threading.RLock()
        self.runs: dict[RunId, RunRow] = {}
        self.workers_by_id: dict[WorkerId, WorkerRow] = {}
        self.changes: dict[int, RunId] = {}
        self.run_ids = itertools.count(1)
        self.worker_ids = itertools.count(1)
        self.change_numbers = itertools.count(1)

    async def describe(self, namespace: str, instance: str, run_id: RunId | None = None) -> RunSummary | None:
        """Return the newest run of an instance, or the run of it with this id."""
        with self.lock:
            found = [
                run
                for run in self.runs.values()
                if run.namespace == namespace and run.instance == instance and run_id in {None, run.id}
            ]
            return self._summary(found[-1]) if found else None

    async def ended(self, runs: Sequence[RunId]) -> dict[RunId, Ended | None]:
        """Return how those of these runs ended that have closed; None for those that are not here (any more)."""
        with self.lock:
            ended: dict[RunId, Ended | None] = {run_id: None for run_id in runs if run_id not in self.runs}
            for run in [self._summary(self.runs[run_id]) for run_id in runs if run_id in self.runs]:
                if run.outcome is not None:
                    ended[run.run_id] = Ended(run.id, run.outcome)
            return ended

    async def by_key(self, keys: Sequence[str]) -> list[RunSummary]:
        """Return the runs that were started with these keys."""
        with self.lock:
            return [self._brief(run) for run in self.runs.values() if run.key is not None and run.key in keys]

    async def newest(self, instances: Sequence[tuple[str, str]]) -> list[RunSummary]:
        """Return the newest run of each of these instances."""
        with self.lock:
            found = {(run.namespace, run.instance): run for run in self.runs.values()}
            return [self._brief(found[each]) for each in dict.fromkeys(instances) if each in found]

    async def open_keys(self) -> dict[str, tuple[str, str]]:
        """Return key -> (namespace, instance) of every open run that has a key."""
        with self.lock:
            return {
                run.key: (run.namespace, run.instance)
                for run in self.runs.values()
                if run.key is not None and not run.state.closed
            }

    async def list_runs(self, namespace: str, where: RunFilter) -> list[RunSummary]:
        """Return one page of runs, newest first."""
        with self.lock:
            found = [
                run
                for run in reversed(self.runs.values())
                if run.namespace == namespace
                and where.workflow in {None, run.workflow}
                and where.instance in {None, run.instance}
                and (not where.states or run.state in where.states)
                and (where.before is None or run.id < where.before)
            ]
            return [self._brief(run) for run in found[: where.limit]]

    async def history(self, run_id: RunId) -> list[HistoryEvent]:
        """Return every recorded event of a run, in order."""
        with self.lock:
            run = self.runs.get(run_id)
            return records.readable((*row, None) for row in sorted(run.history.items())) if run else []

    async def workers(self, namespace: str) -> list[tuple[WorkerId, str, str]]:
        """Return id, name and build of the workers whose lease is in force."""
        with self.lock:
            now = self.clock()
            return [
                (worker.id, worker.info.name, worker.info.build)
                for worker in self.workers_by_id.values()
                if worker.info.namespace == namespace and worker.expires_at > now
            ]

    async def census(self, namespaces: Sequence[str] | None) -> Census:
        """Count what is open in these namespaces, None: in all."""
        with self.lock:
            now = self.clock()
            runs = [
                run
                for run in self.runs.values()
                if not run.state.closed and (namespaces is None or run.namespace in namespaces)
            ]
            ready = [run for run in runs if run.state is RunState.READY and not run.suspended]
            due = [run for run in runs if run.state is RunState.PARKED and not run.suspended]
            due = [run for run in due if run.wake_at is not None and run.wake_at <= now]
            tasks = [((run.namespace, task.queue), task) for run in runs for task in run.tasks.values()]
            tasks = [(place, task) for place, task in tasks if task.owner is None and task.available_at <= now]
            served = [
                (worker.info.namespace, queue)
                for worker in self.workers_by_id.values()
                if worker.expires_at > now and (namespaces is None or worker.info.namespace in namespaces)
                for queue in worker.info.queues
            ]
            since: dict[tuple[str, str], Microseconds] = {}
            for place, time in [
                *(((run.namespace, run.queue), run.created_at) for run in ready if run.started_at is None),
                *(((run.namespace, run.queue), run.wake_at or now) for run in due),
                *((place, task.available_at) for place, task in tasks),
            ]:
                since[place] = min(time, since.get(place, now))
            waiting = Counter((run.namespace, run.queue) for run in [*ready, *due])
            offered, workers = Counter(place for place, _ in tasks), Counter(served)
            return Census(
                open=len(runs),
                held=Counter(run.hold_reason for run in runs if run.state is RunState.HELD),
                queues={
                    place: Queue(
                        runs=waiting[place],
                        activities=offered[place],
                        workers=workers[place],
                        oldest=(now - since.get(place, now)) / 1_000_000,
                    )
                    for place in {*waiting, *offered, *workers}
                },
            )

    async def pollers(self) -> frozenset[Poller]:
        """Return which queues are served with which builds."""
        with self.lock:
            now = self.clock()
            return frozenset(
                Poller(worker.info.namespace, queue, worker.info.build)
                for worker in self.workers_by_id.values()
                if worker.expires_at > now
                for queue in worker.info.queues
            )

    async def status_changes(self, limit: int, after: int = 0) -> list[StatusChange]:
        """Return changes of runs with a key, oldest first."""
        with self.lock:
            oldest = [each for each in self.changes.items() if each[0] > after][:limit]
            return [StatusChange(number=number, run=self._brief(self.runs[run_id])) for number, run_id in oldest]

    async def acknowledge(self, numbers: Sequence[int]) -> None:
        """Forget changes that have been written to their objects."""
        with self.lock:
            for number in numbers:
                self.changes.pop(number, None)

    def _brief(self, run: RunRow) -> RunSummary:
        summary = self._summary(run)
        if run.outcome is None or run.state is not RunState.COMPLETED or len(run.outcome) <= records.LONG:
            return summary
        return records.with_beginning(summary, run.outcome[: records.BEGINNING], len(run.outcome))

    def _summary(self, run: RunRow) -> RunSummary:
        worker = self.workers_by_id.get(run.owner) if run.owner is not None else None
        outcome = None if run.outcome is None else records.outcome_for_readers(run.outcome)
        return RunSummary(
            id=run.instance,
            run_id=run.id,
            namespace=run.namespace,
            workflow=run.workflow,
            queue=run.queue,
            state=run.state,
            created_at=records.as_datetime(run.created_at),
            started_at=None if run.started_at is None else records.as_datetime(run.started_at),
            closed_at=None if run.closed_at is None else records.as_datetime(run.closed_at),
            wake_at=None if run.wake_at is None else records.as_datetime(run.wake_at),
            worker=worker.info.name if worker else None,
            priority=run.priority,
            key=run.key,
            waiting_for=run.waiting_for,
            status_text=run.status_text,
            progress=run.progress,
            hold_reason=run.hold_reason,
            hold_message=run.hold_message,
            cancel_requested=run.cancel_requested,
            outcome=outcome,
            suspended=run.suspended,
            build=run.build,
        )
