"""What every store writes and reads in the same way: first events, outcomes, inbox messages, readable histories.

What lives here: pure functions between the model and bytes that are not turns (those are `model.codec`'s). What must
not: I/O. The stores call it.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, TypeVar

import msgspec

from perdure.errors import PayloadError, RequestError
from perdure.model import codec
from perdure.model.codec import JSON
from perdure.model.events import (
    ClosedFromOutside,
    Closing,
    Incoming,
    Microseconds,
    Turn,
    TurnHeader,
    Unreadable,
    WorkflowExecutionCompleted,
    WorkflowExecutionStarted,
)
from perdure.model.policies import seconds
from perdure.model.runs import ClaimedRun, Commit, HistoryEvent, Hold, NewRun, Park, RunId, RunInfo, RunSummary

T = TypeVar("T")
Outcome: TypeAlias = Closing | ClosedFromOutside
Message: TypeAlias = Incoming | ClosedFromOutside

LARGE = 32_768
"""Payloads above this many bytes are kept out of the history row."""
LONG, BEGINNING = 16_384, 2_048
"""Outcomes of completed runs with more bytes than the first are cut to the second for who reads many runs at a time.
The view ``perdure.brief`` has the same numbers."""

PRIORITIES = 2**31
"""Priorities are below it, and not below its negative: a number of 32 bits."""

_COMPLETED = JSON + b'["wc",'
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_encoder = msgspec.json.Encoder()
_raw_decoder = msgspec.json.Decoder(msgspec.Raw)
_outcome_decoder: msgspec.json.Decoder[Outcome] = msgspec.json.Decoder(Outcome)
_message_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


def as_datetime(time: Microseconds) -> datetime:
    """Return microseconds since 1970 as an aware `datetime`, exactly."""
    return _EPOCH + timedelta(microseconds=time)


def started_event(new: NewRun) -> WorkflowExecutionStarted:
    """Return the event of turn 0; raise `RequestError` when something about the run cannot be stored."""
    check_texts(new.id, new.namespace, new.workflow, new.queue, new.key or "", new.build or "", new.seed)
    priority: object = new.priority
    if isinstance(priority, bool) or not isinstance(priority, int) or not -PRIORITIES <= priority < PRIORITIES:
        message = (
            f"the priority of {new.id} must be a whole number from {-PRIORITIES:,} to {PRIORITIES - 1:,}, "
            f"not {priority!r:.200}"
        )
        raise RequestError(message)
    if new.timeout is not None:
        seconds(new.timeout, f"the timeout of {new.id}")
    try:
        _raw_decoder.decode(new.input)
    except (msgspec.MsgspecError, TypeError) as error:
        message = f"the input of {new.id} is not JSON: {error}"
        raise PayloadError(message) from error
    return WorkflowExecutionStarted(new.workflow, msgspec.Raw(new.input), new.seed)


def newborn(
    new: NewRun, started: WorkflowExecutionStarted, run_id: RunId, created_at: Microseconds, turn: Turn | None
) -> ClaimedRun:
    """Return a run that was owned from its start, as a claim would return it; ``turn`` is its turn 0, if it has run."""
    timeout = None if new.timeout is None else created_at + round(new.timeout * 1_000_000)
    return ClaimedRun(
        info=RunInfo(id=new.id, run_id=run_id, namespace=new.namespace, workflow=new.workflow, queue=new.queue),
        history=(turn or Turn(0, TurnHeader(time=created_at), (started,)),),
        inbox=(),
        tasks=(),
        mail=0,
        created_at=created_at,
        deadline=timeout,
    )


def encode_outcome(event: Outcome) -> bytes:
    """Return the bytes of a closing event."""
    return JSON + _encoder.encode(codec.trimmed((event,))[0])


def decode_outcome(data: bytes | memoryview) -> Outcome:
    """Return the closing event; raise `PayloadError` when this release cannot read it."""
    return _decode(_outcome_decoder, data, "its outcome")


def decode_inbox(data: bytes | memoryview) -> Message:
    """Return the event of an inbox row, also of the last one that tells an owner that its run was closed."""
    return _decode(_message_decoder, data, "a message in its inbox")


def _decode(decoder: msgspec.json.Decoder[T], data: bytes | memoryview, what: str) -> T:
    view = memoryview(data)
    try:
        if view[:1] == JSON:
            return decoder.decode(view[1:])
    except msgspec.MsgspecError as error:
        raise codec.newer(what, error) from error
    raise codec.unknown_codec(what, view)


def outcome_for_readers(data: bytes | memoryview) -> Outcome | Unreadable:
    """Return the closing event, or why this release cannot read it."""
    try:
        return decode_outcome(data)
    except PayloadError as error:
        return Unreadable(str(error))


def with_beginning(summary: RunSummary, beginning: bytes, size: int) -> RunSummary:
    """Return the summary of a completed run with the beginning of its outcome, which has ``size`` bytes as a whole."""
    if not beginning.startswith(_COMPLETED):
        return msgspec.structs.replace(summary, outcome=outcome_for_readers(beginning))  # a newer release wrote it
    frame = len(_COMPLETED) + 1
    event = WorkflowExecutionCompleted(msgspec.Raw(beginning[len(_COMPLETED) :]))
    return msgspec.structs.replace(summary, outcome=event, result_size=size - frame)


def readable(rows: Iterable[tuple[int, bytes, Sequence[bytes] | None]]) -> list[HistoryEvent]:
    """Return the events of a whole history as readers see them, from its rows and the payloads outside of each."""
    events: list[HistoryEvent] = []
    worker, time = "", _EPOCH
    for seq, data, outside in rows:
        header, found = codec.decode_for_readers(seq, data)
        if header is not None:
            worker, time = worker if header.worker is None else header.worker, as_datetime(header.time)
        for event in codec.joined(found, outside) if outside else found:
            events.append(
                HistoryEvent(
                    id=len(events) + 1,
                    time=time,
                    type=type(event).__name__,
                    turn=seq,
                    worker=worker,
                    event=event,
                )
            )
    return events


def turn_size(turn: Turn) -> int:
    """Return the bytes of the payloads of a turn."""
    return sum(map(codec.payload_size, turn.events))


def check_texts(*values: str) -> None:
    """Raise `PayloadError` when a value cannot be stored as text."""
    try:
        whole = "".join(values)
    except TypeError:
        found: tuple[object, ...] = values
        wrong = next(value for value in found if not isinstance(value, str))
        message = f"{wrong!r:.200} is no text; pass a str"
        raise PayloadError(message) from None
    if whole.isascii() and "\0" not in whole:
        return
    for value in values:
        if "\0" in value:
            message = f"a NUL character cannot be stored in {value!r:.200}; remove it"
            raise PayloadError(message)
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise codec.half_a_character(value) from error


def texts(commit: Commit) -> list[str]:
    """Return every text of a commit that is stored as text, which neither NUL nor a lone surrogate can be."""
    found = [text for task in commit.tasks for text in (task.queue, task.name)]
    if commit.visible is not None:
        found += (commit.visible.text, commit.visible.progress)
    match commit.ending:
        case Park(waiting_for=text):
            found.append(text)
        case Hold(reason=reason, message=message):
            found += (reason, message)
    return found
