"""Group commit: what many runs ask for, in one statement.

What lives here: cutting commits into batches, packing them into arrays, and finding the one that the database
refuses. What must not: meaning; that is in the statement ``flush``.
"""

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter

import msgspec
import psycopg
from psycopg import errors

from perdure.errors import PayloadError
from perdure.model import codec
from perdure.model.hints import NOTHING, Hint
from perdure.model.runs import Close, Commit, Committed, Ending, Hold, Park, RunId, RunState
from perdure.model.workers import Lease
from perdure.store import records
from perdure.store.base import MOST_OF_A_TURN, CommitRefusedError, ServerChangedError, turn_too_large
from perdure.store.postgres.arrays import Bytea, byteas, column, int4, int4s, int8, int8s, texts
from perdure.store.postgres.connection import Lane, Parameters, Row
from perdure.store.postgres.hints import Hints
from perdure.store.postgres.leasing import fence, lost
from perdure.store.postgres.notices import Notice, sent

MOST_COMMITS = 500
MOST_BYTES = 1_000_000
"""The largest batch of one statement; a single commit may be larger."""

_RECORDED = Committed(recorded=True, ended=False)
_CLOSED = Committed(recorded=True, ended=True)
_UNREAD = Committed(recorded=False, ended=False, unread=True)
_RUN_ID = attrgetter("run_id")
_PLAIN = attrgetter("plain")
_SIZE = attrgetter("size")
_REFUSALS = (psycopg.DataError, psycopg.IntegrityError, errors.ProgramLimitExceeded, PayloadError, struct.error)


class _Item(msgspec.Struct):
    """A commit with its place in the call and its bytes."""

    place: int
    run_id: RunId
    commit: Commit
    turn: bytes | None
    outside: Sequence[bytes]
    outcome: bytes | None
    size: int
    plain: bool
    """Whether it is a turn, and perhaps the last one, and nothing else."""


@dataclass(slots=True)
class Flush:
    """One call of ``flush``: ``answers`` and ``refused`` fill up batch by batch, ``hint`` says what follows."""

    lane: Lane
    hints: Hints
    lease: Lease
    answers: list[Committed | None]
    refused: dict[int, PayloadError] = field(default_factory=dict)
    hint: Hint = field(default_factory=Hint)

    def results(self) -> list[Committed]:
        """Return the answers; raise `CommitRefusedError` when some commits cannot be stored."""
        if self.refused:
            raise CommitRefusedError(self.refused, self.answers)
        return [answer for answer in self.answers if answer is not None]

    async def write(self, items: Sequence[_Item]) -> None:
        """Write one batch; halve it when the database refuses it, until the bad commit is alone."""
        try:
            if not (all(map(_PLAIN, items)) and await self._write_turns(items)):
                await self._write(items)
        except errors.UniqueViolation:
            await self.write(items)  # somebody terminated a run at this very moment; the next look sees it
        except _REFUSALS as error:
            if len(items) > 1:
                middle = len(items) // 2
                await self.write(items[:middle])
                await self.write(items[middle:])
            else:
                self.refused[items[0].place] = _refusal(items[0].commit, error)

    async def _write_turns(self, items: Sequence[_Item]) -> bool:
        """Write turns that are nothing but turns; return False when the long way has to find out about some."""
        closed = _closed(items)
        name, turns = _turns(items)
        notice: Notice | None = None

        def repeated() -> Parameters:
            nonlocal notice
            notice = None  # it may be what the server does not take
            return self._fenced({**turns, **sent(None)})

        try:
            with self.hints.riding(closed) as notice:
                found = await self._fetch(name, {**turns, **sent(notice)}, repeated)
        except errors.UniqueViolation:
            return False
        recorded, changed = found[:2]
        if recorded < len(items):
            return False
        for item in items:
            self.answers[item.place] = _RECORDED if item.outcome is None else _CLOSED
        self.hint |= Hint(changed=changed) if notice is not None else closed | Hint(changed=changed)
        return True

    async def _write(self, items: Sequence[_Item]) -> None:
        found = await self._fetch("flush", {**_arrays(items), **_task_arrays(items)})
        left_out, ended, released, changed = found[:4]
        places = set(ended or ())
        for place, item in enumerate(items, start=1):
            self.answers[item.place] = Committed(recorded=True, ended=place in places)
        if left_out:
            await self._explain(items, left_out)
        tasks = [task.queue for item in items for task in item.commit.tasks]
        self.hint |= _closed(items) | Hint(
            queues=frozenset(released or ()),
            tasks=frozenset(tasks),
            changed=changed,
            count=len(tasks) + (len(items) if released else 0),
        )

    def _fenced(self, parameters: Parameters) -> Parameters:
        return {**fence(self.lease), "server": int8(self.lease.server), **parameters}

    async def _fetch(self, name: str, parameters: Parameters, on_repeat: Callable[[], Parameters] | None = None) -> Row:
        rows = await self.lane.fetch(name, self._fenced(parameters), on_repeat=on_repeat)
        if not rows:
            raise lost(self.lease)
        if rows[0][-1] != self.lease.server:
            message = "another server answers, or the same after a restart: make sure that it lacks nothing"
            raise ServerChangedError(message)
        return rows[0]

    async def _explain(self, items: Sequence[_Item], places: Sequence[int]) -> None:
        """Find out why commits were left out: an earlier try wrote them, others own the runs, or they have new mail."""
        for place in places:
            self.answers[items[place - 1].place] = Committed(recorded=False, ended=False)
        parameters = {**fence(self.lease), **_arrays(items), **_task_arrays(items), "places": int8s(places)}
        for place, ours, owned, missing in await self.lane.fetch("unrecorded", parameters):
            item = items[place - 1]
            if ours:
                ended = item.commit.ending is not None and not owned
                self.answers[item.place] = Committed(recorded=True, ended=ended)
            elif owned and missing and isinstance(item.commit.ending, Close):
                self.answers[item.place] = _UNREAD


async def flush(lane: Lane, hints: Hints, lease: Lease, commits: Sequence[Commit]) -> Flush:
    """Carry out the commits that the database takes."""
    flushed = Flush(lane, hints, lease, [None] * len(commits))
    try:
        items = [_item(place, commit) for place, commit in enumerate(commits)]
    except PayloadError:
        items = list(_readable(commits, flushed.refused))
    items.sort(key=_RUN_ID)  # everybody locks runs in this order
    for item in items:
        if item.size > MOST_OF_A_TURN:
            flushed.refused[item.place] = turn_too_large(item.run_id, item.size)
    if flushed.refused:
        items = [item for item in items if item.place not in flushed.refused]
    for batch in _batches(items):
        await flushed.write(batch)
    return flushed


def _readable(commits: Sequence[Commit], refused: dict[int, PayloadError]) -> Iterator[_Item]:
    for place, commit in enumerate(commits):
        try:
            yield _item(place, commit)
        except PayloadError as error:
            refused[place] = error


def _closed(items: Sequence[_Item]) -> Hint:
    closed = [item.run_id for item in items if isinstance(ending := item.commit.ending, Close) and not ending.awaited]
    return Hint(closed=frozenset(closed)) if closed else NOTHING


def _refusal(commit: Commit, error: BaseException) -> PayloadError:
    if isinstance(error, PayloadError):
        return error
    words = error.diag.message_primary if isinstance(error, psycopg.Error) else None
    return PayloadError(f"the database refuses what run {commit.run_id} recorded: {words or error}")


def _item(place: int, commit: Commit) -> _Item:
    turn: bytes | None = None
    outside: Sequence[bytes] = ()
    if commit.turn is not None:
        turn, outside = codec.encode_apart(commit.turn, records.LARGE)
    ending = commit.ending
    outcome = records.encode_outcome(ending.outcome) if type(ending) is Close else None
    size = len(turn or b"") + len(outcome or b"")
    if (
        turn is not None
        and not outside
        and (ending is None or outcome is not None)
        and commit.consumed is None
        and commit.visible is None
        and not commit.tasks
        and not commit.dropped_tasks
    ):
        return _Item(place, commit.run_id, commit, turn, outside, outcome, size, plain=True)
    size += sum(map(len, outside)) + sum(len(task.input) + len(task.options) for task in commit.tasks)
    return _Item(place, commit.run_id, commit, turn, outside, outcome, size, plain=False)


def _batches(items: Sequence[_Item]) -> Iterator[Sequence[_Item]]:
    """Cut by number and bytes, and before a second commit of a run: one statement changes a row once."""
    small = len(items) <= MOST_COMMITS and sum(map(_SIZE, items)) <= MOST_BYTES
    if small and len(set(map(_RUN_ID, items))) == len(items):
        if items:
            yield items
        return
    batch: list[_Item] = []
    size = 0
    runs: set[RunId] = set()
    for item in items:
        run_id = item.run_id
        if batch and (len(batch) == MOST_COMMITS or size + item.size > MOST_BYTES or run_id in runs):
            yield batch
            batch, size, runs = [], 0, set()
        batch.append(item)
        size += item.size
        runs.add(run_id)
    if batch:
        yield batch


def _turns(items: Sequence[_Item]) -> tuple[str, dict[str, object]]:
    """Return the statement for turns that are nothing but turns, and what it needs to know of them."""
    if len(items) > 1:
        return "flush_turns", _turn_arrays(items)
    (item,) = items
    assert item.commit.turn is not None
    assert item.turn is not None
    one: dict[str, object] = {
        "run": int8(item.run_id),
        "seq": int4(item.commit.turn.seq),
        "turn": Bytea(item.turn),
    }
    if item.outcome is None:
        return "turn_one", one
    assert item.commit.ending is not None
    ending = item.commit.ending
    return "close_one", {
        **one,
        "ending": int4(_state(ending)),
        "mail": int4(_mail(ending)),
        "outcome": Bytea(item.outcome),
    }


def _turn_arrays(items: Sequence[_Item]) -> dict[str, object]:
    """Return one array a column. A column without a value is an empty array: ``unnest`` fills it up with NULLs."""
    return {
        "runs": int8s([item.run_id for item in items]),
        "seqs": int4s([None if (turn := item.commit.turn) is None else turn.seq for item in items]),
        "turns": byteas([item.turn for item in items]),
        "endings": int4s(column([None if (end := item.commit.ending) is None else _state(end) for item in items])),
        "mails": int4s(column([None if (end := item.commit.ending) is None else _mail(end) for item in items])),
        "outcomes": byteas(column([item.outcome for item in items])),
    }


def _arrays(items: Sequence[_Item]) -> dict[str, object]:
    endings = [item.commit.ending for item in items]
    visible = [item.commit.visible for item in items]
    parameters: dict[str, object] = {
        **_turn_arrays(items),
        "consumed": int4s(column([item.commit.consumed for item in items])),
        "wake_ats": int8s(column([ending.wake_at if isinstance(ending, Park) else None for ending in endings])),
        "reasons": texts(column([_reason(ending) for ending in endings])),
        "messages": texts(column([ending.message if isinstance(ending, Hold) else None for ending in endings])),
        "statuses": texts(column([None if status is None else status.text for status in visible])),
        "progresses": texts(column([None if status is None else status.progress for status in visible])),
        "claims": int4s(column([item.commit.claim for item in items])),
    }
    return parameters


def _task_arrays(items: Sequence[_Item]) -> dict[str, object]:
    outside = [
        (item.run_id, item.commit.turn.seq, ordinal, data)
        for item in items
        if item.commit.turn is not None
        for ordinal, data in enumerate(item.outside, start=1)
    ]
    tasks = [
        (item.run_id, task)
        for item in items
        for task in item.commit.tasks
        # One statement cannot remove what it inserts: a task that is queued and dropped at once was never there.
        if task.seq not in item.commit.dropped_tasks
    ]
    dropped = [(item.run_id, seq) for item in items for seq in item.commit.dropped_tasks]
    return {
        "payload_runs": int8s([row[0] for row in outside]),
        "payload_seqs": int4s([row[1] for row in outside]),
        "payload_ordinals": int4s([row[2] for row in outside]),
        "payloads": byteas([row[3] for row in outside]),
        "task_runs": int8s([run_id for run_id, _ in tasks]),
        "task_seqs": int4s([task.seq for _, task in tasks]),
        "task_queues": texts([task.queue for _, task in tasks]),
        "task_names": texts([task.name for _, task in tasks]),
        "task_inputs": byteas([bytes(task.input) for _, task in tasks]),
        "task_options": byteas([bytes(task.options) for _, task in tasks]),
        "task_attempts": int4s([task.attempt for _, task in tasks]),
        "task_delays": int8s([round(task.delay * 1_000_000) for _, task in tasks]),
        "dropped_runs": int8s([run_id for run_id, _ in dropped]),
        "dropped_seqs": int4s([seq for _, seq in dropped]),
    }


def _state(ending: Ending) -> int:
    """Return the state into which the ending brings the run."""
    match ending:
        case Park():
            return RunState.PARKED
        case Hold():
            return RunState.HELD
        case Close():
            return ending.state
    return RunState.READY


def _mail(ending: Ending) -> int | None:
    """Return how much mail the run may have for the ending to take place; None: it does not matter."""
    return ending.mail if isinstance(ending, (Park, Close)) else None


def _reason(ending: Ending | None) -> str | None:
    match ending:
        case Park():
            return ending.waiting_for
        case Hold():
            return ending.reason
    return None
