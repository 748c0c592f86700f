"""Runs: their states, the legal moves between them, and what is said about them.

What lives here: frozen data and the table of moves. What must not: SQL, clocks,
decisions. Stores, runtime, client and operator all speak in these types.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from enum import Enum, IntEnum
from typing import NewType

import msgspec

from perdure.errors import PerdureError, RequestError
from perdure.model.events import ClosedFromOutside, Closing, Failure, Incoming, Microseconds, Turn, Unreadable

RunId = NewType("RunId", int)
WorkerId = NewType("WorkerId", int)

UNBORN = RunId(0)
"""The id of a run whose first turn is taken before its start is recorded. No recorded run has it."""


class RunState(IntEnum):
    """Where a run is. The numbers are stored; 10 and above are closed."""

    READY = 0
    OWNED = 1
    PARKED = 2
    HELD = 3
    COMPLETED = 10
    FAILED = 11
    CANCELLED = 12
    TERMINATED = 13
    TIMED_OUT = 14

    @property
    def closed(self) -> bool:
        """Whether no event can follow."""
        return self >= RunState.COMPLETED


_CLOSED_BY_OWNER = frozenset({RunState.COMPLETED, RunState.FAILED, RunState.CANCELLED, RunState.TIMED_OUT})
_CLOSED_FROM_OUTSIDE = frozenset({RunState.TERMINATED, RunState.TIMED_OUT})

MOVES: dict[RunState, frozenset[RunState]] = {
    RunState.READY: frozenset({RunState.OWNED, RunState.HELD}) | _CLOSED_FROM_OUTSIDE,
    RunState.OWNED: frozenset({RunState.READY, RunState.PARKED, RunState.HELD, RunState.TERMINATED}) | _CLOSED_BY_OWNER,
    RunState.PARKED: frozenset({RunState.READY, RunState.OWNED}) | _CLOSED_FROM_OUTSIDE,
    RunState.HELD: frozenset({RunState.READY}) | _CLOSED_FROM_OUTSIDE,
    RunState.COMPLETED: frozenset(),
    RunState.FAILED: frozenset(),
    RunState.CANCELLED: frozenset(),
    RunState.TERMINATED: frozenset(),
    RunState.TIMED_OUT: frozenset(),
}
"""Every legal move. READY waits for a worker, OWNED has one, PARKED sleeps without
one until a message or a timer makes it READY (a claim may take it at once), HELD
needs other code. Time that has run out is the owner's to see, if there is one."""


class IllegalMoveError(PerdureError):
    """A run was asked to move where `MOVES` does not let it."""


def move(before: RunState, after: RunState) -> RunState:
    """Return ``after``; raise `IllegalMoveError` when a run in ``before`` may not go there."""
    if after not in MOVES[before]:
        message = f"a run cannot go from {before.name} to {after.name}"
        raise IllegalMoveError(message)
    return after


class RunInfo(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What a run knows about itself from its first to its last turn."""

    id: str
    run_id: RunId
    namespace: str
    workflow: str
    queue: str


class NewRun(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An instance to start. ``key`` (a Kubernetes UID) makes the start unique for ever, not only while it is open.

    Only workers of ``build`` take it, if one is named, and nobody while it is ``suspended``.
    """

    id: str
    namespace: str
    workflow: str
    queue: str
    input: bytes
    seed: str
    key: str | None = None
    priority: int = 0
    timeout: float | None = None
    suspended: bool = False
    build: str | None = None


class Started(msgspec.Struct, frozen=True, gc=False):
    """The answer to a start: the run, whether this call created it, and whether a worker of this process has it."""

    run_id: RunId
    created: bool
    workflow: str
    taken: bool = False


class InboxItem(msgspec.Struct, frozen=True, gc=False):
    """A message with the number that its run gave it. No event and no number: the run is to be suspended."""

    run_id: RunId
    number: int
    event: Incoming | ClosedFromOutside | None


class ClaimedRun(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A run with everything needed to go on: whole history and inbox, in order.

    ``tasks`` are the ``seq`` of the activities that have a row in the task table; ``details`` has what attempts said
    with their last heartbeats, by ``seq``. A ``suspect`` may be what ended its last owners. ``left_others``: there are
    more to claim, for which the claim had no room, because runs like this one have so many bytes. ``claims`` counts
    how often the run was taken, this time included.
    """

    info: RunInfo
    history: tuple[Turn, ...]
    inbox: tuple[InboxItem, ...]
    tasks: tuple[int, ...]
    mail: int
    created_at: Microseconds
    deadline: Microseconds | None
    suspect: bool = False
    details: Mapping[int, bytes] = {}
    left_others: bool = False
    claims: int = 1


class ClaimAnswer(Enum):
    """The answer to the claim of a run that was announced.

    ``GONE``: it was announced truly, and something has happened to it since; whoever did it hints if there is something
    to look for. ``UNSURE``: a look tells more.
    """

    TAKEN = "taken"
    GONE = "gone"
    UNSURE = "unsure"


class Visible(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What the author tells people about a run: ``workflow.set_status``."""

    text: str = ""
    progress: str = ""


class Park(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Put the run to sleep, if it has consumed all ``mail``. ``wake_at=None``: only a message wakes it."""

    mail: int
    wake_at: Microseconds | None
    waiting_for: str = ""


class Close(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """End the run, if its last turn knew of all ``mail`` (None: whatever came).

    ``outcome`` is the closing event as history has it. A run that is ``awaited``
    by somebody in its owner's process needs no hint; who waits elsewhere as well
    will poll.
    """

    state: RunState
    outcome: Closing | ClosedFromOutside
    mail: int | None = None
    awaited: bool = False


class Hold(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Stop the run without losing anything: ``reason`` is a CamelCase word, ``message`` the whole story."""

    reason: str
    message: str


class Release(msgspec.Struct, frozen=True, gc=False):
    """Give the run back to whoever is free."""


Ending = Park | Close | Hold | Release


class NewTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An activity for another worker: it goes through the task table.

    ``options`` is JSON that the performing worker reads (timeouts and retry policy); stores only carry it.
    ``attempt`` is the number of the first attempt, ``delay`` the seconds until it may start.
    """

    seq: int
    queue: str
    name: str
    input: bytes
    options: bytes
    attempt: int = 1
    delay: float = 0.0


class Commit(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What one run asks one flush to do, all or nothing.

    ``turn`` is the encoded-to-be row; None when only the run's row changes.
    ``consumed`` is the number of the last inbox message that the turn applied.
    ``claim`` says which claim of the run an ``ending`` other than a close gives
    up, by `ClaimedRun.claims`: it may arrive late, or a second time, when the
    same worker has the run anew. None: whichever claim there is.
    """

    run_id: RunId
    turn: Turn | None = None
    consumed: int | None = None
    tasks: tuple[NewTask, ...] = ()
    dropped_tasks: tuple[int, ...] = ()
    visible: Visible | None = None
    ending: Ending | None = None
    claim: int | None = None


class Committed(msgspec.Struct, frozen=True, gc=False):
    """The answer to a `Commit`.

    ``recorded``: the turn is durable (now, or by an earlier try of the same
    bytes). ``ended``: the ending took place; a park is refused when mail came.
    ``recorded=False`` means that the run belongs to somebody else now, unless it
    is ``unread``: then mail came that its last turn did not know of, and nothing
    of the commit was carried out.
    """

    recorded: bool
    ended: bool
    unread: bool = False


class ClaimedTask(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """An activity attempt to carry out for a run that another process may own."""

    run_id: RunId
    instance: str
    seq: int
    queue: str
    name: str
    input: bytes
    options: bytes
    attempt: int
    last_failure: Failure | None
    details: bytes | None = None


class Heartbeat(msgspec.Struct, frozen=True, gc=False):
    """What the attempt under way of an activity says: the JSON that its next attempt may go on from."""

    run_id: RunId
    seq: int
    details: bytes


class TaskDone(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The end of a task: the event goes to the run's inbox, the task row goes away."""

    run_id: RunId
    seq: int
    event: Incoming


class TaskRetry(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A failed attempt of a task; the next one has the number ``attempt`` and starts ``delay`` seconds from now."""

    run_id: RunId
    seq: int
    attempt: int
    failure: Failure
    delay: float


TaskResult = TaskDone | TaskRetry


class Ended(msgspec.Struct, frozen=True, gc=False):
    """A run that has closed: its instance, and its last event or why this release cannot read it."""

    id: str
    outcome: Closing | ClosedFromOutside | Unreadable


class RunSummary(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A run as people, the CLI and the operator see it."""

    id: str
    run_id: RunId
    namespace: str
    workflow: str
    queue: str
    state: RunState
    created_at: datetime
    started_at: datetime | None
    closed_at: datetime | None
    wake_at: datetime | None
    worker: str | None
    priority: int
    key: str | None
    waiting_for: str
    status_text: str
    progress: str
    hold_reason: str
    hold_message: str
    cancel_requested: bool
    outcome: Closing | ClosedFromOutside | Unreadable | None
    suspended: bool = False
    build: str | None = None
    result_size: int | None = None
    """Bytes of a result of which ``outcome`` has only the beginning, and no longer JSON; None: it has all there is."""

    @property
    def phase(self) -> str:
        """Return one of the words of `PHASES`."""
        return phase(self.state, started=self.started_at is not None, suspended=self.suspended)


_PHASES = {
    RunState.HELD: "Stalled",
    RunState.COMPLETED: "Succeeded",
    RunState.FAILED: "Failed",
    RunState.CANCELLED: "Cancelled",
    RunState.TERMINATED: "Terminated",
    RunState.TIMED_OUT: "TimedOut",
}
PHASES = ("Pending", "Running", "Suspended", *_PHASES.values())


def phase(state: RunState, *, started: bool, suspended: bool = False) -> str:
    """Return the phase that people see for a stored state."""
    return _PHASES.get(state) or ("Suspended" if suspended else "Running" if started else "Pending")


def states_of(phases: Iterable[str]) -> frozenset[RunState]:
    """Return the stored states behind phases; raise `RequestError` for a word that is no phase."""
    found: set[RunState] = set()
    for name in phases:
        states = {
            state
            for state in RunState
            for shown in (
                phase(state, started=False),
                phase(state, started=True),
                phase(state, started=True, suspended=True),
            )
            if shown == name
        }
        if not states:
            message = f"{name!r} is no phase; the phases are {', '.join(PHASES)}"
            raise RequestError(message)
        found |= states
    return frozenset(found)


class HistoryEvent(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One event of a history as readers see it; ``id`` counts from 1."""

    id: int
    time: datetime
    type: str
    turn: int
    worker: str
    event: object
