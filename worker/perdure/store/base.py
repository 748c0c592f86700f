"""What a store must do, as domain verbs.

What lives here: the `Store` protocol (for clients and workers) and `ReadStore`
(for the CLI, the operator and anybody who only looks). What must not: SQL,
policies, loops. One conformance suite holds every implementation to this page.

The rules behind the verbs:

* One call is one atomic transition, for many runs at once.
* A run has an owner while it is `OWNED`. Every write of an owner carries its
  `Lease`; a lease that expired or was reaped writes nothing and gets
  `LeaseLostError`. What gives a run up names the claim that it ends, so that it
  takes nothing from a later claim of the same worker.
* A message gets its number from its run in the same transition that makes a
  parked run ready, so a run can never sleep on unread mail.
* Every call may be repeated after a lost acknowledgement.
* Time is the store's: `Renewal.now` is how anybody else learns it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from perdure.errors import PayloadError, PerdureError
from perdure.model.events import Incoming, Turn, WorkflowExecutionStarted
from perdure.model.hints import Audience, Hint
from perdure.model.runs import (
    ClaimAnswer,
    ClaimedRun,
    ClaimedTask,
    Commit,
    Committed,
    Ended,
    Heartbeat,
    HistoryEvent,
    InboxItem,
    NewRun,
    RunId,
    RunState,
    RunSummary,
    Started,
    TaskResult,
    WorkerId,
)
from perdure.model.workers import Expired, Known, Lease, Renewal, WorkerInfo

UNKNOWN_WORKFLOW = "UnknownWorkflow"
"""The reason of runs that are held because no worker knows their workflow: `Store.recover` frees them elsewhere."""

TOO_LARGE = "RunTooLarge"
"""The reason of runs that are held because no worker can take all that belongs to them into memory."""

UNREADABLE = "UnreadableHistory"
"""The reason of runs that are held because a newer release wrote their history or their mail."""

SUSPECT = 2
POISONOUS = 5
"""How many owners in a row have to vanish before a run is claimed alone, and before it is held."""

MOST_OF_A_TURN = 64 * 1024 * 1024
"""Most bytes that one turn may record."""

POISON = "PoisonRun"
"""The reason of runs that are held because their owners vanished one after the other."""

POISON_MESSAGE = (
    "5 workers in a row vanished within seconds after they took this run, and nothing was recorded: most likely its "
    "code ends the process (os._exit, a crash in native code, too much memory). Their logs may tell more. "
    "A worker with another build tries again by itself; perdure resume {instance} does at once"
)

UNKNOWN_WORKFLOW_MESSAGE = "no worker that serves queue {queue} knows workflow {workflow}; start one that has it"

ABSENT_BUILD = "NoWorkerOfBuild"
"""The reason of runs that are held because no worker of their build can take them: `Store.recover` frees them too."""

ABSENT_BUILD_MESSAGE = (
    "no worker of build {build} serves queue {queue} and knows workflow {workflow}, and no other may take it; start one"
)


class CommitRefusedError(PayloadError):
    """The store refuses the content of some commits of a batch; the message names the first one.

    ``refused`` maps places in the batch to the errors. ``answers`` has the answer of every other commit, which was
    carried out, and None in the refused places.
    """

    def __init__(self, refused: dict[int, PayloadError], answers: Sequence[Committed | None]) -> None:
        super().__init__(str(next(iter(refused.values()))))
        self.refused = refused
        self.answers = list(answers)


class ServerChangedError(PerdureError):
    """Another server answers than the one that gave the lease, or the same after a restart. Nothing was carried out.

    It may lack what was confirmed last: ask `Store.remembers`, and go on with the lease that it returns.
    """


def turn_too_large(run_id: RunId, size: int) -> PayloadError:
    """Return the error for a turn of more than `MOST_OF_A_TURN`."""
    return PayloadError(
        f"a turn of run {run_id} records {size:,} bytes, and one turn may record {MOST_OF_A_TURN:,}: start fewer "
        "activities at a time, or pass references instead of large values"
    )


Start = tuple[NewRun, WorkflowExecutionStarted]
"""A run to be created, and its first event."""


class Beginning(Protocol):
    """A run that a worker would take, and its first turn. One of the two methods is called, once."""

    turn: Turn | None
    """Turn 0 with what the code asked for, to be recorded with the start; None: the start alone is recorded."""

    def took(self, run: ClaimedRun) -> None:
        """Own the run from now on. Called as soon as its start is durable, even if nobody waits for it any more."""

    def dropped(self) -> None:
        """Forget it: it was not created, or belongs to nobody yet."""


class Taker(Protocol):
    """A worker in this process that would take a new run at once, without a claim."""

    @property
    def lease(self) -> Lease:
        """By which right it takes it."""

    def takes_along(self, starts: int) -> bool:
        """Whether it is about to write turns with which so many starts had better go."""

    def begin(self, starts: Sequence[Start]) -> Sequence[Beginning]:
        """Prepare to take these runs. Nothing may happen outside before `Beginning.took`."""


class Store(Protocol):
    """Everything that changes a run."""

    async def start(self, new: NewRun, taker: Taker | None = None) -> Started:
        """Create the run and its turn 0.

        While an instance of this id is open its run is returned instead, and a ``key`` that was ever used returns
        its run; the caller compares the workflow. The new run is `READY`; with a ``taker`` whose lease is in force it
        is `OWNED` from the start, and turn 0 is the one that the taker has begun with. Nobody offers to take a run
        that is suspended or meant for another build. Raises `RequestError` for what cannot be stored.
        """

    async def adopt(self, run_id: RunId, key: str) -> None:
        """Give a run the key of another object, one that was never used: it stands for the run from now on."""

    async def owned(self, lease: Lease) -> list[RunId]:
        """Return the runs that this worker owns. One that it knows nothing of was lost with an acknowledgement."""

    # What is done to the open run of an instance. With ``run_id`` it is done to this run alone: whoever has looked at a
    # run before does not want its successor. The answer is None when it is not open (any more).

    async def deliver(
        self, namespace: str, instance: str, event: Incoming, run_id: RunId | None = None
    ) -> RunId | None:
        """Put a message into the inbox of the open run of ``instance``."""

    async def terminate(self, namespace: str, instance: str, reason: str, run_id: RunId | None = None) -> RunId | None:
        """Close the open run of ``instance`` now; its owner finds out."""

    async def register(self, info: WorkerInfo) -> Lease:
        """Create a worker with a fresh id and a random epoch."""

    def renew(self, lease: Lease) -> Renewal:
        """Extend the lease and remove workers whose lease expired. Blocks; called from the lease thread.

        Raises `LeaseLostError` when the lease is gone, `StoreUnavailableError` when nobody answers
        before the lease is over.
        """

    async def resign(self, lease: Lease) -> None:
        """Give back every owned run and task at once and forget the worker. Doing it twice is fine."""

    async def expire(self, namespace: str, worker_name: str) -> Expired:
        """Take the leases of the workers of this name away at once.

        Their runs and tasks are ready again, and those of other workers that have vanished, as after `recover`.
        """

    async def recover(self, lease: Lease) -> int:
        """Make runs and tasks of vanished workers ready again, and held runs that this worker's code may free.

        A run whose owners vanished `POISONOUS` times in a row without recording anything is held as `POISON` instead.
        A held run of this worker's queues is freed when this worker may take it and either no worker of this build held
        it since it last slept, or it was held as `UNKNOWN_WORKFLOW` or `ABSENT_BUILD`. Returns the number of runs made
        ready.
        """

    async def hold_unknown(self, lease: Lease) -> int:
        """Hold ready runs of this worker's queues whose workflow no worker of the namespace, queue and build knows.

        Their reason is `UNKNOWN_WORKFLOW`, or `ABSENT_BUILD` for those that only one build may take, so that `recover`
        frees them once there is such a worker. Suspended runs are left alone. A store need not look at all that wait at
        once: at those that would be claimed first, and at the newest. Returns how many.
        """

    async def time_out(self, lease: Lease) -> int:
        """Close runs of all namespaces whose deadline has passed and that nobody alive owns; not suspended ones."""

    async def resume(self, namespace: str, instance: str, run_id: RunId | None = None) -> RunId | None:
        """Make a held run ready again; None when it is not held."""

    async def suspend(
        self, namespace: str, instance: str, run_id: RunId | None = None, *, suspended: bool
    ) -> RunId | None:
        """Let nobody take the open run until it is resumed in the same way; its owner is told to let go of it.

        Messages, timers and the timeout are kept and count on. A request to cancel ends the suspension, and None is the
        answer to a suspension after it, as when there is no open run.
        """

    async def claim(self, lease: Lease, limit: int) -> list[ClaimedRun]:
        """Become the owner of up to ``limit`` runs of this worker's queues, workflows and build.

        Parked runs whose time has come are first, so that a backlog of new runs cannot keep a timer from firing;
        then ready ones by priority, then age. A run that `SUSPECT` owners did not survive is taken alone, before all.
        Of large runs fewer are taken: each then says that it ``left_others``.
        """

    async def claim_announced(self, lease: Lease, run: ClaimedRun, turn: Turn) -> ClaimAnswer:
        """Become the owner of a run that a hint has announced, and record its turn 1, in one step.

        Otherwise nothing is done. ``GONE`` when this worker may not claim it, somebody has owned it, or it has mail;
        ``UNSURE`` when its turn 0 is another or it is not so simple, as after a lost answer: `claim` returns a run that
        was claimed without an answer.
        """

    async def absolve(self, runs: Sequence[RunId]) -> None:
        """Clear runs of the suspicion that they end their workers, whoever owns them now.

        Their worker has survived them for a while, or the loss of its lease while it had them.
        """

    async def flush(self, lease: Lease, commits: Sequence[Commit]) -> list[Committed]:
        """Carry out commits of different runs in one atomic step; one answer for each, in order.

        Raises `LeaseLostError` when the lease is gone, and `CommitRefusedError` (a `PayloadError`) when the store
        refuses the content of a commit; a refused batch is split first, so that a bad commit fails alone and the
        others are carried out. Raises `ServerChangedError` when the server is not the one of the lease.
        """

    async def remembers(self, lease: Lease, known: Sequence[Known]) -> Lease | None:
        """Return the lease as the server that answers now has it; None when that lacks something that is known.

        A server that takes over from another one may not have received all that the other one confirmed.
        """

    async def inbox(self, lease: Lease) -> list[InboxItem]:
        """Return the unconsumed messages that came while this worker owned their run, by run and number.

        Those that were there before came with the claim. A store may leave the last ones to the next look, so that a
        worker has room for what comes. A run that was closed from outside shows once, with its closing event as the
        last message. A run that is to be suspended shows in every answer until it is let go or resumed.
        """

    async def claim_tasks(self, lease: Lease, limit: int, passed_over: Sequence[str] = ()) -> list[ClaimedTask]:
        """Take up to ``limit`` due activity tasks of this worker's queues; none of the activities ``passed_over``."""

    async def owned_tasks(self, lease: Lease) -> list[tuple[RunId, int]]:
        """Return run and ``seq`` of the tasks that this worker has; what it took and is not there was dropped."""

    async def finish_tasks(self, lease: Lease, results: Sequence[TaskResult]) -> None:
        """Record ends and failed attempts of tasks that this worker took; stale ones change nothing."""

    async def heartbeat(self, lease: Lease, beats: Sequence[Heartbeat]) -> None:
        """Keep the details of attempts under way, so that the next ones find them wherever they are made.

        Those of activities that this worker does not carry out (any more) change nothing. They are kept until the run
        closes. Raises `LeaseLostError`.
        """

    def hint(self, hint: Hint) -> None:
        """Wake listeners soon, coalesced. May be lost; polling is the floor."""

    def hear(self, audience: Audience) -> None:
        """Let those who `listen` hear what is for this audience, too."""

    def listen(self) -> AsyncIterator[Hint]:
        """Yield hints from all processes; ends or raises when it cannot listen, and the caller polls."""

    async def close(self) -> None:
        """Close connections. The store cannot be used afterwards."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list. ``before`` is the run id of the last row of the page before (newest first)."""

    workflow: str | None = None
    states: frozenset[RunState] = frozenset()
    instance: str | None = None
    before: RunId | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusChange:
    """A run with a key whose visible state changed. Stays on the list until `ReadStore.acknowledge`."""

    number: int
    run: RunSummary


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """What waits on a task queue, and how many workers serve it.

    ``runs`` and ``activities`` could be worked on now and nobody does. ``oldest`` is for how many seconds the first of
    them has waited; runs that were under way before do not count in it.
    """

    runs: int = 0
    activities: int = 0
    workers: int = 0
    oldest: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Census:
    """How many runs are open, how many of them are held and for which reasons, and the queues by namespace and name."""

    open: int
    held: Mapping[str, int]
    queues: Mapping[tuple[str, str], Queue]


@dataclass(frozen=True, slots=True)
class Poller:
    """Some worker whose lease is in force serves this queue with this build."""

    namespace: str
    queue: str
    build: str


class ReadStore(Protocol):
    """Everything that looks at runs."""

    async def describe(self, namespace: str, instance: str, run_id: RunId | None = None) -> RunSummary | None:
        """Return the newest run of an instance, or the run with this id."""

    async def ended(self, runs: Sequence[RunId]) -> dict[RunId, Ended | None]:
        """Return how those of these runs ended that have closed; None for those that are not here (any more).

        One statement however many.
        """

    async def by_key(self, keys: Sequence[str]) -> list[RunSummary]:
        """Return the runs that were started with these keys, with the beginnings of long results."""

    async def newest(self, instances: Sequence[tuple[str, str]]) -> list[RunSummary]:
        """Return the newest run of each of these instances, given as (namespace, instance).

        Of a long result they have the beginning.
        """

    async def open_keys(self) -> dict[str, tuple[str, str]]:
        """Return key -> (namespace, instance) of every open run that has a key."""

    async def list_runs(self, namespace: str, where: RunFilter) -> list[RunSummary]:
        """Return one page of runs, newest first, with the beginnings of long results."""

    async def history(self, run_id: RunId) -> list[HistoryEvent]:
        """Return every recorded event of a run, in order."""

    async def workers(self, namespace: str) -> list[tuple[WorkerId, str, str]]:
        """Return id, name and build of the workers whose lease is in force."""

    async def census(self, namespaces: Sequence[str] | None) -> Census:
        """Count what is open in these namespaces, None: in all. It reads every open run: ask now and then."""

    async def pollers(self) -> frozenset[Poller]:
        """Return which queues are served with which builds, in all namespaces."""

    async def status_changes(self, limit: int, after: int = 0) -> list[StatusChange]:
        """Return changes of runs with a key, oldest first, of all namespaces, with the beginnings of long results.

        ``after`` is the number of a change: only those with higher numbers. One with a lower number may still come.
        """

    async def acknowledge(self, numbers: Sequence[int]) -> None:
        """Forget changes that have been written to their objects."""
