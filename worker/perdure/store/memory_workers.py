"""Workers, their leases and the task table, in memory.

What lives here: `MemoryWorkers`, the middle of `memory.MemoryStore`. What must not: turns.
"""

import asyncio
import itertools
import secrets
from collections.abc import AsyncIterator, Callable, Sequence

from perdure.errors import LeaseLostError
from perdure.model.events import Microseconds
from perdure.model.hints import NOTHING, Audience, Hint
from perdure.model.runs import ClaimedTask, Heartbeat, RunId, RunState, TaskDone, TaskResult, WorkerId, move
from perdure.model.workers import Expired, Lease, Renewal, WorkerInfo
from perdure.store import records
from perdure.store.base import (
    ABSENT_BUILD,
    ABSENT_BUILD_MESSAGE,
    POISON,
    POISON_MESSAGE,
    POISONOUS,
    SUSPECT,
    UNKNOWN_WORKFLOW,
    UNKNOWN_WORKFLOW_MESSAGE,
)
from perdure.store.memory_rows import MemoryReads, RunRow, TaskRow, WorkerRow


class MemoryWorkers(MemoryReads):
    """Everything about workers, tasks and hints."""

    def __init__(self, clock: Callable[[], Microseconds] | None = None) -> None:
        super().__init__(clock)
        self._installation = secrets.token_hex(6)
        self._listeners: set[asyncio.Queue[Hint]] = set()
        self._audiences: set[Audience] = set()

    async def register(self, info: WorkerInfo) -> Lease:
        """Create a worker with a fresh id and a random epoch."""
        records.check_texts(info.namespace, info.name, info.build, *info.queues, *info.workflows)
        with self.lock:
            worker = WorkerId(next(self.worker_ids))
            epoch = secrets.randbits(63)
            expires_at = self.clock() + round(info.lease * 1_000_000)
            self.workers_by_id[worker] = WorkerRow(worker, epoch, info, expires_at)
            return Lease(worker, epoch, info.namespace, self._installation)

    def renew(self, lease: Lease) -> Renewal:
        """Extend the lease and forget the workers of this namespace whose lease expired."""
        with self.lock:
            me = self._fence(lease)
            now = self.clock()
            me.expires_at = now + round(me.info.lease * 1_000_000)
            expired = {
                worker.id
                for worker in self.workers_by_id.values()
                if worker.info.namespace == lease.namespace and worker.expires_at <= now
            }
            self._dismiss(expired)
            return Renewal(now, reaped=bool(expired))

    def _lives(self, owner: WorkerId | None) -> bool:
        worker = None if owner is None else self.workers_by_id.get(owner)
        return worker is not None and worker.expires_at > self.clock()

    def _in_force(self, lease: Lease) -> bool:
        try:
            self._fence(lease)
        except LeaseLostError:
            return False
        return True

    async def resign(self, lease: Lease) -> None:
        """Give back every owned run and task and forget the worker."""
        with self.lock:
            me = self.workers_by_id.get(lease.worker)
            if me is not None and me.epoch == lease.epoch:
                self._dismiss({lease.worker})
                self._free_orphans(lease.namespace, {lease.worker})

    async def expire(self, namespace: str, worker_name: str) -> Expired:
        """Take the leases of the workers of this name away, and give back what they had."""
        with self.lock:
            gone = {
                worker.id
                for worker in self.workers_by_id.values()
                if worker.info.namespace == namespace and worker.info.name == worker_name
            }
            self._dismiss(gone)
            vanished = self._vanished_owners() if gone else set()
            orphans = [run for run in self.runs.values() if run.namespace == namespace and run.owner in vanished]
            self._count_takeovers(namespace, vanished)
            self._free_orphans(namespace, vanished)
            return Expired(len(gone), tuple(run.key for run in orphans if run.key is not None))

    async def recover(self, lease: Lease) -> int:
        """Make ready what vanished workers had, and held runs that this worker's code may free."""
        with self.lock:
            me = self._fence(lease).info
            gone = self._vanished_owners()
            self._count_takeovers(lease.namespace, gone)
            self._hold_poison(me, gone)
            freed = self._free_orphans(lease.namespace, gone)
            for run in self.runs.values():
                if run.state is not RunState.HELD or not run.is_for(me):
                    continue
                nobodys = run.hold_reason in {UNKNOWN_WORKFLOW, ABSENT_BUILD}
                if nobodys and run.takeovers >= POISONOUS:
                    self._call_poison(run, me)
                elif nobodys or me.build not in run.held_builds:
                    run.takeovers = run.takeovers if nobodys else 0
                    self._free_held(run)
                    freed += 1
            return freed

    def _vanished_owners(self) -> set[WorkerId]:
        owners = {run.owner for run in self.runs.values()} | {task.owner for task in self._tasks()}
        return {owner for owner in owners if owner is not None and owner not in self.workers_by_id}

    async def hold_unknown(self, lease: Lease) -> int:
        """Hold ready runs that no worker can take."""
        with self.lock:
            me = self._fence(lease).info
            now = self.clock()
            alive = [w.info for w in self.workers_by_id.values() if w.expires_at > now]
            held = 0
            for run in self.runs.values():
                if run.state is not RunState.READY or run.namespace != lease.namespace or run.queue not in me.queues:
                    continue
                if not run.suspended and not any(run.is_for(worker) for worker in alive):
                    run.state = move(run.state, RunState.HELD)
                    run.hold_reason = UNKNOWN_WORKFLOW if run.build is None else ABSENT_BUILD
                    message = UNKNOWN_WORKFLOW_MESSAGE if run.build is None else ABSENT_BUILD_MESSAGE
                    run.hold_message = message.format(queue=run.queue, workflow=run.workflow, build=run.build)
                    self._changed(run)
                    held += 1
            return held

    async def claim_tasks(self, lease: Lease, limit: int, passed_over: Sequence[str] = ()) -> list[ClaimedTask]:
        """Take due tasks, those first that have waited longest."""
        with self.lock:
            me = self._fence(lease).info
            now = self.clock()
            due = [
                task
                for task in self._tasks()
                if task.owner is None
                and task.available_at <= now
                and task.queue in me.queues
                and task.name not in passed_over
                and self.runs[task.run_id].namespace == lease.namespace
            ]
            due.sort(key=lambda task: (task.available_at, task.run_id, task.seq))
            for task in due[:limit]:
                task.owner = lease.worker
            return [
                ClaimedTask(
                    run_id=task.run_id,
                    instance=self.runs[task.run_id].instance,
                    seq=task.seq,
                    queue=task.queue,
                    name=task.name,
                    input=task.input,
                    options=task.options,
                    attempt=task.attempt,
                    last_failure=task.last_failure,
                    details=self.runs[task.run_id].details.get(task.seq),
                )
                for task in due[:limit]
            ]

    async def owned_tasks(self, lease: Lease) -> list[tuple[RunId, int]]:
        """Return the tasks that this worker has."""
        with self.lock:
            self._fence(lease)
            return [(task.run_id, task.seq) for task in self._tasks() if task.owner == lease.worker]

    async def finish_tasks(self, lease: Lease, results: Sequence[TaskResult]) -> None:
        """Record what became of tasks that this worker still has."""
        with self.lock:
            self._fence(lease)
            for result in results:
                run = self.runs.get(result.run_id)
                task = run.tasks.get(result.seq) if run else None
                if run is None or task is None or task.owner != lease.worker:
                    continue
                if isinstance(result, TaskDone):
                    del run.tasks[task.seq]
                    run.put_mail(result.event)
                    self._hint_mail(run)
                else:
                    task.owner, task.attempt, task.last_failure = None, result.attempt, result.failure
                    task.available_at = self.clock() + round(result.delay * 1_000_000)
                    if result.delay == 0:
                        self.hint(Hint(tasks=frozenset({task.queue})))

    async def heartbeat(self, lease: Lease, beats: Sequence[Heartbeat]) -> None:
        """Keep the details of attempts under way."""
        with self.lock:
            self._fence(lease)
            for beat in beats:
                run = self.runs.get(beat.run_id)
                task = run.tasks.get(beat.seq) if run else None
                if run is not None and not run.state.closed and lease.worker in {run.owner, task and task.owner}:
                    run.details[beat.seq] = beat.details

    # Hints

    def hint(self, hint: Hint) -> None:
        """Wake those who listen and are meant."""
        heard = hint.only(self._audiences)
        if heard != NOTHING:
            for listener in self._listeners:
                listener.put_nowait(heard)

    def hear(self, audience: Audience) -> None:
        """Let those who listen hear what is for this audience, too."""
        self._audiences.add(audience)

    async def listen(self) -> AsyncIterator[Hint]:
        """Yield hints as they come."""
        queue: asyncio.Queue[Hint] = asyncio.Queue()
        self._listeners.add(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._listeners.discard(queue)

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    # Steps

    def _fence(self, lease: Lease) -> WorkerRow:
        worker = self.workers_by_id.get(lease.worker)
        if worker is None or worker.epoch != lease.epoch or worker.expires_at <= self.clock():
            message = f"the lease of worker {lease.worker} is gone; its runs belong to others now"
            raise LeaseLostError(message)
        return worker

    def _tasks(self) -> list[TaskRow]:
        return list(itertools.chain.from_iterable(run.tasks.values() for run in self.runs.values()))

    def _free_held(self, run: RunRow) -> None:
        run.state = move(run.state, RunState.READY)
        run.hold_reason = run.hold_message = ""
        self._changed(run)
        self.hint(Hint(queues=frozenset({run.queue})))

    def _count_takeovers(self, namespace: str, gone: set[WorkerId]) -> None:
        """Count for each orphan how often in a row its owner vanished while nothing was recorded."""
        orphans = [run for run in self.runs.values() if run.namespace == namespace and run.owner in gone]
        suspects: dict[WorkerId | None, RunRow] = {}
        for run in sorted(orphans, key=lambda run: (run.claimed_at, run.id)):
            if run.takeovers >= SUSPECT and run.taken_turn == max(run.history):
                suspects[run.owner] = run  # claimed one by one: the last one it is
        for run in orphans:
            if run.taken_turn != max(run.history):
                run.takeovers, run.taken_turn = 1, max(run.history)
            elif run.takeovers < SUSPECT or suspects[run.owner] is run:
                run.takeovers += 1

    def _hold_poison(self, me: WorkerInfo, gone: set[WorkerId]) -> None:
        for run in self.runs.values():
            free = run.state is RunState.READY or run.owner in gone
            if run.is_for(me) and run.takeovers >= POISONOUS and free:
                run.state, run.owner = move(run.state, RunState.HELD), None
                self._call_poison(run, me)

    def _call_poison(self, run: RunRow, me: WorkerInfo) -> None:
        run.hold_reason, run.hold_message = POISON, POISON_MESSAGE.format(instance=run.instance)
        run.held_builds.add(me.build)
        self._changed(run)

    def _dismiss(self, gone: set[WorkerId]) -> None:
        """Forget workers, and what closed runs had still to tell them."""
        for worker_id in gone:
            del self.workers_by_id[worker_id]
        for run in self.runs.values() if gone else ():
            if run.state.closed:
                run.inbox = {number: row for number, row in run.inbox.items() if row.owner not in gone}

    def _free_orphans(self, namespace: str, gone: set[WorkerId]) -> int:
        freed = 0
        for run in self.runs.values():
            if run.namespace != namespace:
                continue
            if run.state is RunState.OWNED and run.owner in gone:
                run.state, run.owner = move(run.state, RunState.READY), None
                self.hint(Hint(queues=frozenset({run.queue})))
                freed += 1
            for task in run.tasks.values():
                if task.owner in gone:
                    task.owner = None
                    self.hint(Hint(tasks=frozenset({task.queue})))
        return freed

    def _hint_mail(self, run: RunRow) -> None:
        if run.owner is not None:
            self.hint(Hint(workers=frozenset({run.owner})))
        elif run.state is RunState.READY:
            self.hint(Hint(queues=frozenset({run.queue})))

    def _changed(self, run: RunRow) -> None:
        if run.key is not None:
            self.changes[next(self.change_numbers)] = run.id
            self.hint(Hint(changed=True))
