"""A history in words: one line for each event, for people, and one object for programs.

What lives here: what is telling about each event. What must not: the store, and
where lines are printed. ``perdure history`` and the demo use it.
"""

from dataclasses import dataclass
from typing import Any, assert_never, cast

import msgspec

from perdure.cli import output
from perdure.model.events import (
    ActivityAttemptFailed,
    ActivityCancelRequested,
    ActivityCompleted,
    ActivityFailed,
    ActivityScheduled,
    Event,
    Failure,
    Microseconds,
    SideEffectFailed,
    SideEffectRecorded,
    SignalReceived,
    TimerCancelled,
    TimerFired,
    TimerStarted,
    Unreadable,
    WorkflowExecutionCancelled,
    WorkflowExecutionCancelRequested,
    WorkflowExecutionCompleted,
    WorkflowExecutionFailed,
    WorkflowExecutionStarted,
    WorkflowExecutionTerminated,
    WorkflowExecutionTimedOut,
)
from perdure.model.policies import MICROSECONDS
from perdure.model.runs import HistoryEvent

GOOD, BAD, ODD, QUIET = "green", "red", "yellow", "dim"


@dataclass(frozen=True, slots=True)
class Sentence:
    """What is telling about an event, and the colour that says at a glance how it went."""

    details: str
    style: str = ""


class Narrator:
    """Tells the events of one history, in order; it remembers what the numbers of activities stand for."""

    def __init__(self) -> None:
        self._calls: dict[int, str] = {}

    def tell(self, recorded: HistoryEvent) -> Sentence:
        """Return the sentence of the next event."""
        event = cast("Event | Unreadable", recorded.event)
        match event:
            case (
                ActivityScheduled()
                | ActivityCompleted()
                | ActivityAttemptFailed()
                | ActivityFailed()
                | ActivityCancelRequested()
            ):
                return self._activity(event)
            case TimerStarted(seq=seq, fire_at=fire_at):
                length = fire_at / MICROSECONDS - recorded.time.timestamp()
                return Sentence(f"#{seq} for {_length(length)}")
            case TimerFired(seq=seq) | TimerCancelled(seq=seq):
                return Sentence(f"#{seq}", QUIET if isinstance(event, TimerCancelled) else "")
            case SideEffectRecorded(seq=seq, value=value):
                return Sentence(f"#{seq} {output.compact(value)}")
            case SideEffectFailed(seq=seq, failure=failure):
                return Sentence(f"#{seq} failed: {reason(failure)}", BAD)
            case SignalReceived(name=name, payload=payload):
                return Sentence(f"{name} {output.compact(payload)}")
            case Unreadable(reason=why):
                return Sentence(why, ODD)
            case _:
                return _of_the_run(event)

    def _activity(
        self,
        event: ActivityScheduled | ActivityCompleted | ActivityAttemptFailed | ActivityFailed | ActivityCancelRequested,
    ) -> Sentence:
        if isinstance(event, ActivityScheduled):
            self._calls[event.seq] = call = f"#{event.seq} {event.name}"
            where = f" on queue {event.queue}" if event.queue else ""
            return Sentence(f"{call}{arguments(event.input)}{where}")
        call = self._calls.get(event.seq, f"#{event.seq}")
        match event:
            case ActivityCompleted(result=result, attempt=attempt):
                tries = f" (attempt {attempt})" if attempt > 1 else ""
                return Sentence(f"{call} returned {output.compact(result)}{tries}", GOOD)
            case ActivityAttemptFailed(attempt=attempt, failure=failure, retry_at=retry_at):
                again = f"attempt {attempt + 1} at {_clock(retry_at)}"
                return Sentence(f"{call} attempt {attempt} failed: {reason(failure)}; {again}", ODD)
            case ActivityFailed(attempt=attempt, failure=failure):
                return Sentence(f"{call} gave up after attempt {attempt}: {reason(failure)}", BAD)
            case ActivityCancelRequested():
                return Sentence(call, QUIET)
            case _ as never:
                assert_never(never)


def _of_the_run(
    event: WorkflowExecutionStarted
    | WorkflowExecutionCancelRequested
    | WorkflowExecutionCompleted
    | WorkflowExecutionFailed
    | WorkflowExecutionCancelled
    | WorkflowExecutionTerminated
    | WorkflowExecutionTimedOut,
) -> Sentence:
    match event:
        case WorkflowExecutionStarted(workflow=workflow, input=payload):
            return Sentence(f"{workflow}{arguments(payload)}")
        case WorkflowExecutionCompleted(result=result):
            return Sentence(output.compact(result), GOOD)
        case WorkflowExecutionFailed(failure=failure):
            return Sentence(reason(failure), BAD)
        case WorkflowExecutionCancelRequested() | WorkflowExecutionCancelled():
            return Sentence(event.reason, ODD)
        case WorkflowExecutionTerminated() | WorkflowExecutionTimedOut():
            return Sentence(event.reason, BAD)
        case _ as never:
            assert_never(never)


def event_object(recorded: HistoryEvent) -> dict[str, Any]:
    """Return one event for programs: number, time, type, turn, worker, then its own fields."""
    event = recorded.event
    values = {field.name: (getattr(event, field.name), field.default) for field in msgspec.structs.fields(event)}  # type: ignore[arg-type]  # every event is a Struct
    fields = {name: value for name, (value, default) in values.items() if value != default}
    head = {"id": recorded.id, "time": recorded.time, "type": recorded.type, "turn": recorded.turn}
    return {**head, "worker": recorded.worker, **msgspec.json.decode(msgspec.json.encode(fields))}


def arguments(payload: msgspec.Raw, limit: int = 120) -> str:
    """Return recorded input as a call has it: ``("4242", 12)`` or ``(card="4242", total=12)``."""
    try:
        values = msgspec.json.decode(payload)
    except msgspec.DecodeError:
        values = None
    if isinstance(values, dict):
        parts = [f"{name}={output.compact(msgspec.json.encode(value), limit)}" for name, value in values.items()]
    elif isinstance(values, list):
        parts = [output.compact(msgspec.json.encode(value), limit) for value in values]
    else:
        parts = [output.compact(payload, limit)]
    return f"({output.clip(', '.join(parts), limit)})"


def reason(failure: Failure) -> str:
    """Return a failure in one line."""
    return output.clip(f"{failure.type}: {failure.message}" if failure.message else failure.type, 160)


def _clock(time: Microseconds) -> str:
    return output.clock(output.from_microseconds(time))


def _length(seconds: float) -> str:
    return f"{max(0.0, seconds):.1f} s" if seconds < 120 else output.duration(seconds)
