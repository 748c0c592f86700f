"""Taking runs and hearing of their mail.

What lives here: `Claims` and `inbox`. What must not: writing of turns (`flushing`).
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence

import msgspec

from perdure.errors import PayloadError
from perdure.model import codec
from perdure.model.events import Turn
from perdure.model.hints import NOTHING, Hint
from perdure.model.runs import ClaimAnswer, ClaimedRun, ClaimedTask, InboxItem, RunId, WorkerId
from perdure.model.workers import Known, Lease
from perdure.store import records
from perdure.store.postgres import rows
from perdure.store.postgres.arrays import Bytea, boolean, int4, int4s, int8, int8s, text, texts
from perdure.store.postgres.connection import AnswerLostError, Lane, Parameters, Row, look_first
from perdure.store.postgres.leasing import fence, lost

Unreadable = dict[RunId, PayloadError]


class Claims:
    """Claims of one kind, ``claim`` or ``claim_tasks``, that lose nothing when an answer is lost.

    Each claim marks what it takes with a tag of its own. Until its answer has arrived, the next statement asks for
    what has that tag before anything else is taken; so nothing can be owned here without being known here.
    """

    def __init__(self, lane: Lane, query: str) -> None:
        self._lane = lane
        self._query = query
        self._turn = asyncio.Lock()
        self._unsettled: dict[WorkerId, int] = {}

    async def take(self, lease: Lease, limit: int, passed_over: Sequence[str] = ()) -> list[Row]:
        """Return up to ``limit`` rows; raise `LeaseLostError` when the lease is gone."""
        async with self._turn:
            while True:
                taken, settled = await self._ask(lease, limit, passed_over)
                if taken or not settled:
                    return taken

    @contextlib.asynccontextmanager
    async def lend_tag(self, lease: Lease) -> AsyncIterator[int | None]:
        """Lend a tag to another statement that takes something; None while an answer is outstanding.

        When the body raises, the answer counts as lost, and the next claim asks for what has the tag.
        """
        async with self._turn:
            if lease.worker in self._unsettled:
                yield None
                return
            tag = self._unsettled[lease.worker] = secrets.randbits(63)
            yield tag
            del self._unsettled[lease.worker]

    async def _ask(self, lease: Lease, limit: int, passed_over: Sequence[str]) -> tuple[list[Row], bool]:
        """Return what was taken, and whether the question was about an earlier claim only."""
        again = lease.worker in self._unsettled
        tag = self._unsettled.setdefault(lease.worker, secrets.randbits(63))

        def question() -> Parameters:
            taking = 0 if again else limit
            return {
                **fence(lease),
                "claim": int8(tag),
                "again": boolean(again),
                "limit": int4(taking),
                "passed_over": texts(passed_over),
                "most": int8(rows.MOST_OF_A_RUN),
                "enough": int8(rows.ENOUGH_FOR_A_CLAIM),
            }

        def repeated() -> Parameters:
            nonlocal again
            again = True
            return question()

        found = await self._lane.fetch(self._query, question(), on_repeat=repeated)
        if not all(row[-1] for row in found if row[0] is not None):
            # The statement's snapshot was older than the rows that it locked: a younger one shows everything.
            found = await self._lane.fetch(self._query, repeated())
        del self._unsettled[lease.worker]
        if not found:
            raise lost(lease)
        return [row for row in found if row[0] is not None], again


async def owned(lane: Lane, lease: Lease) -> list[RunId]:
    """Return the runs of a worker; raise `LeaseLostError` when the lease is gone."""
    rows = await lane.fetch("owned", fence(lease))
    if not rows:
        raise lost(lease)
    return [RunId(run_id) for (run_id,) in rows if run_id is not None]


async def remembers(lane: Lane, lease: Lease, known: Sequence[Known]) -> Lease | None:
    """Return the lease with the server that answers now, if that has what is known."""
    parameters = {
        "runs": int8s([one.run_id for one in known]),
        "seqs": int4s([one.turn for one in known]),
        "mails": int4s([one.mail for one in known]),
    }
    rows = await lane.fetch("remembers", {**fence(lease), **parameters})
    if not rows:
        raise lost(lease)
    server, all_there = rows[0][:2]
    return msgspec.structs.replace(lease, server=server) if all_there else None


async def absolve(lane: Lane, runs: Sequence[RunId]) -> None:
    """Forget how often the owners of these runs vanished."""
    await lane.fetch("absolve", {"runs": int8s(runs)})


async def claim_runs(claims: Claims, lease: Lease, limit: int) -> tuple[list[ClaimedRun], Unreadable, Hint]:
    """Take runs that are due or ready; those that this release cannot read come apart, with the reason."""
    found = await claims.take(lease, limit)
    claimed: list[ClaimedRun] = []
    unreadable: Unreadable = {}
    for row in sorted(found, key=lambda row: (-row[4], row[0])):
        try:
            claimed.append(rows.claimed_run(row, lease.namespace))
        except PayloadError as error:
            unreadable[RunId(row[0])] = error
    return claimed, unreadable, Hint(changed=any(row[8] for row in found))


async def claim_announced(
    claims: Claims, lane: Lane, lease: Lease, run: ClaimedRun, turn: Turn
) -> tuple[ClaimAnswer, Hint]:
    """Take a run as it was announced, with its turn 1."""
    (first,) = run.history
    events, outside = codec.encode_apart(turn, records.LARGE)
    if outside:
        return ClaimAnswer.UNSURE, NOTHING
    try:
        async with claims.lend_tag(lease) as tag:
            if tag is None:
                return ClaimAnswer.UNSURE, NOTHING
            parameters = {
                **fence(lease),
                "claim": int8(tag),
                "run": int8(run.info.run_id),
                "instance": text(run.info.id),
                "workflow": text(run.info.workflow),
                "queue": text(run.info.queue),
                "deadline": int8(run.deadline),
                "first": Bytea(codec.encode_turn(first.header, first.events)),
                "turn": Bytea(events),
            }
            found = await lane.fetch("claim_announced", parameters, on_repeat=look_first)
    except AnswerLostError:
        return ClaimAnswer.UNSURE, NOTHING
    if not found:
        raise lost(lease)
    ((taken, true, changed),) = found
    otherwise = ClaimAnswer.GONE if true else ClaimAnswer.UNSURE
    return ClaimAnswer.TAKEN if taken else otherwise, Hint(changed=changed)


async def claim_tasks(claims: Claims, lease: Lease, limit: int, passed_over: Sequence[str]) -> list[ClaimedTask]:
    """Take due tasks."""
    return [rows.claimed_task(row) for row in await claims.take(lease, limit, passed_over)]


class Inbox:
    """The mail of workers. Remembers which last messages of closed runs it has handed out, to remove them."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._seen: dict[WorkerId, list[tuple[RunId, int]]] = {}

    async def read(self, lease: Lease) -> tuple[list[InboxItem], Unreadable]:
        """Return the messages that came to this worker; runs with mail that this release cannot read come apart."""
        seen = self._seen.get(lease.worker)
        if seen:
            await forget(self._lane, seen)
            del self._seen[lease.worker]
        found = await self._lane.fetch("inbox", {**fence(lease), "enough": int8(rows.ENOUGH_FOR_A_LOOK)})
        if not found:
            raise lost(lease)
        items: list[InboxItem] = []
        unreadable: Unreadable = {}
        for run_id, number, body, closed in found:
            if run_id is None:
                continue
            if body is None:
                items.append(InboxItem(RunId(run_id), number, None))
                continue
            try:
                if run_id not in unreadable:
                    items.append(InboxItem(RunId(run_id), number, records.decode_inbox(body)))
            except PayloadError as error:
                unreadable[RunId(run_id)] = error
            if closed:
                self._seen.setdefault(lease.worker, []).append((RunId(run_id), number))
        return items, unreadable


async def forget(lane: Lane, seen: Sequence[tuple[RunId, int]]) -> None:
    """Remove messages of closed runs that nobody will read (again)."""
    await lane.fetch(
        "forget",
        {"runs": int8s([run_id for run_id, _ in seen]), "numbers": int4s([number for _, number in seen])},
    )
