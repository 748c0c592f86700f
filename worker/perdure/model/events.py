"""The events of a history, and the turn that groups them.

What lives here: one frozen struct per event, closed unions of them, and the
header of a turn. What must not: behaviour. Everybody reads these.

An event is either *incoming* (something happened outside: the workflow code is
told) or a *command* (the workflow code asked for something). A command is
recorded as the event it becomes, so matching code against history compares like
with like. ``seq`` numbers the activities, timers and side effects of a run from
1, in the order in which the code asked for them.

In a row an event is a JSON array: its tag, then its fields in the order given
here. So fields are added at the end, with a default, and never change places.

Payload fields (`msgspec.Raw`) hold JSON text as the author's values were
encoded. ``external`` is the ordinal of a payload that was too large to stay in
the row; the store puts it back before anybody else sees the event.
"""

from typing import TypeAlias

import msgspec

Microseconds: TypeAlias = int
"""A point in time: microseconds since 1970-01-01 UTC, by the clock of the database."""

NULL = msgspec.Raw(b"null")


class Failure(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """An exception as it is recorded: names and text, never a pickled object."""

    type: str
    message: str
    traceback: str = ""
    cause: "Failure | None" = None


class _Event(msgspec.Struct, frozen=True, gc=False, array_like=True):
    pass


class WorkflowExecutionStarted(_Event, frozen=True, gc=False, tag="ws"):
    """The instance was started. ``input`` is an array (by position) or an object (by name)."""

    workflow: str
    input: msgspec.Raw
    seed: str
    external: int = 0


class WorkflowExecutionCancelRequested(_Event, frozen=True, gc=False, tag="wr"):
    """Somebody asked the run to cancel; asyncio's cancellation reaches its main task. ``id`` is as for a signal."""

    reason: str = ""
    id: str = ""


class SignalReceived(_Event, frozen=True, gc=False, tag="sr"):
    """A signal for the run. ``id`` is unique to the message, so that a repeated delivery counts once."""

    name: str
    payload: msgspec.Raw
    id: str = ""
    external: int = 0


class ActivityCompleted(_Event, frozen=True, gc=False, tag="ac"):
    """The activity ``seq`` returned ``result``, on attempt ``attempt``."""

    seq: int
    result: msgspec.Raw
    attempt: int = 1
    external: int = 0


class ActivityAttemptFailed(_Event, frozen=True, gc=False, tag="ar"):
    """Attempt ``attempt`` failed and another follows at ``retry_at``; workflow code is not told."""

    seq: int
    attempt: int
    failure: Failure
    retry_at: Microseconds


class ActivityFailed(_Event, frozen=True, gc=False, tag="af"):
    """The activity failed for good."""

    seq: int
    failure: Failure
    attempt: int = 1


class TimerFired(_Event, frozen=True, gc=False, tag="tf"):
    """The timer ``seq`` is due."""

    seq: int


class ActivityScheduled(_Event, frozen=True, gc=False, tag="as"):
    """The code called an activity. ``queue`` is set when it is not the queue of the run."""

    seq: int
    name: str
    input: msgspec.Raw
    queue: str | None = None
    external: int = 0


class ActivityCancelRequested(_Event, frozen=True, gc=False, tag="ax"):
    """The code stopped waiting for an activity by cancelling it."""

    seq: int


class TimerStarted(_Event, frozen=True, gc=False, tag="ts"):
    """The code started a timer that is due at ``fire_at``."""

    seq: int
    fire_at: Microseconds


class TimerCancelled(_Event, frozen=True, gc=False, tag="tx"):
    """The code cancelled a timer before it fired."""

    seq: int


class SideEffectRecorded(_Event, frozen=True, gc=False, tag="se"):
    """The value of a side effect, computed once."""

    seq: int
    value: msgspec.Raw
    external: int = 0


class SideEffectFailed(_Event, frozen=True, gc=False, tag="sf"):
    """The function of a side effect raised, or returned what cannot be recorded."""

    seq: int
    failure: Failure


class WorkflowExecutionCompleted(_Event, frozen=True, gc=False, tag="wc"):
    """The workflow function returned."""

    result: msgspec.Raw
    external: int = 0


class WorkflowExecutionFailed(_Event, frozen=True, gc=False, tag="wf"):
    """The workflow function raised."""

    failure: Failure


class WorkflowExecutionCancelled(_Event, frozen=True, gc=False, tag="wx"):
    """The cancellation reached the end of the workflow function."""

    reason: str = ""


class WorkflowExecutionTerminated(_Event, frozen=True, gc=False, tag="wt"):
    """Somebody closed the run from outside; its code was not asked. ``id`` is as for a signal."""

    reason: str = ""
    id: str = ""


class WorkflowExecutionTimedOut(_Event, frozen=True, gc=False, tag="wo"):
    """The run reached its deadline before it closed."""

    reason: str = ""


TIMED_OUT = WorkflowExecutionTimedOut("the run reached its timeout")
"""What is recorded then, whoever finds it."""


Incoming: TypeAlias = (
    WorkflowExecutionStarted
    | WorkflowExecutionCancelRequested
    | SignalReceived
    | ActivityCompleted
    | ActivityAttemptFailed
    | ActivityFailed
    | TimerFired
)
Closing: TypeAlias = WorkflowExecutionCompleted | WorkflowExecutionFailed | WorkflowExecutionCancelled
Command: TypeAlias = (
    ActivityScheduled
    | ActivityCancelRequested
    | TimerStarted
    | TimerCancelled
    | SideEffectRecorded
    | SideEffectFailed
    | Closing
)
ClosedFromOutside: TypeAlias = WorkflowExecutionTerminated | WorkflowExecutionTimedOut
Event: TypeAlias = Incoming | Command | ClosedFromOutside


class Unreadable(msgspec.Struct, frozen=True, gc=False):
    """What readers see in place of an event that only a newer release can read. It is never recorded."""

    reason: str


PAYLOAD_FIELDS: dict[type, str] = {
    WorkflowExecutionStarted: "input",
    SignalReceived: "payload",
    ActivityCompleted: "result",
    ActivityScheduled: "input",
    SideEffectRecorded: "value",
    WorkflowExecutionCompleted: "result",
}
"""The one payload field of each event that has one."""


class TurnHeader(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What was true for a whole turn. ``None`` means: as in the turn before.

    ``time`` is the database's clock in microseconds; within a run it never goes
    back. ``build`` is the build id of the worker's code, ``python`` the
    interpreter's version, ``flags`` the logic flags in force, ``worker`` the
    name of the worker that ran the turn.
    """

    time: Microseconds
    build: str | None = None
    python: str | None = None
    flags: int | None = None
    worker: str | None = None


class Turn(msgspec.Struct, frozen=True, gc=False):
    """One row of history: the inbox items in the order in which they were applied, then the commands.

    Turn 0 is written by whoever starts the instance. It runs workflow code only when the starting process has a
    worker that takes the run at once; then its header has a ``worker``.
    """

    seq: int
    header: TurnHeader
    events: tuple[Event, ...]
