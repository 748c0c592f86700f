"""Starting runs: everything that is asked for while one write is in flight goes out with the next.

What lives here: the queue of starts and the loop that writes it. What must not: leases and turns. `store` owns one.
Like the flush of turns it has no timer: a start that is alone goes out at once.
"""

import asyncio
import secrets
from collections import deque
from dataclasses import dataclass

import msgspec
import psycopg

from perdure.errors import PayloadError
from perdure.model import codec
from perdure.model.runs import Hint, NewRun, RunId, Started
from perdure.store import records
from perdure.store.base import Taker
from perdure.store.postgres.arrays import byteas, int4s, int8, int8s, texts
from perdure.store.postgres.connection import Lane
from perdure.store.postgres.leasing import NOBODY, fence

BATCH = 500
BATCH_BYTES = 1_000_000

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True, slots=True)
class _Birth:
    """A start that waits to be written, and who waits for it."""

    new: NewRun
    event: bytes
    outside: list[bytes]
    taker: Taker | None
    answer: asyncio.Future[Started]

    @property
    def size(self) -> int:
        return len(self.event) + sum(map(len, self.outside))


class Births:
    """Writes starts, many at a time."""

    def __init__(self, lane: Lane) -> None:
        self._lane = lane
        self._waiting: deque[_Birth] = deque()
        self._task: asyncio.Task[None] | None = None

    async def start(self, new: NewRun, taker: Taker | None) -> tuple[Started, Hint]:
        """Create the run and its turn 0, or return the run that has the key or the id already."""
        records.check_texts(new.id, new.namespace, new.workflow, new.queue, new.key or "")
        (event,), outside = codec.split_payloads([records.started_event(new)], records.LARGE)
        answer: asyncio.Future[Started] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Birth(new, _encoder.encode(event), outside, taker, answer))
        if self._task is None:
            # A task begins with the next round of the event loop: whoever asks in this one comes along.
            self._task = asyncio.create_task(self._write_all(), name="perdure-start")
        started = await answer
        nobody_has_it = started.created and not started.taken
        return started, Hint(queues=frozenset({new.queue})) if nobody_has_it else Hint()

    async def close(self) -> None:
        """Let go of what is in flight."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                batch = self._next()
                try:
                    await self._write(batch)
                except Exception as error:  # noqa: BLE001  # it belongs to those who asked
                    for birth in batch:
                        if not birth.answer.done():
                            birth.answer.set_exception(error)
                finally:
                    for birth in batch:
                        birth.answer.cancel()  # those that have no answer yet: the store is closing
        finally:
            self._task = None
            for birth in self._waiting:
                birth.answer.cancel()

    def _next(self) -> list[_Birth]:
        batch, size = [self._waiting.popleft()], 0
        while self._waiting and len(batch) < BATCH and size + self._waiting[0].size < BATCH_BYTES:
            size += self._waiting[0].size
            batch.append(self._waiting.popleft())
        return batch

    async def _write(self, batch: list[_Birth]) -> None:
        """Write a batch. Starts that lost a race are not answered by the statement, and are asked for again."""
        while batch:
            try:
                rows = await self._lane.fetch("start", _parameters(batch, secrets.randbits(63)))
            except (psycopg.DataError, psycopg.IntegrityError) as error:
                if len(batch) == 1:
                    message = f"{batch[0].new.id} cannot be started: {' '.join(str(error).split())}"
                    raise PayloadError(message) from error
                for birth in batch:
                    try:
                        await self._write([birth])
                    except PayloadError as refusal:
                        if not birth.answer.done():
                            birth.answer.set_exception(refusal)
                return
            given: set[int] = set()
            for place, run_id, created, workflow, taken, created_at in sorted(rows):
                birth = batch[place - 1]
                first = run_id not in given  # after a lost answer every start of one id looks like the one that made it
                given.add(run_id)
                if taken and first and birth.taker is not None:
                    birth.taker.took(records.newborn(birth.new, RunId(run_id), created_at))
                if not birth.answer.done():
                    birth.answer.set_result(Started(RunId(run_id), created and first, workflow, taken and first))
            batch = [birth for birth in batch if not birth.answer.done()]


def _parameters(batch: list[_Birth], tag: int) -> dict[str, object]:
    new = [birth.new for birth in batch]
    # One statement has one fence: should several workers of a process want runs, the first one named gets its own.
    lease = next((birth.taker.lease for birth in batch if birth.taker is not None), None)
    outside = [(place, data) for place, birth in enumerate(batch, 1) for data in birth.outside]
    return {
        **(fence(lease) if lease is not None else NOBODY),
        "claim": int8(tag),
        "taken": int4s([int(birth.taker is not None and birth.taker.lease == lease) for birth in batch]),
        "namespaces": texts([run.namespace for run in new]),
        "instances": texts([run.id for run in new]),
        "workflows": texts([run.workflow for run in new]),
        "queues": texts([run.queue for run in new]),
        "keys": texts([run.key for run in new]),
        "priorities": int4s([run.priority for run in new]),
        "timeouts": int8s([None if run.timeout is None else round(run.timeout * 1_000_000) for run in new]),
        "events": byteas([birth.event for birth in batch]),
        "payload_places": int8s([place for place, _ in outside]),
        "payloads": byteas([data for _, data in outside]),
    }
