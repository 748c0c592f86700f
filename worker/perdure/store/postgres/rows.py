"""Rows of the queries as the types of the model.

What lives here: pure conversion. What must not: statements. The modules beside it call it.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from perdure.errors import PayloadError
from perdure.model import codec
from perdure.model.events import Failure
from perdure.model.runs import (
    ClaimedRun,
    ClaimedTask,
    InboxItem,
    RunId,
    RunInfo,
    RunState,
    RunSummary,
)
from perdure.store import records
from perdure.store.postgres.connection import Row

MOST_OF_A_RUN = 500_000_000
"""Bytes of a run that a worker still loads."""
ENOUGH_FOR_A_CLAIM = 16_000_000
"""Bytes of runs after which a claim takes no further ones. Decoded and replayed they are several times as large."""
ENOUGH_FOR_A_LOOK = 16_000_000
"""Bytes of messages after which a look into the inbox brings no further ones."""

_OUTCOME = 19
"""The place of the outcome in ``summary``."""
_failure_encoder = msgspec.json.Encoder()
_failure_decoder = msgspec.json.Decoder(Failure)


class RunTooLargeError(PayloadError):
    """A run has more than a worker can load."""


def encode_failure(failure: Failure) -> bytes:
    """Return the bytes of the last failure of a task."""
    return codec.JSON + _failure_encoder.encode(failure)


def claimed_run(row: Row, namespace: str) -> ClaimedRun:
    """Return a row of ``claim``; raise `PayloadError` when this release cannot read its history or inbox."""
    run_id = RunId(row[0])
    if row[16] > MOST_OF_A_RUN:
        raise RunTooLargeError(
            f"its history, payloads and messages have {int(row[16]):,} bytes, more than the {MOST_OF_A_RUN:,} that a "
            "worker takes into memory. Give it up (perdure terminate), and pass references instead of large values"
        )
    turns = [codec.decode_turn(seq, events) for seq, events in zip(row[9] or (), row[10] or (), strict=True)]
    outside: dict[int, list[bytes]] = {}
    for seq, data in zip(row[11] or (), row[12] or (), strict=True):
        outside.setdefault(seq, []).append(data)
    if outside:
        turns = [codec.join_payloads(turn, outside[turn.seq]) if turn.seq in outside else turn for turn in turns]
    inbox = [
        InboxItem(run_id, number, records.decode_inbox(body))
        for number, body in zip(row[13] or (), row[14] or (), strict=True)
    ]
    return ClaimedRun(
        info=RunInfo(id=row[1], run_id=run_id, namespace=namespace, workflow=row[2], queue=row[3]),
        history=tuple(turns),
        inbox=tuple(inbox),
        tasks=tuple(row[15] or ()),
        mail=row[5],
        created_at=row[6],
        deadline=row[7],
        suspect=row[17],
        details=dict(zip(row[18] or (), row[19] or (), strict=True)),
        left_others=row[20],
        claims=row[21],
    )


def claimed_task(row: Row) -> ClaimedTask:
    """Return a row of ``claim_tasks``."""
    return ClaimedTask(
        run_id=RunId(row[0]),
        instance=row[1],
        seq=row[2],
        queue=row[3],
        name=row[4],
        input=row[5],
        options=row[6],
        attempt=row[7],
        last_failure=_failure(row[8]) if row[8] else None,
        details=row[9],
    )


def _failure(data: bytes) -> Failure | None:
    try:
        return _failure_decoder.decode(data[1:])
    except msgspec.MsgspecError:
        return None  # a newer release wrote it; the attempt does not depend on it


def brief(row: Sequence[Any]) -> RunSummary:
    """Return a row of the view ``brief``: the size of an outcome that was cut, then a row of ``summary``."""
    size, *rest = row
    if size is None:
        return summary(rest)
    beginning, rest[_OUTCOME] = rest[_OUTCOME], None
    return records.with_beginning(summary(rest), beginning, size)


def summary(row: Sequence[Any]) -> RunSummary:
    """Return a row of the view ``summary``; columns that a newer schema added are left aside."""
    return RunSummary(
        run_id=RunId(row[0]),
        id=row[1],
        namespace=row[2],
        workflow=row[3],
        queue=row[4],
        state=RunState(row[5]),
        created_at=row[6],
        started_at=row[7],
        closed_at=row[8],
        wake_at=row[9],
        worker=row[10],
        priority=row[11],
        key=row[12],
        waiting_for=row[13],
        status_text=row[14],
        progress=row[15],
        hold_reason=row[16],
        hold_message=row[17],
        cancel_requested=row[18],
        outcome=None if row[_OUTCOME] is None else records.outcome_for_readers(row[_OUTCOME]),
        suspended=row[20],
        build=row[21],
    )
