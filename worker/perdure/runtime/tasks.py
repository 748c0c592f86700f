"""Activities for runs that another process owns: claimed from the task table, answered into the run's inbox.

What lives here: the loop that takes tasks while there are free slots, and the
batch of answers. What must not: turns. Each `tenure` runs one.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable

import msgspec

from perdure.errors import StoreUnavailableError
from perdure.model.events import Failure
from perdure.model.runs import ClaimedTask, TaskDone, TaskResult, TaskRetry
from perdure.model.workers import Lease
from perdure.store.base import Store

from .attempts import Attempts, Job, Retry, Verdict
from .heartbeats import Heartbeats
from .options import decode_options
from .relay import Relay
from .waiting import hinted

logger = logging.getLogger("perdure.worker")

CLAIM = 100
"""Most tasks taken at a time."""
DROPPED_POLL = 2.0
"""Seconds between two looks at which tasks under way are not wanted any more."""
UNREADABLE_DELAY = 5.0
"""Seconds before a task that only a newer release can read is offered again."""
PASSED_OVER = 60.0
"""Seconds for which activities that are not known here are left to others, before that is found and said anew."""


class TaskLoop:
    """Takes tasks and answers them."""

    def __init__(
        self,
        store: Store,
        lease: Lease,
        attempts: Attempts,
        heartbeats: Heartbeats,
        relay: Relay,
        poll: Callable[[], float],
    ) -> None:
        self._store = store
        self._lease = lease
        self._attempts = attempts
        self._heartbeats = heartbeats
        self._relay = relay
        self._poll = poll
        self._news = asyncio.Event()
        self._answers: list[TaskResult] = []
        self._draining = False
        self._mine: set[tuple[int, int]] = set()
        self._unknown: dict[str, float] = {}
        """Names of activities that others may know, and until when they are passed over."""
        self._looked_at = 0.0
        self._left_some = False
        self._doubtful = False
        self.on_rest: Callable[[], None] = lambda: None
        self.on_forgotten: Callable[[], None] = lambda: None
        """Called when the store says that a task is ours that we have answered."""

    def wake(self, *, addressed: bool = False) -> None:
        """Look for tasks now: somebody hinted, perhaps to few others but this worker."""
        if addressed and (self._draining or self._attempts.free()[0] <= 0):
            self._relay.pass_on()
        self._news.set()

    def doubt(self) -> None:
        """Find out soon whether the store has forgotten an answer: another server has it now."""
        self._doubtful = True
        self.wake()

    def has_room(self) -> None:
        """Look for tasks now if some were left for want of a slot."""
        if self._left_some:
            self._news.set()

    def drain(self) -> None:
        """Take no more tasks; answer those under way."""
        self._draining = True
        self.wake()

    @property
    def busy(self) -> bool:
        """Whether attempts are under way or answers are not written yet."""
        return bool(self._mine or self._answers)

    async def run(self) -> None:
        """Loop until cancelled."""
        while True:
            await self._answer()
            taken = await self._take()
            if taken or self._answers:
                continue
            await hinted(self._news, min(self._poll(), DROPPED_POLL) if self._mine else self._poll())
            self._news.clear()
            await self._stop_dropped()

    async def _stop_dropped(self) -> None:
        """Stop attempts whose workflow cancelled them, or whose run has closed: their tasks are gone."""
        due = self._mine and time.monotonic() - self._looked_at >= DROPPED_POLL / 2
        if not due and not self._doubtful:
            return
        self._looked_at = time.monotonic()
        asked = set(self._mine)
        try:
            there = set(await self._store.owned_tasks(self._lease))
        except StoreUnavailableError:
            return
        # What this loop takes and answers it takes and answers between two looks.
        if self._doubtful and there - asked - {(result.run_id, result.seq) for result in self._answers}:
            self.on_forgotten()
        self._doubtful = False
        for run_id, seq in (asked - there) & self._mine:
            self._mine.discard((run_id, seq))
            self._attempts.cancel(run_id, seq)
        if not self.busy:
            self.on_rest()

    async def _take(self) -> bool:
        free, full = self._attempts.free()
        limit = min(CLAIM, free)
        self._left_some = limit <= 0
        if self._draining or limit <= 0:
            return False
        try:
            tasks = await self._store.claim_tasks(self._lease, limit, (*full, *self._unknown_now()))
        except StoreUnavailableError:
            await asyncio.sleep(0.5)
            return False
        for task in tasks:
            self._begin(task)
        more = len(tasks) == limit
        self._left_some = more or bool(full)
        if more and self._attempts.free()[0] <= 0:
            self._relay.pass_on()
        return more

    def _begin(self, task: ClaimedTask) -> None:
        if task.name not in self._attempts.activities:
            if task.name not in self._unknown:
                logger.error(
                    "activity %s of %s is not known here, though this worker serves queue %s; it is left to others",
                    task.name, task.instance, task.queue, extra=_about(task),
                )  # fmt: skip
            self._unknown[task.name] = time.monotonic() + PASSED_OVER
            failure = Failure("UnknownActivity", f"a worker of queue {task.queue} does not know activity {task.name}")
            self._offer_again(task, failure, 0.0)
            return
        try:
            options = decode_options(task.options)
        except msgspec.MsgspecError as error:
            message = "only a newer release can carry out %s of %s: %s"
            logger.warning(message, task.name, task.instance, error, extra=_about(task))
            failure = Failure("UnreadableTask", f"a newer release wrote its options: {error}")
            self._offer_again(task, failure, UNREADABLE_DELAY)
            return
        self._mine.add((task.run_id, task.seq))
        job = Job(
            name=task.name,
            attempt=task.attempt,
            queue=task.queue,
            workflow_id=task.instance,
            run_id=task.run_id,
            seq=task.seq,
            input=msgspec.Raw(task.input),
            options=options,
            details=task.details,
        )
        self._attempts.submit(job, lambda _, verdict: self._ended(task, verdict))

    def _unknown_now(self) -> Iterable[str]:
        now = time.monotonic()
        for name in [name for name, until in self._unknown.items() if until <= now]:
            del self._unknown[name]
        return self._unknown

    def _offer_again(self, task: ClaimedTask, failure: Failure, delay: float) -> None:
        self._push(TaskRetry(run_id=task.run_id, seq=task.seq, attempt=task.attempt, failure=failure, delay=delay))

    def _ended(self, task: ClaimedTask, verdict: Verdict) -> None:
        self._mine.discard((task.run_id, task.seq))
        if isinstance(verdict, Retry):
            asyncio.get_running_loop().call_later(verdict.delay, self.wake)
            self._push(
                TaskRetry(
                    run_id=task.run_id,
                    seq=task.seq,
                    attempt=task.attempt + 1,
                    failure=verdict.failure,
                    delay=verdict.delay,
                )
            )
        else:
            self._push(TaskDone(run_id=task.run_id, seq=task.seq, event=verdict))

    def _push(self, result: TaskResult) -> None:
        self._answers.append(result)
        self._news.set()

    async def _answer(self) -> None:
        while self._answers:
            batch = self._answers[:500]
            try:
                await self._heartbeats.send()  # whoever makes the next attempt finds them
                await self._store.finish_tasks(self._lease, batch)
            except StoreUnavailableError:
                await asyncio.sleep(0.5)
                continue
            del self._answers[: len(batch)]
        if not self.busy:
            self.on_rest()


def _about(task: ClaimedTask) -> dict[str, object]:
    return {"workflow_id": task.instance, "run_id": task.run_id, "activity": task.name, "attempt": task.attempt}
