"""Turns and messages as bytes.

What lives here: the one place that knows how history is written. What must not:
storage, or the types of the authors' values (see `payload`). The stores call it.

A row starts with one byte that names the codec; `JSON` is followed by a JSON
array in UTF-8, so that ``psql`` and ``jq`` can read it: the time of the turn, the
array of its events, then what else its header says, if it says more::

    [1700000000000000, [["ac", 1, 42], ["as", 2, "pack", ["tea"]]]]

Rows are the largest part of what the database writes, hence the short form.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from perdure.errors import PayloadError
from perdure.model.events import (
    PAYLOAD_FIELDS,
    ActivityCompleted,
    ActivityScheduled,
    Event,
    Incoming,
    Microseconds,
    Turn,
    TurnHeader,
    Unreadable,
    WorkflowExecutionCompleted,
    WorkflowExecutionStarted,
)

E = TypeVar("E", bound=Event | Unreadable)

JSON = b"\x01"
_JSON = JSON[0]


class _Row(msgspec.Struct, frozen=True, gc=False, array_like=True):
    time: Microseconds
    events: tuple[Event, ...]
    build: str | None = None
    python: str | None = None
    flags: int | None = None
    worker: str | None = None


class _Outline(msgspec.Struct, frozen=True, gc=False, array_like=True):
    time: Microseconds
    events: list[msgspec.Raw]
    build: str | None = None
    python: str | None = None
    flags: int | None = None
    worker: str | None = None


_encoder = msgspec.json.Encoder()
_outline_decoder = msgspec.json.Decoder(_Outline)
_event_decoder: msgspec.json.Decoder[Event] = msgspec.json.Decoder(Event)
_row_decoder = msgspec.json.Decoder(_Row)


def encode_turn(header: TurnHeader, events: Sequence[Event]) -> bytes:
    """Return the bytes of one history row; raise `PayloadError` for half a character in a name."""
    rest = (header.build, header.python, header.flags, header.worker)
    try:
        if rest == _NOTHING_NEW:
            return JSON + _encoder.encode((header.time, trimmed(events)))
        return JSON + _encoder.encode((header.time, trimmed(events), *rest))
    except UnicodeEncodeError as error:
        raise half_a_character(error.object) from error


_NOTHING_NEW = (None, None, None, None)


def trimmed(events: Sequence[Event]) -> list[object]:
    """Return the most frequent events without their last fields, when those have their defaults."""
    trimmed: list[object] = []
    for event in events:
        if type(event) is ActivityCompleted and event.attempt == 1 and not event.external:
            trimmed.append(("ac", event.seq, event.result))
        elif type(event) is ActivityScheduled and event.queue is None and not event.external:
            trimmed.append(("as", event.seq, event.name, event.input))
        elif type(event) is WorkflowExecutionStarted and not event.external:
            trimmed.append(("ws", event.workflow, event.input, event.seed))
        elif type(event) is WorkflowExecutionCompleted and not event.external:
            trimmed.append(("wc", event.result))
        else:
            trimmed.append(event)
    return trimmed


def encode_apart(turn: Turn, threshold: int) -> tuple[bytes, Sequence[bytes]]:
    """Return the bytes of one history row, and the payloads above ``threshold`` bytes, which it only refers to."""
    row = encode_turn(turn.header, turn.events)
    if len(row) <= threshold:
        return row, ()
    events, outside = split_payloads(turn.events, threshold)
    return (encode_turn(turn.header, events), outside) if outside else (row, ())


def decode_turn(seq: int, data: bytes | memoryview) -> Turn:
    """Return the turn in a history row; raise `PayloadError` for a codec or an event this release does not know."""
    view = memoryview(data)
    if not data or data[0] != _JSON:
        raise unknown_codec(f"turn {seq} of its history", view)
    try:
        row = _row_decoder.decode(view[1:])
    except msgspec.MsgspecError as error:
        raise newer(f"turn {seq} of its history", error) from error
    return Turn(seq, _header(row), row.events)


def decode_for_readers(seq: int, data: bytes | memoryview) -> tuple[TurnHeader | None, list[Event | Unreadable]]:
    """Return as much of a history row as this release can read; the header is None when it cannot be read."""
    try:
        turn = decode_turn(seq, data)
    except PayloadError as error:
        whole = Unreadable(str(error))
    else:
        return turn.header, list(turn.events)
    view = memoryview(data)
    try:
        outline = _outline_decoder.decode(view[1:] if view[:1] == JSON else b"")
    except msgspec.MsgspecError:
        return None, [whole]
    return _header(outline), [_event_or_reason(raw) for raw in outline.events]


def _header(row: _Row | _Outline) -> TurnHeader:
    return TurnHeader(time=row.time, build=row.build, python=row.python, flags=row.flags, worker=row.worker)


def _event_or_reason(raw: msgspec.Raw) -> Event | Unreadable:
    try:
        return _event_decoder.decode(raw)
    except msgspec.MsgspecError as error:
        return Unreadable(str(newer(f"the event {bytes(raw)[:100].decode('utf-8', 'replace')}", error)))


def unknown_codec(what: str, view: memoryview) -> PayloadError:
    """Return the error for bytes whose first one names a codec that this release does not know."""
    name = view[0] if view else "missing"
    return PayloadError(
        f"{what} is written with codec {name}, which this release of Perdure does not know: a newer one wrote it. "
        "Upgrade this worker; a worker of the newer release takes the run by itself"
    )


def newer(what: str, error: msgspec.MsgspecError) -> PayloadError:
    """Return the error for JSON that is not what this release writes."""
    return PayloadError(
        f"{what} cannot be read by this release of Perdure ({error}): a newer one wrote it, or it is damaged. "
        "Upgrade this worker; a worker of the newer release takes the run by itself"
    )


def encode_message(event: Incoming) -> bytes:
    """Return the bytes of one inbox message; raise `PayloadError` for half a character in a name or a reason."""
    try:
        return JSON + _encoder.encode(event)
    except UnicodeEncodeError as error:
        raise half_a_character(error.object) from error


def half_a_character(text: str) -> PayloadError:
    """Return the error for a text that is no UTF-8."""
    return PayloadError(f"half a character (a lone surrogate) cannot be stored in {text!r:.200}; remove it")


def payload_size(event: Event) -> int:
    """Return the bytes of the payload of an event."""
    field = PAYLOAD_FIELDS.get(type(event))
    return len(getattr(event, field)) if field else 0


def split_payloads(events: Sequence[Event], threshold: int) -> tuple[Sequence[Event], list[bytes]]:
    """Take payloads above ``threshold`` bytes out of ``events``.

    Returns the events with references and the payloads; the reference of the
    first payload is 1.
    """
    outside: list[bytes] = []
    kept: list[Event] = []
    for event in events:
        field = PAYLOAD_FIELDS.get(type(event))
        raw = getattr(event, field) if field else b""
        if field and len(raw) > threshold:
            outside.append(bytes(raw))
            kept.append(msgspec.structs.replace(event, **{field: msgspec.Raw(b"null"), "external": len(outside)}))
        else:
            kept.append(event)
    return (kept, outside) if outside else (events, outside)


def join_payloads(turn: Turn, outside: Sequence[bytes]) -> Turn:
    """Put payloads back where `split_payloads` took them from; ``outside[0]`` has reference 1."""
    return Turn(turn.seq, turn.header, tuple(joined(turn.events, outside)))


def joined(found: Iterable[E], outside: Sequence[bytes]) -> list[E]:
    """Do what `join_payloads` does, also for events that readers see."""
    events: list[E] = []
    for event in found:
        ordinal = getattr(event, "external", 0)
        if ordinal:
            field = PAYLOAD_FIELDS[type(event)]
            raw = msgspec.Raw(outside[ordinal - 1])
            events.append(msgspec.structs.replace(event, **{field: raw, "external": 0}))
        else:
            events.append(event)
    return events
