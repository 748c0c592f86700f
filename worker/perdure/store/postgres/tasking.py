"""What became of tasks: ends go to the inbox of their run, failed attempts wait for the next one.

What lives here: `finish`, and `heartbeat`. Tasks are claimed by `owning`, queued and dropped by `flushing`.
"""

from collections.abc import Sequence

from perdure.model import codec
from perdure.model.hints import Hint
from perdure.model.runs import Heartbeat, RunId, TaskDone, TaskResult, TaskRetry, WorkerId
from perdure.model.workers import Lease
from perdure.store.postgres import rows
from perdure.store.postgres.arrays import byteas, int4s, int8s
from perdure.store.postgres.connection import Lane
from perdure.store.postgres.leasing import fence, lost

MOST_RESULTS = 500
MOST_BYTES = 1_000_000


async def owned(lane: Lane, lease: Lease) -> list[tuple[RunId, int]]:
    """Return the tasks of a worker; raise `LeaseLostError` when the lease is gone."""
    rows = await lane.fetch("owned_tasks", fence(lease))
    if not rows:
        raise lost(lease)
    return [(RunId(run_id), seq) for run_id, seq in rows if run_id is not None]


async def heartbeat(lane: Lane, lease: Lease, beats: Sequence[Heartbeat]) -> None:
    """Keep details of attempts under way; raise `LeaseLostError` when the lease is gone."""
    part: list[Heartbeat] = []
    size = 0
    for beat in {(beat.run_id, beat.seq): beat for beat in beats}.values():  # a statement changes a row once
        part.append(beat)
        size += len(beat.details)
        if len(part) == MOST_RESULTS or size > MOST_BYTES:
            await _heartbeat(lane, lease, part)
            part, size = [], 0
    if part:
        await _heartbeat(lane, lease, part)


async def _heartbeat(lane: Lane, lease: Lease, beats: Sequence[Heartbeat]) -> None:
    parameters = {
        **fence(lease),
        "runs": int8s([beat.run_id for beat in beats]),
        "seqs": int4s([beat.seq for beat in beats]),
        "details": byteas([beat.details for beat in beats]),
    }
    if not await lane.fetch("heartbeat", parameters):
        raise lost(lease)


async def finish(lane: Lane, lease: Lease, results: Sequence[TaskResult]) -> Hint:
    """Record results of tasks that this worker still has."""
    done: list[tuple[TaskDone, bytes]] = []
    retries: list[tuple[TaskRetry, bytes]] = []
    hint = Hint()
    size = 0
    for result in results:
        if isinstance(result, TaskDone):
            body = codec.encode_message(result.event)
            done.append((result, body))
        else:
            body = rows.encode_failure(result.failure)
            retries.append((result, body))
        size += len(body)
        if len(done) + len(retries) == MOST_RESULTS or size > MOST_BYTES:
            hint |= await _finish(lane, lease, done, retries)
            done, retries, size = [], [], 0
    if done or retries:
        hint |= await _finish(lane, lease, done, retries)
    return hint


async def _finish(
    lane: Lane, lease: Lease, done: Sequence[tuple[TaskDone, bytes]], retries: Sequence[tuple[TaskRetry, bytes]]
) -> Hint:
    found = await lane.fetch(
        "finish_tasks",
        {
            **fence(lease),
            "runs": int8s([result.run_id for result, _ in done]),
            "seqs": int4s([result.seq for result, _ in done]),
            "bodies": byteas([body for _, body in done]),
            "retry_runs": int8s([result.run_id for result, _ in retries]),
            "retry_seqs": int4s([result.seq for result, _ in retries]),
            "attempts": int4s([result.attempt for result, _ in retries]),
            "delays": int8s([round(result.delay * 1_000_000) for result, _ in retries]),
            "failures": byteas([body for _, body in retries]),
        },
    )
    if not found:
        raise lost(lease)
    workers, queues, offered = found[0]
    ready, again = frozenset(queues or ()), frozenset(offered or ())
    owners = frozenset(WorkerId(worker) for worker in workers or ())
    count = (len(done) if ready else 0) + (len(retries) if again else 0)
    return Hint(workers=owners, queues=ready, tasks=again, count=count)
